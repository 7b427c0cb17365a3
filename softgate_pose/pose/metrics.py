"""PCKh and PCK, as the field computes them.

A keypoint is correct when its distance from the annotation is at most a threshold times a length of
that person: the head size (PCKh), the torso or the box (PCK). Only labelled keypoints of people that
have such a length count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softgate_pose.pose.skeleton import LIMBS, Skeleton

__all__ = [
    "PckResult",
    "box_sizes",
    "head_sizes",
    "mean_keypoints",
    "normalized_distances",
    "pck",
    "pck_table",
    "pckh_table",
    "torso_sizes",
]

HEAD_SIZE_FACTOR = 0.6
"""MPII's head size is this times the diagonal of the head box ("SC_BIAS" in its evaluation)."""

TORSO = ("left_shoulder", "right_hip")
"""The two ends of LSP's torso."""

_NOT_IN_MEAN = ("pelvis", "thorax")

_PAIRED = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")


@dataclass(frozen=True)
class PckResult:
    """Shares of correct keypoints, in percent.

    Attributes:
        per_keypoint: Name to percent; NaN where none is labelled.
        counts: Name to the number of labelled keypoints that were scored.
        people: People scored.
        left_out: People without a labelled keypoint or without a length to measure by.
        threshold: The threshold, as a share of that length.
    """

    per_keypoint: Mapping[str, float]
    counts: Mapping[str, int]
    people: int
    left_out: int
    threshold: float

    def mean(self, keypoints: Sequence[str]) -> float:
        """The mean over the named keypoints, weighted by how many of each are labelled; NaN for none."""
        total = sum(self.counts[name] for name in keypoints)
        correct = sum(self.per_keypoint[name] * self.counts[name] for name in keypoints if self.counts[name])
        return correct / total if total else float("nan")


def normalized_distances(predictions: Tensor, keypoints: Tensor, labelled: Tensor, lengths: Tensor) -> Tensor:
    """Distances in units of each person's own length, (N, K) float64; NaN where nothing is to be scored.

    A prediction that is NaN is infinitely far.

    Args:
        predictions: (N, K, 2) in image pixels.
        keypoints: (N, K, 2) in image pixels.
        labelled: (N, K) bool.
        lengths: (N,) in image pixels. People whose length is not above 0 are not scored.

    Raises:
        ValueError: If the shapes do not agree.
    """
    found = tuple(tuple(t.shape) for t in (predictions, keypoints, labelled, lengths))
    pairs = found[2]
    if len(pairs) != 2 or found != ((*pairs, 2), (*pairs, 2), pairs, pairs[:1]):
        raise ValueError(
            "predictions, keypoints, labelled and lengths must have shapes (N, K, 2), (N, K, 2), (N, K) and (N,); "
            f"got {', '.join(map(str, found))}."
        )
    distances = torch.linalg.vector_norm(predictions.double() - keypoints.double(), dim=-1)
    distances = torch.where(distances.isnan(), torch.inf, distances) / lengths.double().unsqueeze(1)
    scored = labelled.bool() & (lengths > 0).unsqueeze(1)
    return torch.where(scored, distances, torch.nan)


def pck(distances: Tensor, names: Sequence[str], threshold: float) -> PckResult:
    """The share of ``distances`` (N, K), as ``normalized_distances`` gives them, that are <= threshold."""
    scored = ~distances.isnan()
    counts = scored.sum(dim=0).tolist()
    correct = (scored & (distances <= threshold)).sum(dim=0).tolist()
    people = int(scored.any(dim=1).sum())
    return PckResult(
        {n: 100 * c / k if k else float("nan") for n, c, k in zip(names, correct, counts, strict=True)},
        dict(zip(names, counts, strict=True)),
        people,
        len(distances) - people,
        threshold,
    )


def head_sizes(head_boxes: Tensor) -> Tensor:
    """MPII's head sizes (N,) from head boxes (N, 4) as (x0, y0, x1, y1); 0 where a box is not finite."""
    diagonals: Tensor = torch.linalg.vector_norm((head_boxes[:, 2:] - head_boxes[:, :2]).double(), dim=1)
    return torch.where(diagonals.isfinite(), HEAD_SIZE_FACTOR * diagonals, 0.0)


def box_sizes(boxes: Tensor) -> Tensor:
    """The longer side (N,) of people's boxes (N, 4) as (x0, y0, x1, y1)."""
    return (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)


def torso_sizes(keypoints: Tensor, labelled: Tensor, skeleton: Skeleton) -> Tensor:
    """Left shoulder to right hip (N,), 0 where either is not labelled, from (N, K, 2) and (N, K).

    Raises:
        ValueError: If the skeleton lacks one of the two.
    """
    indices = skeleton.indices(TORSO)
    if len(indices) != 2:
        raise ValueError(f"PCK needs a left_shoulder and a right_hip; skeleton {skeleton.name!r} lacks them.")
    shoulder, hip = indices
    size = torch.linalg.vector_norm((keypoints[:, shoulder] - keypoints[:, hip]).double(), dim=-1)
    return torch.where(labelled[:, shoulder].bool() & labelled[:, hip].bool(), size, torch.zeros_like(size))


def mean_keypoints(names: Sequence[str]) -> list[str]:
    """The keypoints that ``mean`` averages: all of them; of a full body, all but pelvis and thorax.

    That is as in HRNet's evaluation.
    """
    return [name for name in names if not (_is_full_body(names) and name in _NOT_IN_MEAN)]


def pckh_table(result: PckResult) -> dict[str, float]:
    """PCKh per part, as MPII results are reported: head, six pairs of joints, mean, and the 12 limb joints.

    ``head`` is the head top alone; a pair is the plain mean of its sides; ``mean`` is over every
    keypoint but pelvis and thorax, and ``limbs`` over the limb joints, both weighted by how many of
    each are labelled. A skeleton that lacks a limb joint is reported by keypoint, with a mean over all.
    What is not labelled at all is left out: the table holds no NaN.

    Source: the evaluation published with HRNet.
    """
    return _table(result, head=("head_top",))


def pck_table(result: PckResult) -> dict[str, float]:
    """PCK per part, as LSP results are reported: as ``pckh_table``, with neck and head top as ``head``."""
    return _table(result, head=("neck", "head_top"))


def _is_full_body(names: Iterable[str]) -> bool:
    return set(LIMBS) <= set(names)


def _table(result: PckResult, head: tuple[str, ...]) -> dict[str, float]:
    names = list(result.counts)
    parts: Mapping[str, Sequence[str]] = {name: (name,) for name in names}
    averaged = {"mean": mean_keypoints(names)}
    if _is_full_body(names):
        parts = {"head": head} | {part: (f"right_{part}", f"left_{part}") for part in _PAIRED}
        averaged["limbs"] = list(LIMBS)
    table = {}
    for part, members in parts.items():
        values = [result.per_keypoint[name] for name in members if result.counts.get(name)]
        if values:
            table[part] = sum(values) / len(values)
    means = {part: result.mean(members) for part, members in averaged.items()}
    return table | {part: value for part, value in means.items() if not math.isnan(value)}
