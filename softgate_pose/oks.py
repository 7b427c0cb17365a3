"""Object keypoint similarity and its average precision, as COCO's own evaluator computes them."""

from __future__ import annotations

import io
import json
import math
import reprlib
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from softgate_pose.evaluation import Evaluation
from softgate_pose.people import Predictions
from softgate_pose.pose.skeleton import COCO
from softgate_pose.prediction_files import CocoResult

__all__ = ["COCO_SIGMAS", "UNIFORM_SIGMA", "CocoAnnotations", "read_coco_annotations", "score_oks"]

_SIDELESS_SIGMAS = {
    "nose": 0.026,
    "eye": 0.025,
    "ear": 0.035,
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
}

COCO_SIGMAS = tuple(_SIDELESS_SIGMAS[name.split("_")[-1]] for name in COCO.keypoints)
"""How much people disagree on each of COCO's 17 keypoints, in units of the root of the person's area."""

UNIFORM_SIGMA = 0.05
"""That of every keypoint of another skeleton, where nothing is measured."""

_FIGURES = ("AP", "AP50", "AP75", "APM", "APL", "AR")
"""The first of the ten statistics that pycocotools summarises, in its order."""


@dataclass(frozen=True)
class CocoAnnotations:
    """COCO's keypoint annotations as they stand in the file, crowds and people without labels included.

    Attributes:
        file: Where they are from.
        category: The one with keypoints.
        images: COCO's ``images``.
        annotations: Those of the category, numbered from 1, with what COCO's evaluator needs filled in.
        has_areas: Whether everybody who is labelled came with an area; who did not has that of the box.
    """

    file: Path
    category: dict[str, Any]
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    has_areas: bool

    @property
    def keypoint_names(self) -> tuple[str, ...]:
        return tuple(self.category["keypoints"])

    @property
    def people(self) -> list[dict[str, Any]]:
        """Those that ``read_people`` gives, in its order: no crowds, and with a labelled keypoint."""
        return [row for row in self.annotations if not row["iscrowd"] and row["num_keypoints"]]

    def results(self, predictions: Predictions) -> list[CocoResult]:
        """Predictions of ``people`` as COCO's results; a person's score is the mean of its keypoints'.

        A missing keypoint is infinitely far. Without scores, all people are ranked alike.

        Raises:
            ValueError: If a keypoint was not predicted, or the numbers of people differ.
        """
        chosen, people = predictions.select_keypoints(self.keypoint_names), self.people
        if len(chosen) != len(people):
            raise ValueError(f"Expected predictions of {len(people)} people of {self.file}, got {len(chosen)}.")
        points = torch.where(chosen.keypoints.isnan(), math.inf, chosen.keypoints.double())
        scores = [1.0] * len(chosen)
        if chosen.scores is not None:
            scores = chosen.scores.double().nan_to_num(0).mean(dim=1).tolist()
        return [
            {
                "image_id": row["image_id"],
                "category_id": self.category["id"],
                "keypoints": [value for x, y in person for value in (x, y, 1.0)],
                "score": score,
            }
            for row, person, score in zip(people, points.tolist(), scores, strict=True)
        ]


def read_coco_annotations(file: Path) -> CocoAnnotations:
    """Read COCO's keypoint annotations, of people or of anything, to score on them.

    Raises:
        ImportError: If pycocotools is not installed: better now than after predicting.
        ValueError: If the file is not in COCO's keypoints layout.
    """
    _pycocotools()
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
        (category,) = (category for category in data["categories"] if category.get("keypoints"))
        annotations = [
            {"category_id": category["id"], **_annotation(row, i, 3 * len(category["keypoints"]))}
            for i, row in enumerate(data["annotations"])
            if row["category_id"] == category["id"]
        ]
        for number, row in enumerate(annotations, 1):
            row["id"] = number  # COCO's evaluator takes an id of 0 for "not matched"
        images = [{"id": image["id"]} for image in data["images"]]
        hash((category["id"], *(image["id"] for image in images)))  # the evaluator's tables are by id
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not in COCO's keypoints layout: {type(error).__name__} {error}.") from None
    without_area = [row for row in annotations if not row["area"] > 0]
    for row in without_area:
        row["area"] = float(row["bbox"][2] * row["bbox"][3])
    has_areas = not any(row["num_keypoints"] for row in without_area)
    return CocoAnnotations(file, category, images, annotations, has_areas)


def _annotation(row: dict[str, Any], index: int, count: int) -> dict[str, Any]:
    """What COCO's evaluator needs of an annotation; it would stumble over anything but finite numbers.

    What is null is as if it were not there. Who has no keypoint needs no box, and an area that is not there is 0.
    """
    hash(row["image_id"])
    given = {key: value for key, value in row.items() if value is not None}

    def numbers(name: str, values: Any, expected: int) -> list[float]:
        array = np.asarray(values)
        if array.dtype.kind not in "biuf" or array.shape != (expected,) or not (np.abs(array) < 1e100).all():
            raise ValueError(
                f"annotation [{index}]: {name} must be {expected} finite numbers, got {reprlib.repr(values)}"
            )
        return [float(value) for value in values]

    keypoints = numbers("keypoints", given.get("keypoints") or [0] * count, count)
    labelled = sum(visibility > 0 for visibility in keypoints[2::3])
    if labelled and "bbox" not in given:
        raise ValueError(f"annotation [{index}]: bbox is missing")
    (area,), (crowd,) = (numbers(name, [given.get(name, 0)], 1) for name in ("area", "iscrowd"))
    return {
        "image_id": row["image_id"],
        "keypoints": keypoints,
        "num_keypoints": labelled,
        "bbox": numbers("bbox", given.get("bbox", [0] * 4), 4),
        "area": area,
        "iscrowd": int(bool(crowd)),
    }


def score_oks(
    predictions: Predictions | Sequence[CocoResult],
    annotations: CocoAnnotations,
    *,
    sigmas: float | Sequence[float] | None = None,
) -> Evaluation:
    """Average precision and recall over OKS thresholds from 0.5 to 0.95, by pycocotools.

    Crowds and people without labels neither count nor cost. The size of a prediction is its keypoints'
    extent, as COCO takes it from results without boxes; boxes in results are not looked at.

    Args:
        predictions: Of the annotated people, in the order of ``read_people``; or COCO's results, of any
            people found in the images.
        annotations: From ``read_coco_annotations``.
        sigmas: Of each keypoint, or one for all. None: COCO's for COCO's 17 keypoints, else
            ``UNIFORM_SIGMA``.

    Returns:
        A table of AP, AP50, AP75, APM, APL and AR, in percent; what has no people is not in it.

    Raises:
        ImportError: If pycocotools is not installed.
        ValueError: If predictions and annotations do not fit, or a sigma is not above 0.

    Source: Lin et al., https://cocodataset.org/#keypoints-eval.
    """
    values, variant, described = _sigmas(annotations.keypoint_names, sigmas)
    if isinstance(predictions, Predictions):
        results, name = annotations.results(predictions), f"OKS AP on annotated boxes{variant}"
    else:
        results, name = list(predictions), f"OKS AP{variant}"
        _check_results(results, annotations)
    statistics = _evaluate(results, annotations, values)
    people = len(annotations.people)
    areas = "" if annotations.has_areas else "; where no area is annotated it is the box's"
    return Evaluation(
        name,
        f"COCO's evaluation, by pycocotools: the mean over OKS thresholds of 0.50, 0.55 to 0.95; {described}{areas}",
        {figure: 100 * value for figure, value in zip(_FIGURES, statistics, strict=False) if value >= 0},
        people,
        len(annotations.annotations) - people,
    )


def _sigmas(names: tuple[str, ...], given: float | Sequence[float] | None) -> tuple[list[float], str, str]:
    """The sigmas, what they add to the protocol's name, and their description."""
    if given is None and names == COCO.keypoints:
        return list(COCO_SIGMAS), "", "COCO's sigmas"
    given = UNIFORM_SIGMA if given is None else given
    listed = np.asarray(given, dtype=np.float64).tolist()
    values = listed if isinstance(listed, list) else [listed] * len(names)
    if len(values) != len(names) or not all(0 < sigma < math.inf for sigma in values):
        raise ValueError(f"sigmas must be one number above 0, or {len(names)}, one a keypoint; got {given!r}.")
    if len(set(values)) == 1:
        return values, f", sigma {values[0]:g}", f"one sigma of {values[0]:g} for all keypoints"
    return values, ", own sigmas", f"sigmas of {', '.join(f'{sigma:g}' for sigma in values)}"


def _check_results(results: Sequence[CocoResult], annotations: CocoAnnotations) -> None:
    category, images = annotations.category, {image["id"] for image in annotations.images}
    names = category["keypoints"]
    for n, row in enumerate(results):
        lacking = [key for key in ("image_id", "category_id", "keypoints", "score") if row.get(key) is None]
        if lacking:
            raise ValueError(f"Result {n} has no {' and no '.join(lacking)}.")
        if np.shape(row["keypoints"]) != (3 * len(names),):
            raise ValueError(
                f"Result {n} must have 3 x {len(names)} numbers as keypoints, x, y and s of {names[0]} to {names[-1]} "
                f"in {annotations.file}; got {np.size(row['keypoints'])}."
            )
        if not math.isfinite(row["score"]):
            raise ValueError(f"Result {n} has a score of {row['score']}, which is not finite.")
        if row["category_id"] != category["id"]:
            raise ValueError(
                f"Result {n} is of category_id {row['category_id']!r}; expected {category['id']!r}, "
                f"{category.get('name', 'the one with keypoints')!r} in {annotations.file}."
            )
        if row["image_id"] not in images:
            raise ValueError(
                f"Result {n} is of image_id {row['image_id']!r}, which is not one of the {len(images)} images of "
                f"{annotations.file}."
            )


def _evaluate(results: Sequence[CocoResult], annotations: CocoAnnotations, sigmas: Sequence[float]) -> list[float]:
    """The statistics that pycocotools summarises, -1 where there is nothing to score, without what it prints."""
    coco, evaluator = _pycocotools()
    with redirect_stdout(io.StringIO()), np.errstate(over="ignore"):
        tables = []
        for rows in (annotations.annotations, [_detection(n, row) for n, row in enumerate(results, 1)]):
            table = coco()
            table.dataset = {
                "images": annotations.images,
                "categories": [annotations.category],
                "annotations": [dict(row) for row in rows],  # the evaluator writes into them
            }
            table.createIndex()
            tables.append(table)
        run = evaluator(*tables, iouType="keypoints")
        run.params.kpt_oks_sigmas = np.asarray(sigmas)
        run.params.catIds = [annotations.category["id"]]
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(value) for value in run.stats]


def _detection(number: int, row: CocoResult) -> dict[str, Any]:
    points = np.asarray(row["keypoints"]).reshape(-1, 3)[:, :2]
    found = points[np.isfinite(points).all(axis=1)]
    area = float(np.prod(np.ptp(found, axis=0))) if len(found) else 0.0
    return {**row, "id": number, "area": area, "iscrowd": 0}


def _pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO as PyCoco  # noqa: N811
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise ImportError("OKS and AP need pycocotools: pip install 'softgate-pose[coco]'.") from None
    return PyCoco, COCOeval
