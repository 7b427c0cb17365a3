"""Files that hold predictions of annotated people: our JSON, COCO's results, MPII's ``pred.mat``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softgate_pose._files import written_whole
from softgate_pose.data.fields import matlab_array, read_json
from softgate_pose.data.people import People, Predictions, require_keypoints
from softgate_pose.pose.skeleton import MPII

__all__ = ["CocoResult", "read_predictions", "write_predictions"]

CocoResult = dict[str, Any]
"""An entry of COCO's results format: ``image_id``, ``category_id``, ``keypoints`` flat as x, y, s, and ``score``."""

_LAYOUT = '{"keypoint_names": [...], "keypoints": [[[x, y], ...], ...]}'


_LARGEST_NUMBER = 1e300  # so that differences are finite, too


def write_predictions(file: Path, predictions: Predictions) -> None:
    """Write the JSON that ``read_predictions`` reads: whole or not at all, and every digit of each number."""
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


def read_predictions(file: Path, people: People) -> Predictions | list[CocoResult]:
    """Read what any system predicted for annotated people.

    Args:
        file: One of

            - ``.mat``: MPII's, as HRNet writes it: ``preds`` (N, 16, 2), in 1-based pixels, which become
              0-based here.
            - JSON ``{"keypoint_names": [...], "keypoints": [[[x, y], ...], ...]}``: one entry for each
              person, in 0-based pixels; ``null`` for a keypoint that is missing. ``scores`` (N, K) may
              stand beside them.
            - JSON, a list: COCO's results, whose keypoints are those of the people's skeleton.
        people: Whom they are for, in the same order, but for COCO's results.

    Returns:
        For COCO's results the list as it is; for others the predictions, whose keypoints are named, and
        may be more than the people's.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is none of these, holds another number of people, lacks a keypoint of theirs,
            or holds a number that is not finite.
    """
    if not file.is_file():
        raise FileNotFoundError(f"No predictions: expected {file}.")
    if file.suffix.lower() == ".mat":
        predictions = _read_mat(file)
    else:
        data = read_json(file, allow_nan=False)
        if isinstance(data, list):
            return _coco_results(data, people.skeleton.keypoints, file)
        predictions = _own_layout(data, file)
    if len(predictions) != len(people):
        raise ValueError(
            f"{file} holds predictions for {len(predictions)} people, but the data have {len(people)}; "
            "expected one for each person of the data, in their order."
        )
    require_keypoints(predictions.keypoint_names, people.skeleton.keypoints, str(file))
    return predictions


def _read_mat(file: Path) -> Predictions:
    points = matlab_array(file, "preds", (None, len(MPII), 2))
    bad = np.argwhere(~(np.abs(points) < _LARGEST_NUMBER))
    if len(bad):
        raise ValueError(
            f"{file}: expected finite pixels, got {points[tuple(bad[0])]} for person {bad[0, 0]}, "
            f"{MPII.keypoints[bad[0, 1]]}. JSON can say that a keypoint is missing."
        )
    return Predictions(MPII.keypoints, torch.from_numpy(points) - 1)


def _own_layout(data: Any, file: Path) -> Predictions:
    if not isinstance(data, dict) or not {"keypoint_names", "keypoints"} <= set(data):
        got = f"keys {', '.join(map(repr, data)) or 'none'}" if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{file}: expected {_LAYOUT} or a list of COCO's results, got {got}.")
    names = data["keypoint_names"]
    if not isinstance(names, list) or {type(name) for name in names} != {str} or len(set(names)) < len(names):
        raise ValueError(f"{file}: keypoint_names must be a list of different names, got {_short(names)}.")
    points = _by_person(data["keypoints"], names, _point, f"{file}: keypoints").view(-1, len(names), 2)
    if data.get("scores") is None:
        return Predictions(tuple(names), points)
    scores = _by_person(data["scores"], names, _number, f"{file}: scores").view(-1, len(names))
    if len(scores) != len(points):
        raise ValueError(f"{file}: expected scores for {len(points)} people, as for keypoints, got {len(scores)}.")
    return Predictions(tuple(names), points, scores)


def _by_person(rows: Any, names: Sequence[str], parse: Callable[[Any, str], Any], subject: str) -> Tensor:
    """Every person's cells, parsed; each error names the person and the keypoint."""
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{subject}: expected a list with an entry for each person, got {_short(rows)}.")
    for n, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            got = str(len(row)) if isinstance(row, list) else _short(row)
            raise ValueError(f"{subject}: expected {len(names)} for person {n}, one for each name, got {got}.")
    return torch.tensor(
        [
            [parse(cell, f"{subject}: person {n}, {name}") for name, cell in zip(names, row, strict=True)]
            for n, row in enumerate(rows)
        ],
        dtype=torch.float64,
    )


def _coco_results(rows: list[Any], names: Sequence[str], file: Path) -> list[CocoResult]:
    results = []
    for n, row in enumerate(rows):
        subject = f"{file}: result {n}"
        if not isinstance(row, dict) or not {"image_id", "category_id", "keypoints", "score"} <= set(row):
            raise ValueError(f"{subject}: expected image_id, category_id, keypoints and score, got {_short(row)}.")
        if not isinstance(row["image_id"], (int, str)):
            raise ValueError(f"{subject}: expected a number or a string as image_id, got {_short(row['image_id'])}.")
        values = row["keypoints"]
        if not isinstance(values, list) or len(values) != 3 * len(names):
            got = f"{len(values)} numbers" if isinstance(values, list) else _short(values)
            raise ValueError(
                f"{subject}: expected 3 x {len(names)} numbers, x, y and s of {names[0]} to {names[-1]}, got {got}."
            )
        results.append(
            {
                "image_id": row["image_id"],
                "category_id": row["category_id"],
                "keypoints": [_number(value, f"{subject}: keypoints") for value in values],
                "score": _number(row["score"], f"{subject}: score"),
            }
        )
    return results


def _point(value: Any, subject: str) -> tuple[float, float]:
    if value is None:
        return math.nan, math.nan
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{subject}: expected [x, y] in pixels, or null, got {_short(value)}.")
    return _number(value[0], subject), _number(value[1], subject)


def _number(value: Any, subject: str) -> float:
    number = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST_NUMBER:
        number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{subject}: expected a finite number, got {_short(value)}.")
    return number


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
