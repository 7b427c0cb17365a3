"""MPII Human Pose: the official release, and the JSON layout that HRNet and mmpose read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from softgate_pose.data.fields import (
    FARTHEST,
    Floats,
    check_joints,
    describe,
    error_prefix,
    field,
    find_file,
    image_below,
    matlab_array,
    number_field,
    read_json,
)
from softgate_pose.data.matlab import load_matlab
from softgate_pose.data.people import People
from softgate_pose.pose.skeleton import MPII

__all__ = ["read_mpii_json", "read_mpii_mat"]

_PERSON = 200.0  # MPII's scale is the person's height over this many pixels
_SHIFT = 15.0  # its centre is moved down by this, times scale, to take in the feet
_RELEASE = "mpii_human_pose_v1_u12_1.mat"
_UNKNOWN = np.full(4, np.nan)
_SCALES = (1e-4, 1e4)  # a person of less than a pixel is none


@dataclass(frozen=True)
class _Person:
    """A person as MPII annotates them, in 1-based pixels.

    Attributes:
        image: File.
        centre: (2,) as (x, y).
        scale: Height over 200 pixels.
        joints: (16, 2) as (x, y), NaN where not labelled.
        head_box: (4,) as (x1, y1, x2, y2), NaN where unknown.
    """

    image: Path
    centre: Floats
    scale: float
    joints: Floats
    head_box: Floats

    def __post_init__(self) -> None:
        if not (np.abs(self.centre) <= FARTHEST).all():
            raise ValueError(f"its centre must be finite, and within {FARTHEST:.0f} pixels, got {self.centre.tolist()}")
        if not _SCALES[0] <= self.scale <= _SCALES[1]:
            raise ValueError(
                f"its scale, height over 200 pixels, must be from {_SCALES[0]} to {_SCALES[1]:.0f}, got {self.scale}"
            )
        if (np.abs(self.head_box) > FARTHEST).any():
            raise ValueError(f"its head box must be within {FARTHEST:.0f} pixels, got {self.head_box.tolist()}")


def _people(persons: Sequence[_Person]) -> People:
    """0-based, with boxes of 200 pixels times scale round the moved centre."""
    centre = torch.from_numpy(np.stack([person.centre for person in persons])) - 1
    scale = torch.tensor([person.scale for person in persons], dtype=torch.float64)
    points = torch.from_numpy(np.stack([person.joints for person in persons])) - 1
    head_boxes = torch.from_numpy(np.stack([person.head_box for person in persons])) - 1
    labelled = points.isfinite().all(dim=-1)
    centre[:, 1] += _SHIFT * scale
    half = (_PERSON / 2 * scale).unsqueeze(1)
    boxes = torch.cat((centre - half, centre + half), dim=1)
    images = tuple(person.image for person in persons)
    return People(MPII, images, torch.where(labelled.unsqueeze(-1), points, 0.0), labelled, boxes, head_boxes)


def read_mpii_json(root: Path, split: str) -> People:
    """MPII in the JSON layout that HRNet and mmpose read: ``annot/<split>.json`` and ``images/``.

    Coordinates in it are 1-based. Head boxes are the rows' ``head_box``, else those of
    ``annot/gt_<split>.mat``, if that lies there. People without centre and scale, which the layout
    marks by -1, are left out.
    """
    file = find_file("MPII", root, f"annot/{split}.json")
    rows = read_json(file)
    if not isinstance(rows, list):
        raise ValueError(f"{file} is not in MPII's JSON layout: expected a list of people, got {describe(rows)}.")
    persons: list[_Person | None] = []
    for i, row in enumerate(rows):
        with error_prefix(f"{file} is not in MPII's JSON layout: person [{i}]"):
            persons.append(_json_person(row, root / "images"))
    matlab = file.with_name(f"gt_{split}.mat")
    if matlab.is_file() and any(person is not None and np.isnan(person.head_box).any() for person in persons):
        persons = _with_head_boxes(persons, matlab, file)
    found = [person for person in persons if person is not None]
    if not found:
        raise ValueError(f"{file} holds no people with centre and scale, of {len(rows)}.")
    return _people(found)


def _json_person(row: Any, folder: Path) -> _Person | None:
    """One row of the JSON; None if it has neither centre nor scale."""
    image = image_below(folder, field(row, "image"))
    centre, scale = number_field(row, "center", 2), float(number_field(row, "scale"))
    joints, labelled = number_field(row, "joints", 16, 2), number_field(row, "joints_vis", 16) > 0
    head_box = number_field(row, "head_box", 4) if row.get("head_box") else _UNKNOWN
    if scale == -1 and (centre == -1).all():
        return None
    check_joints(joints, labelled, MPII)
    return _Person(image, centre, scale, np.where(labelled[:, None], joints, np.nan), head_box)


def _with_head_boxes(persons: list[_Person | None], matlab: Path, file: Path) -> list[_Person | None]:
    """Fill in unknown head boxes from HRNet's evaluation file, which has the same people in the same order."""
    boxes = matlab_array(matlab, "headboxes_src", (2, 2, None)).transpose(2, 0, 1).reshape(-1, 4)
    places = matlab_array(matlab, "pos_gt_src", (16, 2, None)).transpose(2, 0, 1)
    missing = matlab_array(matlab, "jnt_missing", (16, None)).T > 0
    remedy = f"Take both files from one release, or remove {matlab.name} to go without its head boxes"
    if not len(boxes) == len(places) == len(missing) == len(persons):
        counts = f"{len(boxes)} head boxes, {len(places)} positions and {len(missing)} rows of missing joints"
        raise ValueError(f"{matlab} has {counts}, {file.name} has {len(persons)} people. {remedy}.")
    filled: list[_Person | None] = []
    for i, person in enumerate(persons):
        if person is not None:
            both = np.isfinite(person.joints).all(axis=1) & ~missing[i]
            if not (np.abs(person.joints - places[i])[both] <= 1).all():  # NaN is no agreement either
                raise ValueError(f"{matlab} and {file.name} differ in the joints of person [{i}]. {remedy}.")
            if not np.isfinite(person.head_box).all():
                with error_prefix(f"{matlab}: person [{i}]"):
                    person = replace(person, head_box=boxes[i])
        filled.append(person)
    return filled


def read_mpii_mat(root: Path, split: str = "train") -> People:
    """MPII's official release: ``mpii_human_pose_v1_u12_1.mat`` and ``images/``.

    The file lies in ``root`` or in ``root/mpii_human_pose_v1_u12_2``, as it is unpacked. Its split
    ``train`` is all people on training images who have joints, scale and position, those of the JSON
    layout's ``valid`` among them; the joints of test images are not published. A joint that is given is
    labelled, hidden or not. Coordinates in it are 1-based.

    Source: Andriluka et al., CVPR 2014; the release's README.
    """
    if split != "train":
        raise ValueError(
            f"MPII's official release has the split train alone, got {split!r}. The train and validation lists that "
            f"publications use are in its JSON layout: mpii:FOLDER:train and mpii:FOLDER:valid."
        )
    file = find_file("MPII", root, _RELEASE, f"mpii_human_pose_v1_u12_2/{_RELEASE}")
    persons = []
    for i, entry in _training_images(file):
        for j, rect in enumerate(_listed(_part(entry, "annorect"))):
            with error_prefix(f"{file} is not as MPII's release: annolist [{i}], annorect [{j}]"):
                person = _mat_person(entry, rect, root / "images")
            if person is not None:
                persons.append(person)
    if not persons:
        raise ValueError(f"{file} holds no people with joints, scale and objpos on training images.")
    return _people(persons)


def _training_images(file: Path) -> list[tuple[int, Any]]:
    """The entries of annolist for training, with their indices in it."""
    release = load_matlab(file, "RELEASE", structs=True)
    images, training = _listed(_part(release, "annolist")), np.atleast_1d(_part(release, "img_train"))
    if not images or training.shape != (len(images),):
        raise ValueError(
            f"{file} is not as MPII's release: expected RELEASE with annolist and one img_train for each of its "
            f"images, got {len(images)} images and img_train of shape {training.shape}."
        )
    return [(i, images[i]) for i, is_training in enumerate(training.tolist()) if is_training == 1]


def _mat_person(entry: Any, rect: Any, folder: Path) -> _Person | None:
    """One annorect; None if it lacks joints, scale or position, as many do that are not the subject."""
    objpos = _part(rect, "objpos")
    scale, x, y = _scalar(rect, "scale"), _scalar(objpos, "x"), _scalar(objpos, "y")
    joints, labelled = np.full((16, 2), np.nan), np.zeros(16, dtype=bool)
    for point in _listed(_part(_part(rect, "annopoints"), "point")):
        joint, place = _scalar(point, "id"), (_scalar(point, "x"), _scalar(point, "y"))
        if joint is None or joint not in range(16):
            raise ValueError(f"the id of a point must be 0 to 15, got {joint}")
        if None not in place:
            joints[int(joint)], labelled[int(joint)] = place, True
    if scale is None or x is None or y is None or not labelled.any():
        return None
    check_joints(joints, labelled, MPII)
    corners = [_scalar(rect, name) for name in ("x1", "y1", "x2", "y2")]
    head_box = _UNKNOWN if None in corners else np.array(corners, dtype=np.float64)
    image = image_below(folder, _part(_part(entry, "image"), "name"))
    return _Person(image, np.array([x, y]), scale, joints, head_box)


def _part(struct: Any, name: str) -> Any:
    """A field of a MATLAB struct; None if it is empty or missing, or if there is no struct."""
    value = struct.get(name) if isinstance(struct, dict) else None
    return None if isinstance(value, np.ndarray) and not value.size else value


def _listed(value: Any) -> list[Any]:
    """The structs of a MATLAB struct array, which is a struct itself where it has one."""
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []


def _scalar(struct: Any, name: str) -> float | None:
    """A number in a MATLAB struct; None for one that is empty or not there."""
    value = _part(struct, name)
    if value is None:
        return None
    if np.ndim(value) or isinstance(value, (str, dict)) or np.iscomplexobj(value):
        raise ValueError(f"{name} must be a number, got {describe(value)}")
    return float(value)
