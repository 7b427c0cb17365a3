"""Readers of annotations: one for each kind of data set, all giving the same table of people."""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softgate_pose.matlab import load_matlab
from softgate_pose.people import People
from softgate_pose.pose.skeleton import COCO, LSP, MPII, Skeleton

__all__ = ["coco_file", "read_coco", "read_lsp", "read_lspet", "read_mpii_json", "read_mpii_mat", "read_people"]

_MPII_PERSON = 200.0  # MPII's scale is the person's height over this many pixels
_MPII_SHIFT = 15.0  # its centre is moved down by this, times scale, to take in the feet
_MPII_RELEASE = "mpii_human_pose_v1_u12_1.mat"
_JOINTS_MARGIN = 1.04  # box over the joints' extent: 1.25 times this is a crop of 1.3 times the extent
_UNKNOWN = np.full(4, np.nan)
_FARTHEST = 1e6  # pixels; no image is that large, and differences of what is within are exact enough
_SCALES = (1e-4, 1e4)  # of MPII; a person of less than a pixel is none

_Floats = NDArray[np.float64]


def read_people(source: str) -> People:
    """The people of ``KIND:FOLDER:SPLIT``, such as ``lsp:data/lsp:test``.

    Kinds are coco, lsp, lspet, mpii (the JSON layout) and mpii-mat (the official release).

    Raises:
        FileNotFoundError: If the folder lacks the annotations.
        ValueError: If the source is not of that form, the annotations are not what the kind has, or
            nobody is in them.
    """
    kind, folder, split = _parse_source(source)
    return _READERS[kind](folder, split)


def coco_file(source: str) -> Path | None:
    """The annotations that ``read_people`` reads for ``coco:FOLDER:SPLIT``; None for other kinds of data."""
    kind, folder, split = _parse_source(source)
    return _coco_annotations(folder, split) if kind == "coco" else None


def annotation_files(source: str) -> list[Path]:
    """All files in the folder of ``KIND:FOLDER:SPLIT`` that may be somebody's annotations."""
    folder = _parse_source(source)[1]
    return [file for pattern in ("annotations/*", "annot/*", "*.mat") for file in folder.glob(pattern)]


def _parse_source(source: str) -> tuple[str, Path, str]:
    kind, _, rest = source.partition(":")
    folder, _, split = rest.rpartition(":")
    if kind not in _READERS or not folder or not split:
        raise ValueError(f"Data is KIND:FOLDER:SPLIT with KIND one of {', '.join(_READERS)}; got {source!r}.")
    return kind, Path(folder), split


def read_lsp(root: Path, split: str) -> People:
    """Leeds Sports Pose: ``joints.mat`` (3, 14, 2000) and ``images/im0001.jpg``...

    Images 1 to 1,000 are ``train``, the rest ``test``. Every joint is labelled, hidden ones included.
    """
    if split not in ("train", "test"):
        raise ValueError(f"LSP has the splits train and test, got {split!r}.")
    file = _find("LSP", root, "joints.mat")
    joints = _matlab_array(file, "joints", (3, 14, None))  # x, y, hidden
    rows = range(joints.shape[2])[:1000] if split == "train" else range(joints.shape[2])[1000:]
    points = torch.from_numpy(joints[:2].transpose(2, 1, 0)[rows.start : rows.stop].copy()) - 1
    labelled = torch.ones(points.shape[:2], dtype=torch.bool)
    return _people_of_joints(file, split, [root / f"images/im{i + 1:04d}.jpg" for i in rows], points, labelled)


def read_lspet(root: Path, split: str = "train") -> People:
    """Leeds Sports Pose Extended: ``joints.mat`` (14, 3, N) and ``images/im00001.jpg``...; all for training.

    People without any labelled joint are left out.
    """
    if split != "train":
        raise ValueError(f"LSP-extended has the split train alone, got {split!r}.")
    file = _find("LSP-extended", root, "joints.mat")
    joints = _matlab_array(file, "joints", (14, 3, None))  # x, y, labelled
    points = torch.from_numpy(joints[:, :2].transpose(2, 0, 1).copy()) - 1
    labelled = torch.from_numpy(joints[:, 2].T > 0)
    images = [root / f"images/im{i + 1:05d}.jpg" for i in range(len(points))]
    return _people_of_joints(file, split, images, points, labelled)


def _people_of_joints(file: Path, split: str, images: list[Path], points: Tensor, labelled: Tensor) -> People:
    """People with LSP's joints whose box is the square round the labelled ones."""
    broken = (labelled & ~(points.abs() <= _FARTHEST).all(dim=-1)).nonzero().tolist()
    if broken:
        person, joint = broken[0]
        x, y = points[person, joint].tolist()
        raise ValueError(
            f"{file}: {images[person].name} has its {LSP.keypoints[joint]} at ({x}, {y}); "
            f"labelled joints must be finite, and within {_FARTHEST:.0f} pixels."
        )
    rows = labelled.any(dim=1).nonzero()[:, 0]
    if not len(rows):
        raise ValueError(f"{file} holds nobody with a labelled joint in the split {split}.")
    points, labelled = points[rows], labelled[rows]
    low = torch.where(labelled.unsqueeze(-1), points, torch.inf).amin(dim=1)
    high = torch.where(labelled.unsqueeze(-1), points, -torch.inf).amax(dim=1)
    half = (high - low).amax(dim=1, keepdim=True).clamp_min(1) * _JOINTS_MARGIN / 2
    centre = (low + high) / 2
    return People(
        LSP,
        tuple(images[i] for i in rows.tolist()),
        torch.where(labelled.unsqueeze(-1), points, 0.0),
        labelled,
        torch.cat((centre - half, centre + half), dim=1),
        torch.full((len(rows), 4), math.nan, dtype=torch.float64),
    )


@dataclass(frozen=True)
class _MpiiPerson:
    """A person as MPII annotates them, in 1-based pixels.

    Attributes:
        image: File.
        centre: (2,) as (x, y).
        scale: Height over 200 pixels.
        joints: (16, 2) as (x, y), NaN where not labelled.
        head_box: (4,) as (x1, y1, x2, y2), NaN where unknown.
    """

    image: Path
    centre: _Floats
    scale: float
    joints: _Floats
    head_box: _Floats

    def __post_init__(self) -> None:
        if not (np.abs(self.centre) <= _FARTHEST).all():
            raise ValueError(
                f"its centre must be finite, and within {_FARTHEST:.0f} pixels, got {self.centre.tolist()}"
            )
        if not _SCALES[0] <= self.scale <= _SCALES[1]:
            raise ValueError(f"its scale must be above 0, got {self.scale}; expected {_SCALES[0]} to {_SCALES[1]:.0f}")
        if (np.abs(self.head_box) > _FARTHEST).any():
            raise ValueError(f"its head box must be within {_FARTHEST:.0f} pixels, got {self.head_box.tolist()}")


def _mpii_people(persons: Sequence[_MpiiPerson]) -> People:
    """0-based, with boxes of 200 pixels times scale round the moved centre."""
    centre = torch.from_numpy(np.stack([person.centre for person in persons])) - 1
    scale = torch.tensor([person.scale for person in persons], dtype=torch.float64)
    points = torch.from_numpy(np.stack([person.joints for person in persons])) - 1
    head_boxes = torch.from_numpy(np.stack([person.head_box for person in persons])) - 1
    labelled = points.isfinite().all(dim=-1)
    centre[:, 1] += _MPII_SHIFT * scale
    half = (_MPII_PERSON / 2 * scale).unsqueeze(1)
    boxes = torch.cat((centre - half, centre + half), dim=1)
    images = tuple(person.image for person in persons)
    return People(MPII, images, torch.where(labelled.unsqueeze(-1), points, 0.0), labelled, boxes, head_boxes)


def read_mpii_json(root: Path, split: str) -> People:
    """MPII in the JSON layout that HRNet and mmpose read: ``annot/<split>.json`` and ``images/``.

    Coordinates in it are 1-based. Head boxes are the rows' ``head_box``, else those of
    ``annot/gt_<split>.mat``, if that lies there. People without centre and scale, which the layout
    marks by -1, are left out.
    """
    file = _find("MPII", root, f"annot/{split}.json")
    rows = _read_json(file)
    if not isinstance(rows, list):
        raise ValueError(f"{file} is not in MPII's JSON layout: expected a list of people, got {_kind(rows)}.")
    persons: list[_MpiiPerson | None] = []
    for i, row in enumerate(rows):
        with _naming(f"{file} is not in MPII's JSON layout: person [{i}]"):
            persons.append(_mpii_json_person(row, root / "images"))
    matlab = file.with_name(f"gt_{split}.mat")
    if matlab.is_file() and any(person is not None and np.isnan(person.head_box).any() for person in persons):
        persons = _with_head_boxes(persons, matlab, file)
    found = [person for person in persons if person is not None]
    if not found:
        raise ValueError(f"{file} holds no people with centre and scale, of {len(rows)}.")
    return _mpii_people(found)


def _mpii_json_person(row: Any, folder: Path) -> _MpiiPerson | None:
    """One row of the JSON; None if it has neither centre nor scale."""
    image = _inside(folder, _field(row, "image"))
    centre, scale = _numbers(row, "center", 2), float(_numbers(row, "scale"))
    joints, labelled = _numbers(row, "joints", 16, 2), _numbers(row, "joints_vis", 16) > 0
    head_box = _numbers(row, "head_box", 4) if row.get("head_box") else _UNKNOWN
    if scale == -1 and (centre == -1).all():
        return None
    _check_joints(joints, labelled, MPII)
    return _MpiiPerson(image, centre, scale, np.where(labelled[:, None], joints, np.nan), head_box)


def _with_head_boxes(persons: list[_MpiiPerson | None], matlab: Path, file: Path) -> list[_MpiiPerson | None]:
    """Fill in unknown head boxes from HRNet's evaluation file, which has the same people in the same order."""
    boxes = _matlab_array(matlab, "headboxes_src", (2, 2, None)).transpose(2, 0, 1).reshape(-1, 4)
    places = _matlab_array(matlab, "pos_gt_src", (16, 2, None)).transpose(2, 0, 1)
    missing = _matlab_array(matlab, "jnt_missing", (16, None)).T > 0
    remedy = f"Take both files from one release, or remove {matlab.name} to go without its head boxes"
    if not len(boxes) == len(places) == len(missing) == len(persons):
        counts = f"{len(boxes)} head boxes, {len(places)} positions and {len(missing)} rows of missing joints"
        raise ValueError(f"{matlab} has {counts}, {file.name} has {len(persons)} people. {remedy}.")
    filled: list[_MpiiPerson | None] = []
    for i, person in enumerate(persons):
        if person is not None:
            both = np.isfinite(person.joints).all(axis=1) & ~missing[i]
            if not (np.abs(person.joints - places[i])[both] <= 1).all():  # NaN is no agreement either
                raise ValueError(f"{matlab} and {file.name} differ in the joints of person [{i}]. {remedy}.")
            known = np.isfinite(person.head_box).all()
            person = person if known else replace(person, head_box=boxes[i])
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
    file = _find("MPII", root, _MPII_RELEASE, f"mpii_human_pose_v1_u12_2/{_MPII_RELEASE}")
    persons = []
    for i, entry in _mpii_training_images(file):
        for j, rect in enumerate(_listed(_part(entry, "annorect"))):
            with _naming(f"{file} is not as MPII's release: annolist [{i}], annorect [{j}]"):
                person = _mpii_mat_person(entry, rect, root / "images")
            if person is not None:
                persons.append(person)
    if not persons:
        raise ValueError(f"{file} holds no people with joints, scale and objpos on training images.")
    return _mpii_people(persons)


def _mpii_training_images(file: Path) -> list[tuple[int, Any]]:
    """The entries of annolist for training, with their indices in it."""
    release = load_matlab(file, "RELEASE", structs=True)
    images, training = _listed(_part(release, "annolist")), np.atleast_1d(_part(release, "img_train"))
    if not images or training.shape != (len(images),):
        raise ValueError(
            f"{file} is not as MPII's release: expected RELEASE with annolist and one img_train for each of its "
            f"images, got {len(images)} images and img_train of shape {training.shape}."
        )
    return [(i, images[i]) for i, is_training in enumerate(training.tolist()) if is_training == 1]


def _mpii_mat_person(entry: Any, rect: Any, folder: Path) -> _MpiiPerson | None:
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
    _check_joints(joints, labelled, MPII)
    corners = [_scalar(rect, name) for name in ("x1", "y1", "x2", "y2")]
    head_box = _UNKNOWN if None in corners else np.array(corners, dtype=np.float64)
    image = _inside(folder, _part(_part(entry, "image"), "name"))
    return _MpiiPerson(image, np.array([x, y]), scale, joints, head_box)


def read_coco(root: Path, split: str) -> People:
    """COCO keypoints, of people or of anything.

    Annotations are ``annotations/person_keypoints_<split>.json``, else ``annotations/<split>.json``.
    Images lie in ``<split>/`` or ``images/``, with the folders that their names have, or where those
    names say from ``root`` on. The skeleton is the annotations' own: the one category with keypoints
    names them and their edges. A keypoint of visibility 0 is not labelled; crowds, and annotations
    without any labelled keypoint, are left out. Coordinates are taken as they are, 0-based; the box is
    the annotated one.
    """
    file = _coco_annotations(root, split)
    layout = f"{file} is not in COCO's keypoints layout"
    data = _read_json(file)
    with _naming(layout):
        lists = {name: _list_field(data, name) for name in ("categories", "images", "annotations")}
        category, skeleton = _coco_category(lists["categories"])
        files = _coco_files(lists["images"])
    rows, seen = [], set[Any]()
    for i, annotation in enumerate(lists["annotations"]):
        with _naming(f"{layout}: annotation [{i}]"):
            seen.add(_key(annotation, "category_id"))
            if annotation["category_id"] == category and not _is_crowd(annotation):
                rows.append(_coco_person(annotation, skeleton, files))
    people = [row for row in rows if row is not None]
    if not people:
        others = "" if category in seen else ", ".join(sorted(map(repr, seen)))
        hint = f"; the category with keypoints is {category!r}, the annotations are of {others}" if others else ""
        raise ValueError(f"{file} holds nobody with a labelled keypoint{hint}.")
    folder = _image_folder(root, split, people[0][0])
    images = tuple(folder / name for name, _, _ in people)
    triples = torch.from_numpy(np.stack([triple for _, triple, _ in people]))
    boxes = torch.from_numpy(np.stack([box for _, _, box in people]))
    boxes = torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1)
    labelled = triples[..., 2] > 0
    points = torch.where(labelled.unsqueeze(-1), triples[..., :2], 0.0)
    return People(skeleton, images, points, labelled, boxes, torch.full_like(boxes, math.nan))


def _coco_annotations(root: Path, split: str) -> Path:
    return _find("COCO", root, f"annotations/person_keypoints_{split}.json", f"annotations/{split}.json")


def _coco_files(images: list[Any]) -> dict[Any, Any]:
    """Image id to file name."""
    files: dict[Any, Any] = {}
    for image in images:
        name = _field(image, "file_name")
        other = files.setdefault(_key(image, "id"), name)
        if other != name:
            raise ValueError(f"the image id {image['id']!r} is that of {other!r} and of {name!r}; number them anew")
    return files


def _coco_category(categories: list[Any]) -> tuple[Any, Skeleton]:
    """The id of the one category with keypoints, and its skeleton."""
    found = [category for category in categories if isinstance(category, dict) and category.get("keypoints")]
    if len(found) != 1:
        names = ", ".join(str(category.get("name", "unnamed")) for category in found)
        remedy = f" ({names}); write a file for each" if found else ""
        raise ValueError(f"expected one category with keypoints, found {len(found)}{remedy}")
    names = found[0]["keypoints"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"keypoints of a category must be a list of names, got {reprlib.repr(names)}")
    pairs = found[0].get("skeleton") or []
    numbers = range(1, len(names) + 1)
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(end in numbers for end in pair) for pair in pairs
    ):
        raise ValueError(
            f"skeleton must be pairs of keypoints, counted from 1 to {len(names)}, got {reprlib.repr(pairs)}"
        )
    edges = tuple((names[int(a) - 1], names[int(b) - 1]) for a, b in pairs)
    skeleton = Skeleton(str(found[0].get("name", "custom")), tuple(names), edges)
    return _key(found[0], "id"), COCO if skeleton.keypoints == COCO.keypoints else skeleton


def _is_crowd(annotation: dict[str, Any]) -> bool:
    crowd = annotation.get("iscrowd") or 0
    if not isinstance(crowd, int | float):
        raise ValueError(f"iscrowd must be 0 or 1, got {crowd!r}")
    return bool(crowd)


def _coco_person(
    annotation: dict[str, Any], skeleton: Skeleton, files: Mapping[Any, Any]
) -> tuple[Path, _Floats, _Floats] | None:
    """Image below its folder, keypoints (K, 3), and box as (x, y, width, height); None without labels."""
    if not annotation.get("keypoints"):
        return None
    triples = _numbers(annotation, "keypoints", 3 * len(skeleton)).reshape(-1, 3)
    labelled = triples[:, 2] > 0
    if not labelled.any():
        return None
    _check_joints(triples[:, :2], labelled, skeleton)
    box = _numbers(annotation, "bbox", 4)
    if not ((np.abs(box) <= _FARTHEST).all() and (box[:2] + box[2:] > box[:2]).all()):
        raise ValueError(
            f"its bbox (x, y, width, height) must be finite, within {_FARTHEST:.0f} pixels, and have an area, "
            f"got {box.tolist()}"
        )
    image = _key(annotation, "image_id")
    if image not in files:
        raise ValueError(f"its image_id {image!r} is not among the images")
    return _inside(Path(), files[image]), triples, box


def _image_folder(root: Path, split: str, image: Path) -> Path:
    """Of ``root/split``, ``root/images`` and ``root``: the first that holds the image, else that there is."""
    folders = (root / split, root / "images", root)
    existing = [folder for folder in folders[:2] if folder.is_dir()]
    # not the path's own method, which raises on names that no file can have
    holding = [folder for folder in folders if os.path.isfile(folder / image)]  # noqa: PTH113
    if not holding and not existing:
        raise FileNotFoundError(f"No COCO images: expected {folders[0]} or {folders[1]}; {_contents(root)}.")
    return (holding or existing)[0]


_READERS: dict[str, Callable[[Path, str], People]] = {
    "coco": read_coco,
    "lsp": read_lsp,
    "lspet": read_lspet,
    "mpii": read_mpii_json,
    "mpii-mat": read_mpii_mat,
}


def _find(kind: str, root: Path, *names: str) -> Path:
    """The first of these files that lies in the folder."""
    files = [root / name for name in names]
    for file in files:
        if file.is_file():
            return file
    parent = files[0].parent
    raise FileNotFoundError(
        f"No {kind} annotations: expected {' or '.join(map(str, files))}; "
        f"{_contents(parent if parent.is_dir() else root)}."
    )


def _contents(folder: Path) -> str:
    """What a folder holds, in words."""
    if not folder.exists():
        return f"there is no folder {folder}"
    if not folder.is_dir():
        return f"{folder} is no folder"
    names = sorted(entry.name for entry in folder.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{folder} holds {', '.join(names[:8])}{more}" if names else f"{folder} is empty"


def _inside(folder: Path, name: Any) -> Path:
    """An image below its folder; a name that leads out of it is refused, not cut, lest two images become one."""
    path = Path(name) if isinstance(name, str) else Path()
    if path.name in ("", ".."):
        raise ValueError(f"expected the name of an image file, got {reprlib.repr(name)}")
    if path.anchor or ".." in path.parts:
        raise ValueError(
            f"the image {reprlib.repr(name)} lies outside the folder of the images; write its path below that folder"
        )
    return folder / path


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from None


def _matlab_array(file: Path, name: str, shape: tuple[int | None, ...]) -> _Floats:
    """A numeric array of this shape, None for any size; the last axis is that of people."""
    array = np.asarray(load_matlab(file, name))
    if array.ndim == len(shape) - 1:
        array = array[..., None]  # MATLAB drops a last axis of one person
    if not _fits(array.shape, shape) or array.dtype.kind not in "biuf":
        expected = ", ".join("N" if side is None else str(side) for side in shape)
        hint = ""
        for other, kind, sides in (("LSP", "lsp", (3, 14, None)), ("LSP-extended", "lspet", (14, 3, None))):
            if name == "joints" and sides != shape and _fits(array.shape, sides):
                hint = f"; this looks like {other} (kind {kind})"
        raise ValueError(
            f"{file}: expected numbers of shape ({expected}) in {name!r}, got {array.dtype} {array.shape}{hint}."
        )
    return array.astype(np.float64)


def _fits(found: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(found) == len(shape) and all(want in (None, got) for want, got in zip(shape, found, strict=True))


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Put before the message of a ValueError what it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {str(error).removesuffix('.')}.") from None


def _kind(value: Any) -> str:
    return "a dictionary" if isinstance(value, dict) else f"{reprlib.repr(value)} ({type(value).__name__})"


def _field(row: Any, name: str) -> Any:
    if not isinstance(row, dict):
        raise ValueError(f"expected a dictionary, got {_kind(row)}")
    if name not in row:
        raise ValueError(f"{name!r} is missing")
    return row[name]


def _key(row: Any, name: str) -> int | float | str:
    value = _field(row, name)
    if not isinstance(value, (int, float, str)):
        raise ValueError(f"{name!r} must be a number or a text, got {_kind(value)}")
    return value


def _list_field(row: Any, name: str) -> list[Any]:
    value = _field(row, name)
    if not isinstance(value, list):
        raise ValueError(f"{name!r} must be a list, got {_kind(value)}")
    return value


def _numbers(row: Any, name: str, *shape: int) -> _Floats:
    """A field that must be numbers of this shape, which may be NaN."""
    value = _field(row, name)
    expected = f"{name!r} must be " + (f"numbers of shape {shape}" if shape else "a number")
    try:
        found = np.asarray(value)
    except ValueError:  # rows of different lengths
        raise ValueError(f"{expected}, got {reprlib.repr(value)}") from None
    if found.dtype.kind not in "biuf" or found.shape != shape:
        raise ValueError(f"{expected}, got {reprlib.repr(value)} of shape {found.shape}")
    return found.astype(np.float64)


def _check_joints(joints: _Floats, labelled: NDArray[np.bool_], skeleton: Skeleton) -> None:
    """Raise on the first labelled joint of one person that is nowhere near an image."""
    for k in np.flatnonzero(labelled & ~(np.abs(joints) <= _FARTHEST).all(axis=1))[:1]:
        x, y = joints[k].tolist()
        raise ValueError(
            f"its {skeleton.keypoints[k]} is at ({x}, {y}); labelled joints must be finite, "
            f"and within {_FARTHEST:.0f} pixels"
        )


def _part(struct: Any, name: str) -> Any:
    """A field of a MATLAB struct; None for one that is empty or not there, or of no struct."""
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
    if np.ndim(value) or isinstance(value, (str, dict)):
        raise ValueError(f"{name} must be a number, got {_kind(value)}")
    return float(value)
