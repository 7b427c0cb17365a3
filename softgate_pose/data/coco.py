"""COCO keypoints, of people or of anything."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from softgate_pose._files import checked, read_json, short
from softgate_pose.data.people import People
from softgate_pose.data.schema import (
    CocoFile,
    CocoRow,
    Floats,
    Key,
    describe_folder,
    find_file,
    image_name,
    require_each,
    require_near,
)
from softgate_pose.pose.skeleton import COCO, Skeleton

__all__ = ["CocoAnnotation", "CocoAnnotations", "coco_people", "find_coco", "read_coco", "read_coco_annotations"]


@dataclass(frozen=True, eq=False)
class CocoAnnotation:
    """An annotation of the category with keypoints.

    Attributes:
        image_id: The id of its image; None if an annotation without keypoints names none.
        keypoints: (K, 3) as (x, y, visibility), in 0-based pixels; all 0 where not labelled.
        box: (4,) as (x, y, width, height); 0 where there is none.
        area: In square pixels; 0 if unknown.
        is_crowd: Whether it marks a group whose people were not annotated one by one.
    """

    image_id: Key | None
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
        """Whether ``read_coco`` returns it: not a crowd, and with a labelled keypoint."""
        return not self.is_crowd and bool(self.labelled.any())


@dataclass(frozen=True, eq=False)
class CocoAnnotations:
    """COCO's keypoint annotations as they stand in the file, crowds and people without labels included.

    Attributes:
        file: The file that they are from.
        category: The one with keypoints, as it stands in the file.
        skeleton: Its keypoints and their edges.
        images: Image id to file name.
        annotations: Those of the category, in the file's order.
        category_ids: The categories of all annotations in the file.
    """

    file: Path
    category: dict[str, Any]
    skeleton: Skeleton
    images: Mapping[Key, str]
    annotations: list[CocoAnnotation]
    category_ids: frozenset[Key]

    @property
    def people(self) -> list[CocoAnnotation]:
        """Those that ``read_coco`` returns, in its order."""
        return [annotation for annotation in self.annotations if annotation.is_person]


def read_coco(root: Path, split: str) -> People:
    """COCO keypoints, of people or of anything.

    Annotations are ``annotations/person_keypoints_<split>.json``, else ``annotations/<split>.json``.
    Images lie in ``<split>/`` or ``images/``, with the folders that their names have, or where those
    names say from ``root`` on. The skeleton is the annotations' own: the one category with keypoints
    names them and their edges. A keypoint of visibility 0 is not labelled; crowds, and annotations
    without any labelled keypoint, are left out. Coordinates are taken as they are, 0-based; the box is
    the annotated one.
    """
    return coco_people(read_coco_annotations(find_coco(root, split)), root, split)


def find_coco(root: Path, split: str) -> Path:
    """The file that ``read_coco`` reads."""
    return find_file("COCO", root, f"annotations/person_keypoints_{split}.json", f"annotations/{split}.json")


def coco_people(annotations: CocoAnnotations, root: Path, split: str) -> People:
    """What ``read_coco`` returns, from annotations that have been read."""
    people, category = annotations.people, annotations.category["id"]
    if not people:
        others = "" if category in annotations.category_ids else ", ".join(map(short, annotations.category_ids))
        hint = f"; the category with keypoints is {category!r}, the annotations are of {others}" if others else ""
        raise ValueError(f"{annotations.file} holds nobody with a labelled keypoint{hint}.")
    names = [Path(annotations.images[person.image_id]) for person in people if person.image_id is not None]
    folder = _image_folder(root, split, names)
    triples = torch.from_numpy(np.stack([person.keypoints for person in people]))
    boxes = torch.from_numpy(np.stack([person.box for person in people]))
    boxes = torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1)
    return People(
        annotations.skeleton,
        tuple(folder / name for name in names),
        triples[..., :2].contiguous(),
        triples[..., 2] > 0,
        boxes,
        torch.full_like(boxes, math.nan),
        (annotations.file,),
    )


def read_coco_annotations(file: Path) -> CocoAnnotations:
    """Read COCO's keypoint annotations, of people or of anything."""
    raw = read_json(file)
    data: CocoFile = checked(CocoFile, raw, f"{file} (COCO's keypoints)")
    category, skeleton = _category(raw["categories"], file)
    images: dict[Key, str] = {}
    for image in data["images"]:
        other = images.setdefault(image["id"], image["file_name"])
        if other != image["file_name"]:
            raise ValueError(
                f"{file}: the image id {image['id']!r} belongs to both {other!r} and {image['file_name']!r}; "
                "renumber them."
            )
    rows = {i: row for i, row in enumerate(data["annotations"]) if row["category_id"] == category["id"]}
    ids = frozenset(row["category_id"] for row in data["annotations"])
    return CocoAnnotations(file, category, skeleton, images, _annotations(rows, skeleton, images, file), ids)


def _category(categories: list[dict[str, Any]], file: Path) -> tuple[dict[str, Any], Skeleton]:
    """The one category with keypoints, and its skeleton."""
    candidates = [category for category in categories if category.get("keypoints")]
    if len(candidates) != 1:
        names = ", ".join(str(category.get("name", "unnamed")) for category in candidates)
        remedy = f" ({names}); write a file for each" if candidates else ""
        raise ValueError(f"{file}: categories must be one that has keypoints, got {len(candidates)}{remedy}.")
    (category,) = candidates
    names, pairs = category["keypoints"], category.get("skeleton") or []
    if not all(1 <= end <= len(names) for pair in pairs for end in pair):
        raise ValueError(f"{file}: skeleton must count keypoints from 1 to {len(names)}, got {short(pairs)}.")
    edges = tuple((names[a - 1], names[b - 1]) for a, b in pairs)
    try:
        skeleton = Skeleton(category.get("name", "custom"), tuple(names), edges)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return category, COCO if skeleton.keypoints == COCO.keypoints else skeleton


def _annotations(
    rows: Mapping[int, CocoRow], skeleton: Skeleton, images: Mapping[Key, str], file: Path
) -> list[CocoAnnotation]:
    """The category's annotations, by their place in the file; people are checked to be in pixels and in images."""
    places, listed = list(rows), list(rows.values())

    def place(n: int, field: str = "") -> str:
        return f"{file}: annotations[{places[n]}]{field}"

    flat = [row.get("keypoints") or [0.0] * (3 * len(skeleton)) for row in listed]
    for n, numbers in enumerate(flat):
        if len(numbers) != 3 * len(skeleton):
            raise ValueError(
                f"{place(n, '.keypoints')} must be {3 * len(skeleton)} numbers, x, y and visibility of each of "
                f"{len(skeleton)} keypoints, got {len(numbers)}."
            )
    triples = np.array(flat, dtype=np.float64).reshape(-1, len(skeleton), 3)
    labelled = triples[..., 2] > 0
    require_near(triples[..., :2], labelled, skeleton, place)
    triples[~labelled] = 0
    boxes = np.array([row.get("bbox") or [0.0] * 4 for row in listed], dtype=np.float64).reshape(-1, 4)
    crowds = [bool(row.get("iscrowd")) for row in listed]
    people = labelled.any(axis=1) & ~np.array(crowds, dtype=bool)
    has_area = (boxes[:, :2] + boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    in_pixels = (boxes[:, 2:] > 1).any(axis=1)
    for right, expected in (
        (has_area, "must be x, y, width and height, and have an area"),
        (in_pixels, "must be in pixels, as keypoints are, not from 0 to 1"),
    ):
        require_each(~people | right, lambda n: place(n, ".bbox"), expected, boxes)
    for n in np.flatnonzero(people).tolist():
        image = listed[n].get("image_id")
        if image is None or image not in images:
            raise ValueError(f"{place(n, '.image_id')} must be that of one of the images, got {image!r}.")
        try:
            image_name(images[image])
        except ValueError as error:
            raise ValueError(f"{place(n)}: its image {error}, got {short(images[image])}.") from None
    return [
        CocoAnnotation(row.get("image_id"), keypoints, box, row.get("area") or 0.0, is_crowd)
        for row, keypoints, box, is_crowd in zip(listed, triples, boxes, crowds, strict=True)
    ]


def _image_folder(root: Path, split: str, images: Sequence[Path]) -> Path:
    """The folder that holds the first image that is in any; if none is, the first subfolder that exists."""
    folders = (root / split, root / "images", root)
    for image in images:
        for folder in folders:
            if os.path.isfile(folder / image):  # noqa: PTH113 (a path's own method raises on names that no file can have)
                return folder
    existing = [folder for folder in folders[:2] if folder.is_dir()]
    if not existing:
        raise FileNotFoundError(f"No COCO images: expected {folders[0]} or {folders[1]}; {describe_folder(root)}.")
    return existing[0]
