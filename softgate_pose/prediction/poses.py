"""Poses: the people of one photo, with their keypoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from softgate_pose.data.images import ImageSource
from softgate_pose.pose.skeleton import Skeleton
from softgate_pose.prediction.draw import MIN_SCORE, draw_poses

__all__ = ["Poses"]


@dataclass(frozen=True, eq=False)
class Poses:
    """The poses of N people in one image.

    Attributes:
        keypoints: (N, K, 2) as (x, y) in image pixels; (0, 0) is the centre of the top-left pixel.
        scores: (N, K): the height of the heatmap's peak, cut to 0..1. 1 is as high and sharp as the
            training target, 0 is no peak. A measure of confidence that ranks keypoints, not a probability.
        boxes: (N, 4) as (x0, y0, x1, y1) in image pixels: the people, as they were given.
        skeleton: Names and edges of the K keypoints.
    """

    keypoints: Tensor
    scores: Tensor
    boxes: Tensor
    skeleton: Skeleton

    def __len__(self) -> int:
        return len(self.keypoints)

    @property
    def keypoint_names(self) -> tuple[str, ...]:
        return self.skeleton.keypoints

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON: ``keypoint_names``, and of each person ``box``, ``keypoints`` and ``scores``."""
        people = [
            {"box": _rounded(box), "keypoints": [_rounded(point) for point in points], "scores": _rounded(scores, 4)}
            for box, points, scores in zip(self.boxes, self.keypoints, self.scores, strict=True)
        ]
        return {"keypoint_names": list(self.keypoint_names), "people": people}

    def to_coco(self, image_id: int | str = 0, category_id: int = 1) -> list[dict[str, Any]]:
        """COCO results, one entry a person: ``keypoints`` flat as x, y, score; ``bbox`` as x, y, width, height.

        The person's ``score`` is the mean of its keypoints'.
        """
        results = []
        for box, points, scores in zip(self.boxes, self.keypoints, self.scores, strict=True):
            triples = torch.cat((points, scores.unsqueeze(-1)), dim=-1).flatten()
            results.append(
                {
                    "image_id": image_id,
                    "category_id": category_id,
                    "keypoints": _rounded(triples, 4),
                    "bbox": _rounded(torch.cat((box[:2], box[2:] - box[:2]))),
                    "score": round(float(scores.mean()), 4),
                }
            )
        return results

    def draw(self, image: ImageSource, *, min_score: float = MIN_SCORE) -> Image.Image:
        """The image with the skeletons drawn on it; keypoints with a lower score are left out."""
        return draw_poses(image, self.keypoints, self.scores, self.skeleton, min_score=min_score)


def _rounded(values: Tensor, digits: int = 2) -> list[float]:
    return [round(value, digits) for value in values.tolist()]
