"""Weights and a data set to a table of PCKh and PCK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from softgate_pose.images import load_image
from softgate_pose.model.network import SoftGatePose
from softgate_pose.people import People
from softgate_pose.pose import geometry, metrics
from softgate_pose.pose.heatmaps import DecodeMethod
from softgate_pose.prediction import BOX_SCALE, predict_crops

__all__ = ["Evaluation", "evaluate", "mean_pose_keypoints", "predict_people", "score_keypoints"]


@dataclass(frozen=True)
class Evaluation:
    """A table of percentages by part, under a named protocol.

    Attributes:
        protocol: ``PCKh@0.5`` where head boxes are known, else ``PCK@0.2``.
        table: Part to percent.
        mean_fine: The mean PCKh at a threshold of 0.1, printed as ``mean@0.1``; None for PCK.
        people: People scored.
        left_out: People without a labelled keypoint, or without a head box or torso.
    """

    protocol: str
    table: dict[str, float]
    mean_fine: float | None
    people: int
    left_out: int

    def to_dict(self) -> dict[str, Any]:
        figures = {part: round(value, 2) for part, value in self.table.items()}
        if self.mean_fine is not None:
            figures["mean@0.1"] = round(self.mean_fine, 2)
        return {"protocol": self.protocol, "people": self.people, "left_out": self.left_out, **figures}


def evaluate(
    model: SoftGatePose,
    people: People,
    *,
    flip_test: bool = False,
    decode: DecodeMethod = "dark",
    batch_size: int = 32,
    progress: bool = False,
) -> Evaluation:
    """Predict all people, from crops around their annotated boxes, and score them.

    Raises:
        ValueError: If the model's skeleton lacks a keypoint that is to be scored.
    """
    names = model.config.skeleton.keypoints
    lacking = [name for name in people.skeleton.keypoints if name not in names]
    if lacking:
        raise ValueError(f"{model.config.name} does not predict {', '.join(lacking)}, which the data are scored on.")
    keypoints = predict_people(
        model, people, flip_test=flip_test, decode=decode, batch_size=batch_size, progress=progress
    )
    return score_keypoints(keypoints[:, model.config.skeleton.indices(people.skeleton.keypoints)], people)


def score_keypoints(keypoints: Tensor, people: People) -> Evaluation:
    """Score keypoints (N, K, 2), in image pixels and in the order of the people's own skeleton.

    Data with head boxes are scored as PCKh@0.5, others as PCK@0.2 of the torso.
    """
    by_head = bool(people.head_boxes.isfinite().all(dim=1).any())
    if by_head:
        lengths = metrics.head_sizes(people.head_boxes).nan_to_num(0)
    else:
        lengths = metrics.torso_sizes(people.keypoints, people.labelled, people.skeleton)
    distances = metrics.normalized_distances(keypoints, people.keypoints, people.labelled, lengths)
    names = people.skeleton.keypoints
    result = metrics.pck(distances, names, 0.5 if by_head else 0.2)
    if not by_head:
        return Evaluation("PCK@0.2", metrics.pck_table(result), None, result.people, result.left_out)
    fine = metrics.pckh_table(metrics.pck(distances, names, 0.1))["mean"]
    return Evaluation("PCKh@0.5", metrics.pckh_table(result), fine, result.people, result.left_out)


def predict_people(
    model: SoftGatePose,
    people: People,
    *,
    flip_test: bool = False,
    decode: DecodeMethod = "dark",
    batch_size: int = 32,
    progress: bool = False,
) -> Tensor:
    """Keypoints (N, K, 2) of annotated people in image pixels, K the model's; crops as for ``predict``."""
    config, device = model.config, next(model.parameters()).device
    matrices = geometry.box_to_crop(people.boxes, config.input_size, BOX_SCALE)
    found = []
    for start in tqdm(range(0, len(people), batch_size), "evaluating", disable=not progress, leave=False):
        chunk = range(start, min(start + batch_size, len(people)))
        crops = torch.cat(
            [
                geometry.crop(load_image(people.images[i], config.in_chans), matrices[i : i + 1], config.input_size)
                for i in chunk
            ]
        )
        points, _ = predict_crops(model, crops.to(device), flip_test=flip_test, decode=decode)
        found.append(geometry.transform_points(geometry.invert(matrices[chunk.start : chunk.stop]), points.cpu()))
    return torch.cat(found) if found else torch.zeros(0, config.num_keypoints, 2)


def mean_pose_keypoints(training: People, people: People) -> Tensor:
    """The baseline that looks at no image: each person's box filled with the mean pose of training people.

    Args:
        training: Their mean is taken per keypoint, in units of the box.
        people: To be predicted; of the same skeleton.

    Returns:
        (N, K, 2) in image pixels.
    """
    unit = geometry.box_to_crop(training.boxes, (1, 1))
    points = geometry.transform_points(unit, training.keypoints)
    weights = training.labelled.unsqueeze(-1).double()
    mean = (points * weights).sum(dim=0) / weights.sum(dim=0).clamp_min(1)
    back = geometry.invert(geometry.box_to_crop(people.boxes, (1, 1)))
    return geometry.transform_points(back, mean.expand(len(people), -1, -1))
