"""Readers of annotations: one for each kind of data set, all giving the same table of people."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softgate_pose.people import People
from softgate_pose.pose.skeleton import COCO, LSP, MPII, Skeleton

__all__ = ["read_coco", "read_lsp", "read_lspet", "read_mpii_json", "read_people"]

_MPII_PERSON = 200.0  # MPII's scale is the person's height over this many pixels
_MPII_SHIFT = 15.0  # its centre is moved down by this, times scale, to take in the feet
_JOINTS_MARGIN = 1.04  # box over the joints' extent: 1.25 times this is a crop of 1.3 times the extent


def read_lsp(root: Path, split: str) -> People:
    """Leeds Sports Pose: ``joints.mat`` (3, 14, 2000) and ``images/im0001.jpg``...

    Images 1 to 1,000 are ``train``, the rest ``test``. Every joint is labelled, hidden ones included.
    """
    joints = _read_joints(root, (3, 14, None))  # x, y, hidden
    rows = {"train": range(0, 1000), "test": range(1000, joints.shape[2])}
    if split not in rows:
        raise ValueError(f"LSP has the splits train and test, got {split!r}.")
    chosen = [i for i in rows[split] if i < joints.shape[2]]
    points = torch.from_numpy(joints[:2].transpose(2, 1, 0)[chosen].copy()) - 1
    labelled = torch.ones(points.shape[:2], dtype=torch.bool)
    return _people_of_joints(LSP, [root / f"images/im{i + 1:04d}.jpg" for i in chosen], points, labelled)


def read_lspet(root: Path, split: str = "train") -> People:
    """Leeds Sports Pose Extended: ``joints.mat`` (14, 3, N) and ``images/im00001.jpg``...; all for training.

    People without any labelled joint are left out.
    """
    if split != "train":
        raise ValueError(f"LSP-extended has the split train alone, got {split!r}.")
    joints = _read_joints(root, (14, 3, None))  # x, y, labelled
    points = torch.from_numpy(joints[:, :2].transpose(2, 0, 1).copy()) - 1
    labelled = torch.from_numpy(joints[:, 2].T > 0)
    images = [root / f"images/im{i + 1:05d}.jpg" for i in range(len(points))]
    return _people_of_joints(LSP, images, points, labelled)


def read_mpii_json(root: Path, split: str) -> People:
    """MPII in the JSON layout that HRNet and mmpose read: ``annot/<split>.json`` and ``images/``.

    Coordinates in it are 1-based. ``head_box`` is optional.
    """
    file = root / "annot" / f"{split}.json"
    rows = _read_json(file)
    if not rows:
        raise ValueError(f"{file} holds no people.")
    try:
        centre = torch.tensor([row["center"] for row in rows], dtype=torch.float64) - 1
        scale = torch.tensor([row["scale"] for row in rows], dtype=torch.float64)
        points = torch.tensor([row["joints"] for row in rows], dtype=torch.float64) - 1
        labelled = torch.tensor([row["joints_vis"] for row in rows]) > 0
        unknown = [math.nan] * 4
        head_boxes = torch.tensor([row.get("head_box") or unknown for row in rows], dtype=torch.float64) - 1
        images = tuple(root / "images" / Path(row["image"]).name for row in rows)
        if centre.shape != (len(rows), 2) or not bool((scale > 0).all() and centre.isfinite().all()):
            raise ValueError("each center must be two numbers, and each scale above 0")
        if labelled.shape != points.shape[:2] or not bool(points[labelled].isfinite().all()):
            raise ValueError("joints_vis must have one value a joint, and labelled joints must be finite")
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not in MPII's JSON layout: {type(error).__name__} {error}.") from None
    if points.shape[1:] != (len(MPII), 2):
        raise ValueError(f"{file}: expected 16 joints (x, y) for each person, got {tuple(points.shape[1:])}.")
    centre[:, 1] += _MPII_SHIFT * scale
    half = (_MPII_PERSON / 2 * scale).unsqueeze(1)
    boxes = torch.cat((centre - half, centre + half), dim=1)
    return People(MPII, images, torch.where(labelled.unsqueeze(-1), points, 0.0), labelled, boxes, head_boxes)


def read_coco(root: Path, split: str) -> People:
    """COCO keypoints, of people or of anything: ``annotations/person_keypoints_<split>.json`` and ``<split>/``.

    The skeleton is the annotations' own: the one category with keypoints names them and their edges. A
    keypoint of visibility 0 is not labelled; crowds, and annotations without any labelled keypoint, are
    left out. Coordinates are taken as they are, 0-based; the box is the annotated one.
    """
    file = root / "annotations" / f"person_keypoints_{split}.json"
    data = _read_json(file)
    try:
        categories = [category for category in data["categories"] if category.get("keypoints")]
        if len(categories) != 1:
            raise ValueError(f"expected one category with keypoints, found {len(categories)}")
        names = tuple(categories[0]["keypoints"])
        edges = tuple((names[a - 1], names[b - 1]) for a, b in categories[0].get("skeleton", ()))
        skeleton = COCO if names == COCO.keypoints else Skeleton(str(categories[0].get("name", "custom")), names, edges)
        files = {image["id"]: root / split / Path(image["file_name"]).name for image in data["images"]}
        rows = [
            row
            for row in data["annotations"]
            if row["category_id"] == categories[0]["id"] and not row.get("iscrowd") and any(row["keypoints"][2::3])
        ]
        triples = torch.tensor([row["keypoints"] for row in rows], dtype=torch.float64).view(-1, len(names), 3)
        boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float64).view(-1, 4)
        images = tuple(files[row["image_id"]] for row in rows)
        labelled = triples[..., 2] > 0
        points = torch.where(labelled.unsqueeze(-1), triples[..., :2], 0.0)
        if not bool(points.isfinite().all() and boxes.isfinite().all() and (boxes[:, 2:] > 0).all()):
            raise ValueError("labelled keypoints and boxes must be finite, and boxes must have an area")
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not in COCO's keypoints layout: {type(error).__name__} {error}.") from None
    if not rows:
        raise ValueError(f"{file} holds nobody with a labelled keypoint.")
    boxes = torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1)
    return People(skeleton, images, points, labelled, boxes, torch.full_like(boxes, math.nan))


_READERS: dict[str, Callable[[Path, str], People]] = {
    "coco": read_coco,
    "lsp": read_lsp,
    "lspet": read_lspet,
    "mpii": read_mpii_json,
}


def read_people(source: str) -> People:
    """The people of ``KIND:FOLDER:SPLIT``, such as ``lsp:data/lsp:test``; kinds are coco, lsp, lspet and mpii.

    Raises:
        FileNotFoundError: If the folder lacks the annotations.
        ValueError: If the source is not of that form, or the annotations are not what the kind has.
    """
    kind, _, rest = source.partition(":")
    folder, _, split = rest.rpartition(":")
    if kind not in _READERS or not folder or not split:
        raise ValueError(f"Data is KIND:FOLDER:SPLIT with KIND one of {', '.join(_READERS)}; got {source!r}.")
    return _READERS[kind](Path(folder), split)


def _read_json(file: Path) -> Any:
    if not file.is_file():
        raise FileNotFoundError(f"No annotations: expected {file}.")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from None


def _read_joints(root: Path, shape: tuple[int | None, ...]) -> np.ndarray[Any, Any]:
    from scipy.io import loadmat  # slow to load, and only MATLAB files need it

    file = root / "joints.mat"
    if not file.is_file():
        raise FileNotFoundError(f"No LSP annotations: expected {file}.")
    try:
        joints: np.ndarray[Any, Any] = np.asarray(loadmat(file)["joints"], dtype=np.float64)
    except Exception as error:  # SciPy's reader raises many types on what is no MATLAB file
        raise ValueError(f"{file} holds no MATLAB array 'joints': {type(error).__name__} {error}") from None
    if joints.ndim != 3 or any(want not in (None, got) for want, got in zip(shape, joints.shape, strict=True)):
        expected = ", ".join("N" if side is None else str(side) for side in shape)
        raise ValueError(f"{file}: expected joints of shape ({expected}), got {joints.shape}.")
    return joints


def _people_of_joints(skeleton: Skeleton, images: list[Path], points: Tensor, labelled: Tensor) -> People:
    """People whose box is the square round their labelled joints."""
    rows = labelled.any(dim=1).nonzero()[:, 0]
    points, labelled = points[rows], labelled[rows]
    low = torch.where(labelled.unsqueeze(-1), points, torch.inf).amin(dim=1)
    high = torch.where(labelled.unsqueeze(-1), points, -torch.inf).amax(dim=1)
    half = (high - low).amax(dim=1, keepdim=True).clamp_min(1) * _JOINTS_MARGIN / 2
    centre = (low + high) / 2
    return People(
        skeleton,
        tuple(images[i] for i in rows.tolist()),
        torch.where(labelled.unsqueeze(-1), points, 0.0),
        labelled,
        torch.cat((centre - half, centre + half), dim=1),
        torch.full((len(rows), 4), math.nan, dtype=torch.float64),
    )
