"""Poses as supervision's ``KeyPoints``, for its annotators, trackers and data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from softgate_pose.prediction.draw import MIN_SCORE
from softgate_pose.prediction.poses import Poses

if TYPE_CHECKING:
    import supervision

__all__ = ["to_key_points"]


def to_key_points(poses: Poses, *, min_score: float = MIN_SCORE) -> supervision.KeyPoints:
    """Poses as a supervision ``KeyPoints``, with the people in the same order.

    Scores become ``keypoint_confidence``, their mean over a person's keypoints ``detection_confidence``;
    the class is 0, the boxes are ``data["box"]``. Supervision's annotators count keypoints from 1:
    ``[(a + 1, b + 1) for a, b in poses.skeleton.edge_indices]`` are the edges for its ``EdgeAnnotator``.

    Args:
        poses: From ``predict``.
        min_score: Keypoints with a lower score are not ``visible``; annotators leave them out.
    """
    try:
        import numpy as np
        from supervision import KeyPoints
    except ImportError as error:
        raise ImportError("KeyPoints need supervision; install it: pip install 'softgate-pose[supervision]'") from error
    return KeyPoints(
        xy=poses.keypoints.float().numpy(),
        keypoint_confidence=poses.scores.float().numpy(),
        detection_confidence=poses.scores.float().mean(dim=1).numpy(),
        visible=(poses.scores >= min_score).numpy(),
        class_id=np.zeros(len(poses), dtype=int),
        data={"box": poses.boxes.numpy()},
    )
