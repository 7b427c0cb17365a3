"""Object keypoint similarity and its average precision, as COCO's own evaluator computes them."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BeforeValidator, FiniteFloat
from typing_extensions import TypedDict

from softgate_pose._files import checked
from softgate_pose.data.coco import CocoAnnotation, CocoAnnotations
from softgate_pose.data.people import Predictions
from softgate_pose.data.schema import Key
from softgate_pose.evaluation.pck import Evaluation
from softgate_pose.pose.skeleton import COCO

__all__ = ["COCO_SIGMAS", "UNIFORM_SIGMA", "CocoResult", "coco_results", "require_pycocotools", "score_oks"]

_FACE = (0.026, 0.025, 0.025, 0.035, 0.035)
COCO_SIGMAS = (*_FACE, *(sigma for sigma in (0.079, 0.072, 0.062, 0.107, 0.087, 0.089) for _ in ("left", "right")))
"""How much people disagree on each of COCO's 17 keypoints, in units of the root of the person's area."""

UNIFORM_SIGMA = 0.05
"""The sigma of every keypoint of any other skeleton, for which none has been measured."""

_FIGURES = ("AP", "AP50", "AP75", "APM", "APL", "AR")
"""The first of the ten statistics that pycocotools summarises, in its order."""

_Plain = BeforeValidator(lambda value: value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value)


class CocoResult(TypedDict):
    """An entry of COCO's results format; its keypoints are flat, as x, y, s."""

    image_id: Key
    category_id: Key
    keypoints: Annotated[list[float], _Plain]
    score: Annotated[FiniteFloat, _Plain]


def coco_results(predictions: Predictions, annotations: CocoAnnotations) -> list[CocoResult]:
    """Predictions of the annotated people as COCO's results; a person's score is the mean of its keypoints'.

    A missing keypoint is infinitely far. Without scores, all people are ranked alike.
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
            "image_id": annotation.image_id,  # type: ignore[typeddict-item]  # people have images
            "category_id": annotations.category["id"],
            "keypoints": [value for x, y in keypoints for value in (x, y, 1.0)],
            "score": score,
        }
        for annotation, keypoints, score in zip(people, points.tolist(), scores, strict=True)
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
        A table of AP, AP50, AP75, APM, APL and AR, in percent; a figure of no people is not in it.

    Raises:
        ImportError: If pycocotools is not installed.
        ValueError: If predictions and annotations do not fit, or a sigma is not above 0.

    Source: Lin et al., https://cocodataset.org/#keypoints-eval.
    """
    values, variant, description = _sigmas(annotations.skeleton.keypoints, sigmas)
    if isinstance(predictions, Predictions):
        results, name = coco_results(predictions, annotations), f"OKS AP on annotated boxes{variant}"
    else:
        results, name = _checked_results(list(predictions), annotations), f"OKS AP{variant}"
    statistics = _evaluate(results, annotations, values)
    people = len(annotations.people)
    has_areas = all(row.area > 0 for row in annotations.annotations if row.labelled.any())
    areas = "" if has_areas else "; where no area is annotated it is the box's"
    return Evaluation(
        name,
        "COCO's evaluation, by pycocotools: the mean over OKS thresholds of 0.50, 0.55 to 0.95, of the 20 predictions "
        f"with the highest scores in each image; {description}{areas}",
        {figure: 100 * value for figure, value in zip(_FIGURES, statistics, strict=False) if value >= 0},
        people,
        len(annotations.annotations) - people,
    )


def _sigmas(names: tuple[str, ...], sigmas: float | Sequence[float] | None) -> tuple[list[float], str, str]:
    """The sigmas, what they add to the protocol's name, and their description."""
    if sigmas is None and names == COCO.keypoints:
        return list(COCO_SIGMAS), "", "COCO's sigmas"
    numbers = np.asarray(UNIFORM_SIGMA if sigmas is None else sigmas, dtype=np.float64)
    if numbers.shape not in ((), (len(names),)) or not ((numbers > 0) & np.isfinite(numbers)).all():
        raise ValueError(f"sigmas must be one number above 0, or {len(names)}, one a keypoint; got {sigmas!r}.")
    values: list[float] = np.broadcast_to(numbers, len(names)).tolist()
    if len(set(values)) == 1:
        return values, f", sigma {values[0]:g}", f"one sigma of {values[0]:g} for all keypoints"
    return values, ", own sigmas", f"sigmas of {', '.join(f'{sigma:g}' for sigma in values)}"


def _checked_results(results: Sequence[Any], annotations: CocoAnnotations) -> list[CocoResult]:
    category, names, file = annotations.category, annotations.skeleton.keypoints, annotations.file
    rows: list[CocoResult] = checked(list[CocoResult], results, "COCO's results")
    for n, row in enumerate(rows):
        problem = None
        if len(row["keypoints"]) != 3 * len(names):
            numbers = f"3 x {len(names)} numbers, x, y and s of {names[0]} to {names[-1]}"
            problem = f"keypoints must be {numbers}, got {len(row['keypoints'])}"
        elif row["category_id"] != category["id"]:
            problem = f"category_id must be {category['id']!r}, as in {file}, got {row['category_id']!r}"
        elif row["image_id"] not in annotations.images:
            problem = f"image_id must be that of an image in {file}, got {row['image_id']!r}"
        if problem is not None:
            raise ValueError(f"COCO's results: [{n}].{problem}.")
    return rows


def _evaluate(results: Sequence[CocoResult], annotations: CocoAnnotations, sigmas: Sequence[float]) -> list[float]:
    """The statistics that pycocotools summarises, -1 where there is nothing to score, without what it prints."""
    coco, evaluator = require_pycocotools()
    category = annotations.category["id"]
    # pycocotools sorts the images' ids, which may be numbers and texts, and makes floats of large ones
    numbers = {image: n for n, image in enumerate(annotations.images)}
    images = [{"id": n} for n in numbers.values()]
    with redirect_stdout(io.StringIO()), np.errstate(over="ignore"):
        truth = [_truth(n, row, category, numbers) for n, row in enumerate(annotations.annotations, 1)]
        detections = [_detection(n, row, numbers) for n, row in enumerate(results, 1)]
        tables = []
        for rows in (truth, detections):
            table = coco()
            table.dataset = {"images": images, "categories": [annotations.category], "annotations": rows}
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
        "image_id": images.get(row.image_id, -1),  # an annotation without keypoints may be of no image
        "category_id": category,
        "keypoints": row.keypoints.flatten().tolist(),
        "num_keypoints": int(row.labelled.sum()),
        "bbox": row.box.tolist(),
        "area": row.area if row.area > 0 else float(row.box[2] * row.box[3]),
        "iscrowd": int(row.is_crowd),
    }


def _detection(number: int, row: CocoResult, images: Mapping[Any, int]) -> dict[str, Any]:
    triples = np.array(row["keypoints"]).reshape(-1, 3)
    missing = ~np.isfinite(triples[:, :2]).all(axis=1)
    triples[missing, :2] = np.inf  # pycocotools takes NaN for a perfect match
    area = 0.0 if missing.all() else float(np.prod(np.ptp(triples[~missing, :2], axis=0)))
    changes = {"id": number, "image_id": images[row["image_id"]], "keypoints": triples.flatten().tolist()}
    return {**row, **changes, "area": area, "iscrowd": 0}


def require_pycocotools() -> tuple[Any, Any]:
    """COCO and COCOeval of pycocotools; also called before people are predicted, so that no work is lost."""
    try:
        from pycocotools.coco import COCO as PyCoco  # noqa: N811
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise ImportError("OKS and AP need pycocotools: pip install 'softgate-pose[coco]'.") from None
    return PyCoco, COCOeval
