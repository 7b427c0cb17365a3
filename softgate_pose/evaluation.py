"""Weights and a data set to a table of PCKh and PCK."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from softgate_pose.config import PoseConfig
from softgate_pose.images import load_image, normalize
from softgate_pose.model.network import PoseModel
from softgate_pose.people import People
from softgate_pose.pose import geometry, metrics
from softgate_pose.pose.heatmaps import DecodeMethod
from softgate_pose.prediction import BOX_SCALE, predict_crops
from softgate_pose.prediction_files import Predictions, require_keypoints

__all__ = [
    "Evaluation",
    "calibration_images",
    "crop_people",
    "evaluate",
    "mean_pose_keypoints",
    "person_errors",
    "predict_people",
    "score_keypoints",
]

_CALIBRATION_IMAGES = 64  # as many give ranges that do not cost accuracy


@dataclass(frozen=True)
class Evaluation:
    """A table of percentages under a named protocol.

    Attributes:
        protocol: Its short name: ``PCKh@0.5``, ``PCK@0.2`` or ``PCK@0.1 of the box``.
        definition: What exactly that counts, as variants of each name differ.
        table: Part, or keypoint of a skeleton that is no full body, to percent; what has no labels is not in it.
        mean_fine: The mean PCKh at a threshold of 0.1, printed as ``mean@0.1``; None for other protocols.
        people: People scored.
        left_out: People without a labelled keypoint, or without the length that the protocol measures by.
    """

    protocol: str
    definition: str
    table: dict[str, float]
    mean_fine: float | None
    people: int
    left_out: int

    @property
    def figures(self) -> dict[str, float]:
        """The table, and ``mean@0.1`` where there is one, to two decimals."""
        fine = {} if self.mean_fine is None else {"mean@0.1": self.mean_fine}
        return {part: round(value, 2) for part, value in {**self.table, **fine}.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: protocol, people, left_out and each figure."""
        return {"protocol": self.protocol, "people": self.people, "left_out": self.left_out, **self.figures}


def evaluate(
    model: PoseModel,
    people: People,
    *,
    flip_test: bool = False,
    decode: DecodeMethod = "dark",
    batch_size: int = 32,
    progress: bool = False,
) -> Evaluation:
    """Predict all people with ``predict_people``, whose arguments these are, and score them.

    Raises:
        ValueError: If the model's skeleton lacks a keypoint that is to be scored.
    """
    predictions = predict_people(
        model, people, flip_test=flip_test, decode=decode, batch_size=batch_size, progress=progress
    )
    return score_keypoints(predictions.select_keypoints(people.skeleton.keypoints).keypoints, people)


def score_keypoints(keypoints: Tensor, people: People) -> Evaluation:
    """Score keypoints (N, K, 2), in image pixels and in the order of the people's own skeleton.

    Data with head boxes are scored as PCKh@0.5; others with a torso, left shoulder to right hip, as
    PCK@0.2; what has neither as PCK@0.1 of the longer side of each person's box.

    Raises:
        ValueError: If the shapes do not agree.
    """
    protocol = _protocol_of(people)
    names, distances = people.skeleton.keypoints, _distances(keypoints, people, protocol)
    result = metrics.pck(distances, names, protocol.threshold)
    fine = protocol.table(metrics.pck(distances, names, 0.1)).get("mean") if protocol.has_fine else None
    return Evaluation(protocol.name, protocol.definition, protocol.table(result), fine, result.people, result.left_out)


def person_errors(keypoints: Tensor, people: People) -> Tensor:
    """How far each person's keypoints are off: what finds the worst people.

    Args:
        keypoints: (N, K, 2), as for ``score_keypoints``.
        people: Whom they were predicted for.

    Returns:
        (N,) float64: the mean over the labelled keypoints of the distance, in units of the length that
        ``score_keypoints`` measures by; infinite where a keypoint is missing, NaN for who is not scored.
    """
    return _distances(keypoints, people, _protocol_of(people)).nanmean(dim=1)


@dataclass(frozen=True)
class _Protocol:
    name: str
    definition: str
    threshold: float
    lengths: Tensor
    """(N,) in image pixels, 0 where a person has none."""
    table: Callable[[metrics.PckResult], dict[str, float]]
    has_fine: bool = False


def _protocol_of(people: People) -> _Protocol:
    names = people.skeleton.keypoints
    masked = [name for name in names if name not in metrics.mean_keypoints(names)]
    mean = "the mean is weighted by labels" + (f", without {' and '.join(masked)}" if masked else "")

    heads = metrics.head_sizes(people.head_boxes)
    if (heads > 0).any():
        definition = (
            "HRNet's evaluation: distance <= 0.5 of the head size, which is 0.6 of the head box's diagonal; "
            f"{mean}; mean@0.1 is the same at 0.1"
        )
        return _Protocol("PCKh@0.5", definition, 0.5, heads, metrics.pckh_table, has_fine=True)

    if len(people.skeleton.indices(metrics.TORSO)) == len(metrics.TORSO):
        torsos = metrics.torso_sizes(people.keypoints, people.labelled, people.skeleton)
        if (torsos > 0).any():
            definition = (
                f"LSP's protocol, person-centric: distance <= 0.2 of the torso, left shoulder to right hip; {mean}"
            )
            return _Protocol("PCK@0.2", definition, 0.2, torsos, metrics.pck_table)

    definition = f"distance <= 0.1 of the longer side of the person's box; {mean}"
    return _Protocol("PCK@0.1 of the box", definition, 0.1, metrics.box_sizes(people.boxes), metrics.pck_table)


def _distances(keypoints: Tensor, people: People, protocol: _Protocol) -> Tensor:
    return metrics.normalized_distances(keypoints, people.keypoints, people.labelled, protocol.lengths)


def predict_people(
    model: PoseModel,
    people: People,
    *,
    flip_test: bool = False,
    decode: DecodeMethod = "dark",
    batch_size: int = 32,
    progress: bool = False,
) -> Predictions:
    """Predict annotated people, from crops around their boxes, as ``predict`` cuts them.

    Args:
        model: From ``create_model``.
        people: From ``read_people``.
        flip_test: Average with the mirrored crops' heatmaps.
        decode: See ``decode_heatmaps``.
        batch_size: People that go through the network together.
        progress: Show a bar.

    Returns:
        The model's keypoints and their scores, on the CPU.

    Raises:
        ValueError: If the model lacks a keypoint of the people's, on which it is to be scored, or
            ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    config, device = model.config, next(model.parameters()).device
    require_keypoints(config.skeleton.keypoints, people.skeleton.keypoints, config.name)
    matrices = geometry.box_to_crop(people.boxes, config.input_size, BOX_SCALE)
    keypoints, scores = [torch.zeros(0, config.num_keypoints, 2)], [torch.zeros(0, config.num_keypoints)]
    for start in tqdm(range(0, len(people), batch_size), "evaluating", disable=not progress, leave=False):
        chunk = range(start, min(start + batch_size, len(people)))
        crops = crop_people(people, chunk, config)
        points, peaks = predict_crops(model, crops.to(device), flip_test=flip_test, decode=decode)
        back = geometry.invert(matrices[chunk.start : chunk.stop])
        keypoints.append(geometry.transform_points(back, points.float().cpu()))
        scores.append(peaks.float().cpu())
    return Predictions(config.skeleton.keypoints, torch.cat(keypoints), torch.cat(scores))


def calibration_images(people: People, config: PoseConfig) -> Tensor:
    """Normalised crops of people from all over a table, (N, C, H, W), for ``export_model(calibration=)``."""
    step = max(1, len(people) // _CALIBRATION_IMAGES)
    return normalize(crop_people(people, range(len(people))[::step][:_CALIBRATION_IMAGES], config), config)


def crop_people(people: People, indices: Sequence[int], config: PoseConfig) -> Tensor:
    """Crops (N, C, H, W) around some people's boxes, colours in 0..255, of the config's input size."""
    matrices = geometry.box_to_crop(people.boxes[list(indices)], config.input_size, BOX_SCALE)
    images = (load_image(people.images[i], config.in_chans) for i in indices)
    return torch.cat(
        [geometry.crop(image, matrix[None], config.input_size) for image, matrix in zip(images, matrices, strict=True)]
    )


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
