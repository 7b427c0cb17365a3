"""People from other libraries' detections: the boxes that ``predict`` takes. Imports none of those libraries.

Each function returns boxes (N, 4) as (x0, y0, x1, y1) in pixels of the image that was given to the detector, in its
order; float32 on the CPU. Boxes without area are left out: detectors give them at borders.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["MIN_DETECTION_SCORE", "supervision_boxes", "torchvision_boxes", "ultralytics_boxes"]

MIN_DETECTION_SCORE = 0.5
"""The default of ``min_score``."""


def torchvision_boxes(
    detections: Mapping[str, Any], *, min_score: float = MIN_DETECTION_SCORE, person: int = 1
) -> Tensor:
    """People from a torchvision detection model, such as ``fasterrcnn_mobilenet_v3_large_320_fpn``.

    Args:
        detections: One image's: ``model([image])[0]``. Those of keypoint and mask models work, too.
        min_score: Detections with a lower score are left out.
        person: The label of people; torchvision's weights, trained on COCO, give it number 1.
    """
    if not (isinstance(detections, Mapping) and {"boxes", "labels", "scores"} <= set(detections)):
        raise _wrong_type("dict with boxes, labels and scores", detections, "model([image])[0]")
    return _people(detections["boxes"], detections["labels"], detections["scores"], min_score, person)


def ultralytics_boxes(results: Any, *, min_score: float = MIN_DETECTION_SCORE, person: int | None = None) -> Tensor:
    """People from an ultralytics ``Results``.

    Args:
        results: One image's: ``model(photo)[0]``.
        min_score: Detections with a lower score are left out.
        person: The class of people; None takes the one that the results name "person", 0 for COCO.
    """
    boxes: Any = getattr(results, "boxes", None)
    if any(getattr(boxes, name, None) is None for name in ("xyxy", "cls", "conf")):
        raise _wrong_type("ultralytics Results with boxes", results, "model(photo)[0]")
    if person is None:
        names: Mapping[int, str] = getattr(results, "names", None) or {0: "person"}
        person = next((number for number, name in names.items() if name == "person"), None)
        if person is None:
            listed = ", ".join(list(names.values())[:5])
            raise ValueError(f"None of the classes is called 'person': {listed}. Pass the number, person=0.")
    return _people(boxes.xyxy, boxes.cls, boxes.conf, min_score, person)


def supervision_boxes(detections: Any, *, min_score: float = MIN_DETECTION_SCORE, person: int | None = None) -> Tensor:
    """People from a supervision ``Detections``.

    Without scores, as from a tracker or an annotation, all detections pass; without classes, all are people.

    Args:
        detections: One image's.
        min_score: Detections with a lower score are left out.
        person: The class of people; None takes those whose ``class_name`` is "person", or class 0,
            COCO's, where the detections have no names.
    """
    if not all(hasattr(detections, name) for name in ("xyxy", "class_id", "confidence")):
        raise _wrong_type("supervision Detections", detections, "detections[0]")
    classes = detections.class_id
    names = (getattr(detections, "data", None) or {}).get("class_name")
    if person is None and names is not None:
        classes, person = [name == "person" for name in names], 1
    return _people(detections.xyxy, classes, detections.confidence, min_score, person or 0)


def _people(boxes: Any, classes: Any, scores: Any, min_score: float, person: int) -> Tensor:
    """The boxes of one class with a high enough score and an area."""
    boxes = torch.as_tensor(boxes).detach().to("cpu", torch.float32).reshape(-1, 4)
    wanted = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    for what, values in (("classes", classes), ("scores", scores)):
        if values is None:
            continue
        column = torch.as_tensor(values).detach().to("cpu").reshape(-1)  # as it is, for a threshold to be met exactly
        if len(column) != len(boxes):
            raise ValueError(f"{len(boxes)} boxes have {len(column)} {what}; they must be of one length.")
        wanted &= column == person if what == "classes" else column >= min_score
    out: Tensor = boxes[wanted]
    return out


def _wrong_type(expected: str, value: Any, one_of_many: str) -> TypeError:
    got = f"dict with {', '.join(map(str, list(value)[:5])) or 'nothing'}" if isinstance(value, Mapping) else None
    remedy = f" Pass one image's, {one_of_many}." if isinstance(value, (list, tuple)) else ""
    return TypeError(f"Expected one image's {expected}, got a {got or type(value).__name__}.{remedy}")
