"""Object keypoint similarity and its average precision, as COCO's own evaluator computes them."""

from __future__ import annotations

import io
import math
import reprlib
from collections.abc import Hashable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch

from softgate_pose.data.coco import CocoAnnotation, CocoAnnotations
from softgate_pose.data.people import Predictions
from softgate_pose.evaluation.files import CocoResult
from softgate_pose.evaluation.pck import Evaluation
from softgate_pose.pose.skeleton import COCO

__all__ = ["COCO_SIGMAS", "UNIFORM_SIGMA", "coco_results", "require_pycocotools", "score_oks"]

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
"""The sigma of every keypoint of any other skeleton, for which none has been measured."""

_FIGURES = ("AP", "AP50", "AP75", "APM", "APL", "AR")
"""The first of the ten statistics that pycocotools summarises, in its order."""


def coco_results(predictions: Predictions, annotations: CocoAnnotations) -> list[CocoResult]:
    """Predictions of the annotated people as COCO's results; a person's score is the mean of its keypoints'.

    A missing keypoint is infinitely far. Without scores, all people are ranked alike.

    Raises:
        ValueError: If a keypoint was not predicted, or the numbers of people differ.
    """
    chosen, people = predictions.select_keypoints(annotations.skeleton.keypoints), annotations.people
    if len(chosen) != len(people):
        raise ValueError(f"Expected predictions of {len(people)} people of {annotations.file}, got {len(chosen)}.")
    points = torch.where(chosen.keypoints.isnan(), math.inf, chosen.keypoints.double())
    scores = [1.0] * len(chosen)
    if chosen.scores is not None:
        scores = chosen.scores.double().nan_to_num(0).mean(dim=1).tolist()
    return [
        {
            "image_id": person.image_id,
            "category_id": annotations.category["id"],
            "keypoints": [value for x, y in found for value in (x, y, 1.0)],
            "score": score,
        }
        for person, found, score in zip(people, points.tolist(), scores, strict=True)
    ]


def score_oks(
    predictions: Predictions | Sequence[CocoResult],
    annotations: CocoAnnotations,
    *,
    sigmas: float | Sequence[float] | None = None,
) -> Evaluation:
    """Average precision and recall over OKS thresholds from 0.5 to 0.95, by pycocotools.

    Crowds and people without labels are ignored: predictions on them are neither rewarded nor penalised. The
    size of a prediction is its keypoints' extent, as COCO takes it from results without boxes; boxes in results
    are not looked at.

    Args:
        predictions: Those of the annotated people, in the order of ``read_people``; or COCO's results, of
            any people found in the images.
        annotations: From ``read_coco_annotations``.
        sigmas: One for each keypoint, or one for all. None: COCO's for COCO's 17 keypoints, else
            ``UNIFORM_SIGMA``.

    Returns:
        A table of AP, AP50, AP75, APM, APL and AR, in percent; what has no people is not in it.

    Raises:
        ImportError: If pycocotools is not installed.
        ValueError: If predictions and annotations do not fit, or a sigma is not above 0.

    Source: Lin et al., https://cocodataset.org/#keypoints-eval.
    """
    values, variant, described = _sigmas(annotations.skeleton.keypoints, sigmas)
    if isinstance(predictions, Predictions):
        results, name = coco_results(predictions, annotations), f"OKS AP on annotated boxes{variant}"
    else:
        results, name = list(predictions), f"OKS AP{variant}"
        _check_results(results, annotations)
    statistics = _evaluate(results, annotations, values)
    people = len(annotations.people)
    has_areas = all(row.area > 0 for row in annotations.annotations if row.labelled.any())
    areas = "" if has_areas else "; where no area is annotated it is the box's"
    return Evaluation(
        name,
        "COCO's evaluation, by pycocotools: the mean over OKS thresholds of 0.50, 0.55 to 0.95, of the 20 predictions "
        f"with the highest scores in each image; {described}{areas}",
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
    category, images, names = annotations.category, annotations.images, annotations.skeleton.keypoints
    for n, row in enumerate(results):
        if not isinstance(row, Mapping):
            raise ValueError(f"Result {n} must be a dictionary, got {reprlib.repr(row)}.")
        lacking = [key for key in ("image_id", "category_id", "keypoints", "score") if row.get(key) is None]
        if lacking:
            raise ValueError(f"Result {n} has no {' and no '.join(lacking)}.")
        if not _are_numbers(row["keypoints"], (3 * len(names),)):
            raise ValueError(
                f"Result {n} must have 3 x {len(names)} numbers as keypoints, x, y and s of {names[0]} to {names[-1]} "
                f"in {annotations.file}; got {reprlib.repr(row['keypoints'])}."
            )
        if not _are_numbers(row["score"], ()) or not math.isfinite(row["score"]):
            raise ValueError(f"Result {n} must have a finite number as score, got {row['score']!r}.")
        if row["category_id"] != category["id"]:
            raise ValueError(
                f"Result {n} is of category_id {row['category_id']!r}; expected {category['id']!r}, "
                f"{category.get('name', 'the one with keypoints')!r} in {annotations.file}."
            )
        if not isinstance(row["image_id"], Hashable) or row["image_id"] not in images:
            raise ValueError(
                f"Result {n} is of image_id {row['image_id']!r}, which is not one of the {len(images)} images of "
                f"{annotations.file}."
            )


def _are_numbers(values: Any, shape: tuple[int, ...]) -> bool:
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        return False
    return array.shape == shape and array.dtype.kind in "iuf"


def _evaluate(results: Sequence[CocoResult], annotations: CocoAnnotations, sigmas: Sequence[float]) -> list[float]:
    """The statistics that pycocotools summarises, -1 where there is nothing to score, without what it prints."""
    coco, evaluator = _pycocotools()
    category = annotations.category["id"]
    # pycocotools sorts the images' ids, which may be numbers and texts, and makes floats of large ones
    numbers = {image: n for n, image in enumerate(annotations.images)}
    truth = [_truth(n, row, category, numbers) for n, row in enumerate(annotations.annotations, 1)]
    detections = [_detection(n, row, numbers) for n, row in enumerate(results, 1)]
    with redirect_stdout(io.StringIO()), np.errstate(over="ignore"):
        tables = []
        for rows in (truth, detections):
            table = coco()
            table.dataset = {
                "images": [{"id": n} for n in numbers.values()],
                "categories": [annotations.category],
                "annotations": rows,
            }
            table.createIndex()
            tables.append(table)
        run = evaluator(*tables, iouType="keypoints")
        run.params.kpt_oks_sigmas = np.asarray(sigmas)
        run.params.catIds = [category]
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(value) for value in run.stats]


def _truth(number: int, row: CocoAnnotation, category: Any, images: Mapping[Any, int]) -> dict[str, Any]:
    """An annotation as pycocotools needs it: ids from 1, as 0 means "not matched", and an area always."""
    return {
        "id": number,
        "image_id": images.get(row.image_id, -1),  # who has no keypoints may be in no image
        "category_id": category,
        "keypoints": row.keypoints.flatten().tolist(),
        "num_keypoints": int(row.labelled.sum()),
        "bbox": row.box.tolist(),
        "area": row.area if row.area > 0 else float(row.box[2] * row.box[3]),
        "iscrowd": int(row.is_crowd),
    }


def _detection(number: int, row: CocoResult, images: Mapping[Any, int]) -> dict[str, Any]:
    triples = np.array(row["keypoints"], dtype=np.float64).reshape(-1, 3)
    missing = ~np.isfinite(triples[:, :2]).all(axis=1)
    triples[missing, :2] = np.inf  # pycocotools takes NaN for a perfect match
    found = triples[~missing, :2]
    area = float(np.prod(np.ptp(found, axis=0))) if len(found) else 0.0
    return {
        "id": number,
        "image_id": images[row["image_id"]],
        "category_id": row["category_id"],
        "keypoints": triples.flatten().tolist(),
        "score": row["score"],
        "area": area,
        "iscrowd": 0,
    }


def require_pycocotools() -> None:
    """Raise ``ImportError`` unless average precision can be computed: better before predicting than after."""
    _pycocotools()


def _pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO as PyCoco  # noqa: N811
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise ImportError("OKS and AP need pycocotools: pip install 'softgate-pose[coco]'.") from None
    return PyCoco, COCOeval
