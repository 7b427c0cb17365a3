"""COCO keypoints, of people or of anything."""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from softgate_pose.data.fields import (
    FARTHEST,
    Floats,
    check_joints,
    describe_folder,
    error_prefix,
    field,
    find_file,
    image_below,
    key_field,
    list_field,
    number_field,
    read_json,
)
from softgate_pose.data.people import People
from softgate_pose.pose.skeleton import COCO, Skeleton

__all__ = ["CocoAnnotation", "CocoAnnotations", "coco_people", "find_coco", "read_coco", "read_coco_annotations"]


@dataclass(frozen=True, eq=False)
class CocoAnnotation:
    """An annotation of the category with keypoints.

    Attributes:
        image_id: The id of its image; None for an annotation without keypoints that names none.
        keypoints: (K, 3) as (x, y, visibility), in 0-based pixels; all 0 where not labelled.
        box: (4,) as (x, y, width, height); 0 where there is none.
        area: In square pixels; 0 where it is not known.
        is_crowd: Whether it marks a group whose people were not annotated one by one.
    """

    image_id: int | float | str | None
    keypoints: Floats
    box: Floats
    area: float
    is_crowd: bool

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(K,): which keypoints are labelled, visible or hidden."""
        return np.asarray(self.keypoints[:, 2] > 0)

    @property
    def is_person(self) -> bool:
        """Whether ``read_coco`` gives it: not a crowd, and with a labelled keypoint."""
        return not self.is_crowd and bool(self.labelled.any())


@dataclass(frozen=True, eq=False)
class CocoAnnotations:
    """COCO's keypoint annotations as they stand in the file, crowds and people without labels included.

    Attributes:
        file: Where they are from.
        category: The one with keypoints, as it stands in the file.
        skeleton: Its keypoints and their edges.
        images: Image id to file name.
        annotations: Those of the category, in the file's order.
        category_ids: The categories of all annotations in the file.
    """

    file: Path
    category: dict[str, Any]
    skeleton: Skeleton
    images: Mapping[Any, Any]
    annotations: list[CocoAnnotation]
    category_ids: frozenset[Any]

    @property
    def people(self) -> list[CocoAnnotation]:
        """Those that ``read_coco`` gives, in its order."""
        return [annotation for annotation in self.annotations if annotation.is_person]


def read_coco(root: Path, split: str) -> People:
    """COCO keypoints, of people or of anything.

    Annotations are ``annotations/person_keypoints_<split>.json``, else ``annotations/<split>.json``.
    Images lie in ``<split>/`` or ``images/``, with the folders that their names have, or where those
    names say from ``root`` on. The skeleton is the annotations' own: the one category with keypoints
    names them and their edges. A keypoint of visibility 0 is not labelled; crowds, and annotations
    without any labelled keypoint, are left out. Coordinates are taken as they are, 0-based; the box is
    the annotated one.

    Raises:
        FileNotFoundError: If there are no annotations, or no folder of images.
        ValueError: If the file is not in COCO's keypoints layout, or nobody in it has a labelled keypoint.
    """
    return coco_people(read_coco_annotations(find_coco(root, split)), root, split)


def coco_people(found: CocoAnnotations, root: Path, split: str) -> People:
    """What ``read_coco`` gives, of annotations that are read already; raises as it does."""
    people = found.people
    if not people:
        category = found.category["id"]
        others = "" if category in found.category_ids else ", ".join(sorted(map(repr, found.category_ids)))
        hint = f"; the category with keypoints is {category!r}, the annotations are of {others}" if others else ""
        raise ValueError(f"{found.file} holds nobody with a labelled keypoint{hint}.")
    names = [Path(found.images[person.image_id]) for person in people]
    folder = _image_folder(root, split, names)
    triples = torch.from_numpy(np.stack([person.keypoints for person in people]))
    boxes = torch.from_numpy(np.stack([person.box for person in people]))
    boxes = torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1)
    return People(
        found.skeleton,
        tuple(folder / name for name in names),
        triples[..., :2].contiguous(),
        triples[..., 2] > 0,
        boxes,
        torch.full_like(boxes, math.nan),
    )


def find_coco(root: Path, split: str) -> Path:
    """The file that ``read_coco`` reads.

    Raises:
        FileNotFoundError: If there is none.
    """
    return find_file("COCO", root, f"annotations/person_keypoints_{split}.json", f"annotations/{split}.json")


def read_coco_annotations(file: Path) -> CocoAnnotations:
    """Read COCO's keypoint annotations, of people or of anything.

    Raises:
        ValueError: If the file is not in COCO's keypoints layout.
    """
    layout = f"{file} is not in COCO's keypoints layout"
    data = read_json(file)
    with error_prefix(layout):
        categories, images, rows = (list_field(data, name) for name in ("categories", "images", "annotations"))
        category, skeleton = _category(categories)
        files = _file_names(images)
    annotations, category_ids = [], set[Any]()
    for i, row in enumerate(rows):
        with error_prefix(f"{layout}: annotation [{i}]"):
            category_ids.add(key_field(row, "category_id"))
            if row["category_id"] == category["id"]:
                annotations.append(_annotation(row, skeleton, files))
    return CocoAnnotations(file, category, skeleton, files, annotations, frozenset(category_ids))


def _file_names(images: list[Any]) -> dict[Any, Any]:
    """Image id to file name."""
    files: dict[Any, Any] = {}
    for image in images:
        name = field(image, "file_name")
        other = files.setdefault(key_field(image, "id"), name)
        if other != name:
            raise ValueError(f"the image id {image['id']!r} is that of {other!r} and of {name!r}; number them anew")
    return files


def _category(categories: list[Any]) -> tuple[dict[str, Any], Skeleton]:
    """The one category with keypoints, and its skeleton."""
    found = [category for category in categories if isinstance(category, dict) and category.get("keypoints")]
    if len(found) != 1:
        names = ", ".join(str(category.get("name", "unnamed")) for category in found)
        remedy = f" ({names}); write a file for each" if found else ""
        raise ValueError(f"expected one category with keypoints, found {len(found)}{remedy}")
    (category,) = found
    key_field(category, "id")
    names = category["keypoints"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"keypoints of a category must be a list of names, got {reprlib.repr(names)}")
    pairs = category.get("skeleton") or []
    numbers = range(1, len(names) + 1)
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(end in numbers for end in pair) for pair in pairs
    ):
        raise ValueError(
            f"skeleton must be pairs of keypoints, counted from 1 to {len(names)}, got {reprlib.repr(pairs)}"
        )
    edges = tuple((names[int(a) - 1], names[int(b) - 1]) for a, b in pairs)
    skeleton = Skeleton(str(category.get("name", "custom")), tuple(names), edges)
    return category, COCO if skeleton.keypoints == COCO.keypoints else skeleton


def _annotation(row: dict[str, Any], skeleton: Skeleton, files: Mapping[Any, Any]) -> CocoAnnotation:
    """An annotation, checked; a field that is null counts as missing."""
    image = None if row.get("image_id") is None else key_field(row, "image_id")
    keypoints, box, area = np.zeros((len(skeleton), 3)), np.zeros(4), 0.0
    if row.get("keypoints"):
        keypoints = number_field(row, "keypoints", 3 * len(skeleton)).reshape(-1, 3)
        labelled = keypoints[:, 2] > 0
        check_joints(keypoints[:, :2], labelled, skeleton)
        keypoints = np.where(labelled[:, None], keypoints, 0)
    if row.get("area") is not None:
        area = float(number_field(row, "area"))
    is_crowd = _is_crowd(row)
    if row.get("bbox") or (keypoints.any() and not is_crowd):
        box = number_field(row, "bbox", 4)
    found = CocoAnnotation(image, keypoints, box, area, is_crowd)
    if not (np.abs(box) <= FARTHEST).all() or (found.is_person and not (box[:2] + box[2:] > box[:2]).all()):
        raise ValueError(
            f"its bbox (x, y, width, height) must be finite, within {FARTHEST:.0f} pixels, and have an area, "
            f"got {box.tolist()}"
        )
    if found.is_person and (box[2:] <= 1).all():
        raise ValueError(
            f"its bbox is at most a pixel wide and high, got {box.tolist()}; boxes and keypoints are in pixels, "
            "not from 0 to 1"
        )
    if not math.isfinite(area):
        raise ValueError(f"its area must be finite, got {area}")
    if found.is_person:
        if key_field(row, "image_id") not in files:
            raise ValueError(f"its image_id {image!r} is not among the images")
        image_below(Path(), files[image])
    return found


def _is_crowd(row: dict[str, Any]) -> bool:
    crowd = row.get("iscrowd") or 0
    if not isinstance(crowd, int | float):
        raise ValueError(f"iscrowd must be 0 or 1, got {crowd!r}")
    return bool(crowd)


def _image_folder(root: Path, split: str, images: Sequence[Path]) -> Path:
    """The one of ``root/split``, ``root/images`` and ``root`` that holds the first image found in any of them.

    If all images are missing, the first of the two subfolders that exists.
    """
    folders = (root / split, root / "images", root)
    for image in images:
        for folder in folders:
            if os.path.isfile(folder / image):  # noqa: PTH113 (a path's own method raises on names that no file can have)
                return folder
    existing = [folder for folder in folders[:2] if folder.is_dir()]
    if not existing:
        raise FileNotFoundError(f"No COCO images: expected {folders[0]} or {folders[1]}; {describe_folder(root)}.")
    return existing[0]
