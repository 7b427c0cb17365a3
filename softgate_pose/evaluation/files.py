"""Files that hold predictions of annotated people: our JSON, COCO's results, MPII's ``pred.mat``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from softgate_pose._files import checked, read_json, written_whole
from softgate_pose.data.matlab import matlab_array
from softgate_pose.data.people import People, Predictions, require_keypoints
from softgate_pose.pose.skeleton import MPII

__all__ = ["read_predictions", "write_predictions"]

_FARTHEST = 1e15  # in pixels; what is computed from such numbers is finite, too

_Number = Annotated[float, Field(ge=-_FARTHEST, le=_FARTHEST)]
_Point = Annotated[list[_Number], Field(min_length=2, max_length=2)]


class _Layout(TypedDict):
    """Our JSON: each person's keypoints in the order of the names, null where one is missing."""

    keypoint_names: Annotated[list[str], Field(min_length=1)]
    keypoints: Annotated[list[list[_Point | None]], Field(min_length=1)]
    scores: NotRequired[list[list[_Number]] | None]


def write_predictions(file: Path, predictions: Predictions) -> None:
    """Write the JSON that ``read_predictions`` reads, with every digit, whole or not at all."""
    data: dict[str, Any] = {
        "keypoint_names": list(predictions.keypoint_names),
        "keypoints": [
            [point if all(map(math.isfinite, point)) else None for point in person]
            for person in predictions.keypoints.tolist()
        ],
    }
    if predictions.scores is not None:
        data["scores"] = predictions.scores.nan_to_num(0).tolist()
    with written_whole(file) as scratch:
        scratch.write_text(json.dumps(data, allow_nan=False) + "\n", encoding="utf-8")


def read_predictions(file: Path, people: People) -> Predictions | list[Any]:
    """Any system's predictions for annotated people, in their order.

    A ``.mat`` file holds MPII's ``preds`` (N, 16, 2) in 1-based pixels, which become 0-based. JSON with an object is
    what ``write_predictions`` writes; JSON with a list is COCO's results, returned as they are, for ``score_oks`` to
    check. The first two may have more keypoints than the people.
    """
    if not file.is_file():
        raise FileNotFoundError(f"No predictions: expected {file}.")
    if file.suffix.lower() == ".mat":
        predictions = _read_mat(file)
    else:
        data = read_json(file, allow_nan=False)
        if isinstance(data, list):
            return data
        predictions = _own_layout(checked(_Layout, data, str(file)), file)
    if len(predictions) != len(people):
        raise ValueError(
            f"{file} holds predictions for {len(predictions)} people, but the data have {len(people)}; "
            "expected one for each person of the data, in their order."
        )
    require_keypoints(predictions.keypoint_names, people.skeleton.keypoints, str(file))
    return predictions


def _read_mat(file: Path) -> Predictions:
    points = matlab_array(file, "preds", (None, len(MPII), 2))
    bad = np.argwhere(~(np.abs(points) <= _FARTHEST))
    if len(bad):
        raise ValueError(
            f"{file}: expected finite pixels, got {points[tuple(bad[0])]} for person {bad[0, 0]}, "
            f"{MPII.keypoints[bad[0, 1]]}. JSON can say that a keypoint is missing."
        )
    return Predictions(MPII.keypoints, torch.from_numpy(points) - 1)


def _own_layout(data: _Layout, file: Path) -> Predictions:
    names, scores = data["keypoint_names"], data.get("scores")
    if len(set(names)) < len(names):
        raise ValueError(f"{file}: keypoint_names must be different names, got {', '.join(names)}.")
    rows = [[(math.nan, math.nan) if point is None else point for point in person] for person in data["keypoints"]]
    keypoints = _table(rows, names, f"{file}: keypoints")
    if scores is not None and len(scores) != len(rows):
        raise ValueError(f"{file}: scores must be for {len(rows)} people, as keypoints are, got {len(scores)}.")
    return Predictions(tuple(names), keypoints, None if scores is None else _table(scores, names, f"{file}: scores"))


def _table(rows: Sequence[Sequence[Any]], names: Sequence[str], subject: str) -> Tensor:
    for n, row in enumerate(rows):
        if len(row) != len(names):
            raise ValueError(
                f"{subject}[{n}] must have an entry for each of the {len(names)} keypoint_names, got {len(row)}."
            )
    return torch.tensor(rows, dtype=torch.float64)
