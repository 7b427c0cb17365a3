"""Score predictions of annotated people: a table of PCKh or PCK."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from softgate_pose.data.people import People
from softgate_pose.model.base import PoseModel
from softgate_pose.pose import geometry, metrics
from softgate_pose.pose.heatmaps import DecodeMethod
from softgate_pose.prediction.predict import predict_people

__all__ = ["Evaluation", "evaluate", "mean_pose_keypoints", "person_errors", "score_keypoints"]

_FINE_THRESHOLD = 0.1


@dataclass(frozen=True)
class Evaluation:
    """A table of percentages under a named protocol.

    Attributes:
        protocol: Its short name: ``PCKh@0.5``, ``PCK@0.2``, ``PCK@0.1 of the box`` or ``OKS AP``.
        definition: Exactly what that counts, since variants share a name.
        table: Percent by part, or by keypoint where the skeleton is not a full body; without those that have
            no labels. Of PCKh also ``mean@0.1``, the mean at a threshold of 0.1.
        people: People scored.
        left_out: People without a labelled keypoint, or without the length that the protocol measures by.
    """

    protocol: str
    definition: str
    table: dict[str, float]
    people: int
    left_out: int

    @property
    def figures(self) -> dict[str, float]:
        """The table, to two decimals."""
        return {part: round(value, 2) for part, value in self.table.items()}

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
    table = protocol.table(result)
    if protocol.table is metrics.pckh_table and "mean" in table:
        table[f"mean@{_FINE_THRESHOLD}"] = protocol.table(metrics.pck(distances, names, _FINE_THRESHOLD))["mean"]
    return Evaluation(protocol.name, protocol.definition, table, result.people, result.left_out)


def person_errors(keypoints: Tensor, people: People) -> Tensor:
    """How far off each person is, (N,) float64: the mean distance of the labelled keypoints.

    In units of the length that ``score_keypoints`` measures by; infinite where a keypoint is missing, NaN for
    people who are not scored.
    """
    return _distances(keypoints, people, _protocol_of(people)).nanmean(dim=1)


class _Protocol(NamedTuple):
    name: str
    definition: str
    threshold: float
    lengths: Tensor  # (N,) in image pixels, 0 where a person has none
    table: Callable[[metrics.PckResult], dict[str, float]]


def _protocol_of(people: People) -> _Protocol:
    names = people.skeleton.keypoints
    masked = [name for name in names if name not in metrics.mean_keypoints(names)]
    mean = "the mean is weighted by labels" + (f", without {' and '.join(masked)}" if masked else "")

    heads = metrics.head_sizes(people.head_boxes)
    if (heads > 0).any():
        definition = (
            "HRNet's evaluation: distance <= 0.5 of the head size, which is 0.6 of the head box's diagonal; "
            f"{mean}; mean@{_FINE_THRESHOLD} is the same at {_FINE_THRESHOLD}"
        )
        return _Protocol("PCKh@0.5", definition, 0.5, heads, metrics.pckh_table)

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


def mean_pose_keypoints(training: People, people: People) -> Tensor:
    """The baseline that looks at no image: each person's box filled with the mean pose of training people.

    The mean is taken for each keypoint, in units of the box; both tables have the same skeleton. Gives
    (N, K, 2) in image pixels, NaN for a keypoint that no training person has labelled.
    """
    unit = geometry.box_to_crop(training.boxes, (1, 1))
    points = geometry.transform_points(unit, training.keypoints)
    weights = training.labelled.unsqueeze(-1).double()
    mean = (points * weights).sum(dim=0) / weights.sum(dim=0)
    back = geometry.invert(geometry.box_to_crop(people.boxes, (1, 1)))
    return geometry.transform_points(back, mean.expand(len(people), -1, -1))
