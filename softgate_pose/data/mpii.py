"""MPII Human Pose: the official release, and the JSON layout that HRNet and mmpose read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from softgate_pose._files import checked, read_json, short
from softgate_pose.data.matlab import load_matlab, matlab_array
from softgate_pose.data.people import People
from softgate_pose.data.schema import FARTHEST, Floats, MpiiRow, find_file, image_name, require_each, require_near
from softgate_pose.pose.skeleton import MPII

__all__ = ["read_mpii_json", "read_mpii_mat"]

_PERSON = 200.0  # MPII's scale is the person's height over this many pixels
_SHIFT = 15.0  # its centre is moved down by this, times scale, to take in the feet
_RELEASE = "mpii_human_pose_v1_u12_1.mat"
_UNKNOWN = [math.nan] * 4


def read_mpii_json(root: Path, split: str) -> People:
    """MPII in the JSON layout that HRNet and mmpose read: ``annot/<split>.json`` and ``images/``.

    Coordinates in it are 1-based. Head boxes are the rows' ``head_box``, else those of ``annot/gt_<split>.mat``, if
    that exists. People without centre and scale, which the layout marks by -1, are left out.
    """
    file = find_file("MPII", root, f"annot/{split}.json")
    rows: list[MpiiRow] = checked(list[MpiiRow], read_json(file), f"{file} (MPII's JSON)")
    centre = np.array([row["center"] for row in rows], dtype=np.float64).reshape(-1, 2)
    scale = np.array([row["scale"] for row in rows], dtype=np.float64)
    placed = np.flatnonzero(np.any(np.c_[centre, scale] != -1, axis=1))
    if not len(placed):
        raise ValueError(f"{file} holds no people with centre and scale, of {len(rows)}.")
    joints = np.array([row["joints"] for row in rows], dtype=np.float64)
    labelled = np.array([[visible > 0 for visible in row["joints_vis"]] for row in rows])
    head_boxes = np.array([row.get("head_box") or _UNKNOWN for row in rows], dtype=np.float64)
    matlab, files = file.with_name(f"gt_{split}.mat"), [file]
    unknown = np.asarray(np.isnan(head_boxes).any(axis=1))
    if matlab.is_file() and unknown[placed].any():
        files.append(matlab)
        boxes = _evaluation_head_boxes(matlab, file, joints, labelled, placed)
        head_boxes[unknown] = boxes[unknown]
    images = [root / "images" / rows[i]["image"] for i in placed.tolist()]
    return _people(
        images, centre[placed], scale[placed], joints[placed], labelled[placed], head_boxes[placed], files,
        lambda n: f"{file}: [{placed[n]}]",
    )  # fmt: skip


def _evaluation_head_boxes(
    matlab: Path, file: Path, joints: Floats, labelled: NDArray[np.bool_], placed: NDArray[np.intp]
) -> Floats:
    """Head boxes (N, 4) in HRNet's evaluation file, which must have the same people in the same order."""
    boxes = matlab_array(matlab, "headboxes_src", (2, 2, None)).transpose(2, 0, 1).reshape(-1, 4)
    places = matlab_array(matlab, "pos_gt_src", (16, 2, None)).transpose(2, 0, 1)
    missing = matlab_array(matlab, "jnt_missing", (16, None)).T > 0
    remedy = f"Take both files from one release, or remove {matlab.name} to go without its head boxes"
    if not len(boxes) == len(places) == len(missing) == len(joints):
        counts = f"{len(boxes)} head boxes, {len(places)} positions and {len(missing)} rows of missing joints"
        raise ValueError(f"{matlab} has {counts}, {file.name} has {len(joints)} people. {remedy}.")
    with np.errstate(invalid="ignore"):  # infinities
        same = ~labelled | missing | (np.abs(joints - places) <= 1).all(axis=2)  # NaN is no agreement either
    for i in placed[~same[placed].all(axis=1)][:1]:
        raise ValueError(f"{matlab} and {file.name} differ in the joints of person [{i}]. {remedy}.")
    _require_near_heads(boxes[placed], lambda n: f"{matlab}: person [{placed[n]}]")
    return boxes


def read_mpii_mat(root: Path, split: str = "train") -> People:
    """MPII's official release: ``mpii_human_pose_v1_u12_1.mat`` and ``images/``.

    The file lies in ``root`` or in ``root/mpii_human_pose_v1_u12_2``, as it is unpacked. Its split
    ``train`` is all people on training images who have joints, scale and position, those of the JSON
    layout's ``valid`` among them; the joints of test images are not published. Every joint in it is labelled, hidden or
    not. Coordinates in it are 1-based.

    Source: Andriluka et al., CVPR 2014; the release's README.
    """
    if split != "train":
        raise ValueError(
            f"MPII's official release has the split train alone, got {split!r}. The train and validation lists that "
            f"publications use are in its JSON layout: mpii:FOLDER:train and mpii:FOLDER:valid."
        )
    file = find_file("MPII", root, _RELEASE, f"mpii_human_pose_v1_u12_2/{_RELEASE}")
    release = load_matlab(file, "RELEASE", structs=True)
    entries, training = _listed(_part(release, "annolist")), _part(release, "img_train")
    training = training if isinstance(training, list) else [training]
    if not entries or len(training) != len(entries):
        raise ValueError(
            f"{file} is not MPII's release: RELEASE must have annolist and one img_train for each of its images, got "
            f"{len(entries)} images and {len(training)} img_train."
        )
    places: list[str] = []
    images: list[Path] = []
    numbers: list[list[float | None]] = []
    for i, entry in enumerate(entries):
        for j, rect in enumerate(_listed(_part(entry, "annorect")) if training[i] == 1 else []):
            place = f"{file}: annolist[{i}].annorect[{j}]"
            person = _rect_numbers(rect, place)
            if person is not None:
                name = _part(_part(entry, "image"), "name")
                try:
                    images.append(root / "images" / image_name(name))
                except ValueError as error:
                    raise ValueError(f"{place}: its image {error}, got {short(name)}.") from None
                places.append(place)
                numbers.append(person)
    if not numbers:
        raise ValueError(f"{file} holds no people with joints, scale and objpos on training images.")
    table = np.array(numbers, dtype=np.float64)
    joints, head_boxes = table[:, 7:].reshape(-1, 16, 3), table[:, 3:7]
    _require_near_heads(head_boxes, places.__getitem__)
    return _people(
        images, table[:, :2], table[:, 2], joints[..., :2], joints[..., 2] > 0, head_boxes, [file], places.__getitem__
    )


def _rect_numbers(rect: Any, place: str) -> list[float | None] | None:
    """An annorect's centre (2), scale, head box (4), and x, y and whether it is labelled of each of 16 joints.

    None if it lacks joints, scale or position, as many do that are not the subject.
    """

    def number(struct: Any, name: str) -> float | None:
        value = _part(struct, name)
        if value is not None and not isinstance(value, (int, float)):
            raise ValueError(f"{place}: {name} must be a number, got {short(value)}.")
        return value

    objpos = _part(rect, "objpos")
    centre_scale = [number(objpos, "x"), number(objpos, "y"), number(rect, "scale")]
    joints = [[math.nan, math.nan, 0.0] for _ in range(16)]
    for point in _listed(_part(_part(rect, "annopoints"), "point")):
        joint, x, y = (number(point, name) for name in ("id", "x", "y"))
        if joint not in range(16):
            raise ValueError(f"{place}: id of a point must be 0 to 15, got {short(joint)}.")
        if x is not None and y is not None:
            joints[int(joint or 0)] = [x, y, 1.0]
    corners = [number(rect, name) for name in ("x1", "y1", "x2", "y2")]
    if None in centre_scale or not any(labelled for _, _, labelled in joints):
        return None
    return [*centre_scale, *(_UNKNOWN if None in corners else corners), *(value for joint in joints for value in joint)]


def _people(
    images: Sequence[Path],
    centre: Floats,
    scale: Floats,
    joints: Floats,
    labelled: NDArray[np.bool_],
    head_boxes: Floats,
    files: Sequence[Path],
    place: Callable[[int], str],
) -> People:
    """People in 0-based pixels, of N in 1-based ones, with boxes of 200 pixels times scale around the centre."""
    near = np.all(np.abs(centre) <= FARTHEST, axis=1)
    require_each(near, lambda n: f"{place(n)}.center", f"must be finite and within {FARTHEST:.0f} pixels", centre)
    require_each(
        np.logical_and(scale >= 1e-4, scale <= 1e4),  # from less than a pixel on
        lambda n: f"{place(n)}.scale",
        "must be from 0.0001 to 10000, the person's height over 200 pixels",
        scale,
    )
    require_near(joints, labelled, MPII, place)
    middle = torch.from_numpy(centre) - 1
    middle[:, 1] += _SHIFT * torch.from_numpy(scale)
    half = torch.from_numpy(_PERSON / 2 * scale).unsqueeze(1)
    return People(
        MPII,
        tuple(images),
        torch.from_numpy(np.where(labelled[..., None], joints - 1, 0.0)),
        torch.from_numpy(labelled),
        torch.cat((middle - half, middle + half), dim=1),
        torch.from_numpy(head_boxes) - 1,
        tuple(files),
    )


def _require_near_heads(boxes: Floats, place: Callable[[int], str]) -> None:
    near = ~np.any(np.abs(boxes) > FARTHEST, axis=1)  # NaN where unknown
    require_each(near, lambda n: f"{place(n)}.head_box", f"must be within {FARTHEST:.0f} pixels", boxes)


def _part(struct: Any, name: str) -> Any:
    """A field of a MATLAB struct; None if it is empty or missing, or if there is no struct."""
    value = struct.get(name) if isinstance(struct, dict) else None
    return None if value == [] else value


def _listed(value: Any) -> list[Any]:
    """The structs of a MATLAB struct array; an array of one is read as the struct itself."""
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []
