"""People from other libraries' detections: the boxes that ``predict`` takes. Imports none of those libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["MIN_DETECTION_SCORE", "supervision_boxes", "torchvision_boxes", "ultralytics_boxes"]

MIN_DETECTION_SCORE = 0.5
"""The lowest score of a detection that is kept by default."""


def torchvision_boxes(
    detections: Mapping[str, Any], *, min_score: float = MIN_DETECTION_SCORE, person: int = 1
) -> Tensor:
    """People from a torchvision detection model, such as ``fasterrcnn_mobilenet_v3_large_320_fpn``.

    Args:
        detections: One image's: the model returns a list of them, ``model([image])[0]``. Keypoint
            and mask models' will do, too.
        min_score: Detections with a lower score are left out.
        person: The label of people; torchvision's weights, trained on COCO, give it number 1.

    Returns:
        Boxes (N, 4) as (x0, y0, x1, y1) in pixels of the image that was given to the detector, in its
        order; float32 on the CPU. Boxes without area are left out, as detectors give them at borders.

    Raises:
        TypeError: If it is not one image's output of such a model.
        ValueError: If boxes, labels and scores are not of one length.
    """
    if not (isinstance(detections, Mapping) and {"boxes", "labels", "scores"} <= set(detections)):
        raise TypeError(
            f"Expected a dict with boxes, labels and scores, as torchvision's detectors give for one image; got "
            f"{_described(detections)}.{_one_of(detections, 'model([image])[0]')}"
        )
    return _people(detections["boxes"], detections["labels"], detections["scores"], min_score, person)


def ultralytics_boxes(results: Any, *, min_score: float = MIN_DETECTION_SCORE, person: int | None = None) -> Tensor:
    """People from an ultralytics ``Results``.

    Args:
        results: One image's: a model returns a list of them, ``model(photo)[0]``.
        min_score: Detections with a lower score are left out.
        person: The class of people; None takes the one that the results name "person", 0 for COCO.

    Returns:
        Boxes (N, 4), see ``torchvision_boxes``.

    Raises:
        TypeError: If it is not one image's results of a detector.
        ValueError: If the results name no class "person".
    """
    found: Any = getattr(results, "boxes", None)
    if any(getattr(found, name, None) is None for name in ("xyxy", "cls", "conf")):
        raise TypeError(
            f"Expected an ultralytics Results with boxes; got {_described(results)}."
            f"{_one_of(results, 'model(photo)[0]')}"
        )
    if person is None:
        names: Mapping[int, str] = getattr(results, "names", None) or {0: "person"}
        person = next((number for number, name in names.items() if name == "person"), None)
        if person is None:
            raise ValueError(f"None of the classes is called 'person': {_some(names)}. Pass the number, person=0.")
    return _people(found.xyxy, found.cls, found.conf, min_score, person)


def supervision_boxes(detections: Any, *, min_score: float = MIN_DETECTION_SCORE, person: int | None = None) -> Tensor:
    """People from a supervision ``Detections``.

    Without scores no detection is left out for its score, and without classes everything is a person:
    that is what a tracker or an annotation gives.

    Args:
        detections: One image's.
        min_score: Detections with a lower score are left out.
        person: The class of people; None takes those whose ``class_name`` is "person", or class 0,
            COCO's, where the detections have no names.

    Returns:
        Boxes (N, 4), see ``torchvision_boxes``.

    Raises:
        TypeError: If it is not a ``Detections``.
    """
    if not all(hasattr(detections, name) for name in ("xyxy", "class_id", "confidence")):
        raise TypeError(
            f"Expected a supervision Detections; got {_described(detections)}.{_one_of(detections, 'detections[0]')}"
        )
    classes, scores = detections.class_id, detections.confidence
    names = (getattr(detections, "data", None) or {}).get("class_name")
    if person is None and names is not None:
        classes = [name == "person" for name in names]
        person = 1
    return _people(detections.xyxy, classes, scores, min_score, 0 if person is None else person)


def _people(boxes: Any, classes: Any, scores: Any, min_score: float, person: int) -> Tensor:
    """The boxes of one class whose score will do and that have an area."""
    given = torch.as_tensor(boxes).detach().to("cpu", torch.float32).reshape(-1, 4)
    kept = (given[:, 2:] > given[:, :2]).all(dim=1)
    for what, values in (("classes", classes), ("scores", scores)):
        if values is None:
            continue
        column = torch.as_tensor(values).detach().to("cpu").reshape(-1)  # as it is, for a threshold to be met exactly
        if len(column) != len(given):
            raise ValueError(f"{len(given)} boxes have {len(column)} {what}; they must be of one length.")
        kept &= column == person if what == "classes" else column >= min_score
    return given[kept]


def _described(value: Any) -> str:
    return f"a dict with {_some(value)}" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def _one_of(value: Any, remedy: str) -> str:
    return f" Pass one image's, {remedy}." if isinstance(value, (list, tuple)) else ""


def _some(names: Mapping[Any, Any]) -> str:
    shown = [str(name) for name in (names.values() if all(isinstance(key, int) for key in names) else names)]
    return ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "") if shown else "nothing"
