"""Annotated people, and predictions of them, each as one table whatever data set they come from."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softgate_pose.pose.skeleton import Skeleton

__all__ = ["People", "Predictions", "concatenate", "missing_images", "require_keypoints"]

_BETWEEN = {"pelvis": ("right_hip", "left_hip"), "thorax": ("right_shoulder", "left_shoulder")}
"""Keypoints that a skeleton may lack and that are taken as the middle of two others (paper, section 4)."""

_COLUMNS = ("keypoints", "labelled", "boxes", "head_boxes")


@dataclass(frozen=True, eq=False)
class People:
    """N annotated people, as columns.

    Attributes:
        skeleton: What the K keypoints are.
        images: N image files.
        keypoints: (N, K, 2) float64 as (x, y) in image pixels; 0 where not labelled.
        labelled: (N, K) bool.
        boxes: (N, 4) float64 as (x0, y0, x1, y1): the person, without the margin of a crop.
        head_boxes: (N, 4) float64, NaN where unknown.
        files: The annotation files that these people were read from.
    """

    skeleton: Skeleton
    images: tuple[Path, ...]
    keypoints: Tensor
    labelled: Tensor
    boxes: Tensor
    head_boxes: Tensor
    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: Sequence[int]) -> People:
        """These people, in this order."""
        rows = torch.as_tensor(indices, dtype=torch.long)
        images = tuple(self.images[i] for i in rows.tolist())
        return dataclasses.replace(self, images=images, **{name: getattr(self, name)[rows] for name in _COLUMNS})

    def to_skeleton(self, skeleton: Skeleton) -> People:
        """The same people with another skeleton's keypoints, by name.

        A pelvis or thorax that is missing is the middle of both hips or shoulders, where both are
        labelled; any other missing keypoint is not labelled.
        """
        keypoints = torch.zeros(len(self), len(skeleton), 2, dtype=torch.float64)
        labelled = torch.zeros(len(self), len(skeleton), dtype=torch.bool)
        for i, name in enumerate(skeleton.keypoints):
            names = (name,) if name in self.skeleton.keypoints else _BETWEEN.get(name, ())
            sources = self.skeleton.indices(names)
            if names and len(sources) == len(names):
                labelled[:, i] = self.labelled[:, sources].all(dim=1)
                keypoints[:, i] = self.keypoints[:, sources].mean(dim=1) * labelled[:, i, None]
        return dataclasses.replace(self, skeleton=skeleton, keypoints=keypoints, labelled=labelled)

    def hold_out(self, share: float, seed: int = 0) -> tuple[People, People]:
        """Split by image, at random: the people of the other images, and those of this share of the images."""
        if not 0 <= share <= 1:
            raise ValueError(f"The share of images to hold out must be from 0 to 1, got {share}.")
        images = sorted(set(self.images))
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
        chosen = {images[i] for i in order[: math.ceil(share * len(images))]}
        rows = range(len(self))
        return (
            self.select([i for i in rows if self.images[i] not in chosen]),
            self.select([i for i in rows if self.images[i] in chosen]),
        )


@dataclass(frozen=True, eq=False)
class Predictions:
    """Keypoints of N people, in the order of the data that they were predicted for.

    Attributes:
        keypoint_names: Of the K keypoints.
        keypoints: (N, K, 2) as (x, y) in image pixels, 0-based; NaN where one is missing.
        scores: (N, K), or None where none are known.
    """

    keypoint_names: tuple[str, ...]
    keypoints: Tensor
    scores: Tensor | None = None

    def __len__(self) -> int:
        return len(self.keypoints)

    def select_keypoints(self, names: Sequence[str]) -> Predictions:
        """These keypoints alone, in this order; all must have been predicted."""
        require_keypoints(self.keypoint_names, names, "The system")
        columns = [self.keypoint_names.index(name) for name in names]
        scores = None if self.scores is None else self.scores[:, columns]
        return Predictions(tuple(names), self.keypoints[:, columns], scores)


def require_keypoints(predicted: Sequence[str], wanted: Sequence[str], subject: str) -> None:
    """Raise ``ValueError`` if a keypoint that data are scored on is not predicted."""
    lacking = [name for name in wanted if name not in predicted]
    if lacking:
        raise ValueError(
            f"{subject} does not predict {', '.join(lacking)}, which the data are scored on. "
            f"It predicts {', '.join(predicted)}; score a model that was trained on the data's keypoints."
        )


def concatenate(groups: Sequence[People]) -> People:
    """All people of one or more tables with the same keypoints."""
    skeletons = {group.skeleton.keypoints for group in groups}
    if len(skeletons) != 1:
        listed = "; ".join(", ".join(keypoints) for keypoints in sorted(skeletons)) or "no people"
        raise ValueError(f"People to concatenate must have the same keypoints, got {listed}. Use to_skeleton.")
    columns: dict[str, Any] = {name: torch.cat([getattr(group, name) for group in groups]) for name in _COLUMNS}
    return dataclasses.replace(
        groups[0],
        images=tuple(image for group in groups for image in group.images),
        files=tuple(dict.fromkeys(file for group in groups for file in group.files)),
        **columns,
    )


def missing_images(people: People) -> list[Path]:
    """The image files, sorted, that these people need and that are not there."""
    # not the path's own method, which raises on names that no file can have
    return sorted(image for image in set(people.images) if not os.path.isfile(image))  # noqa: PTH113
