"""Losses over the heatmaps of all stacks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from softgate_pose.config import STRIDE, PoseConfig
from softgate_pose.pose import geometry
from softgate_pose.pose.heatmaps import render_heatmaps

__all__ = ["heatmap_loss"]


def heatmap_loss(
    outputs: Sequence[Tensor],
    keypoints: Tensor,
    labelled: Tensor,
    config: PoseConfig,
    *,
    soft: Tensor | None = None,
    share: float = 0.0,
) -> Tensor:
    """The mean over stacks and labelled keypoints of the config's heatmap loss.

    ``heatmap="gaussian"``: squared error against the rendered Gaussian, mean over the pixels (the
    paper's). ``heatmap="softmax"``: cross-entropy of the softmax over the pixels against the Gaussian
    of sum 1, less the target's entropy, so that a perfect network has loss 0.

    With a teacher the target is ``(1 - share)`` of the Gaussian and ``share`` of the teacher's heatmap.
    Both losses then have the gradient of two losses with these weights.

    Args:
        outputs: Each stack's raw output (B, K, h, w).
        keypoints: (B, K, 2) as (x, y) in input pixels.
        labelled: (B, K) bool; others do not count, or with a teacher count ``share``.
        config: Kind of heatmap and sigma.
        soft: A teacher's heatmaps (B, K, h, w), of the config's kind, 1 at a perfect peak.
        share: The teacher's, 0 to 1.

    Returns:
        A scalar; 0 if no keypoint counts.
    """
    size = (outputs[0].shape[-2], outputs[0].shape[-1])
    targets = render_heatmaps(geometry.input_to_heatmap(keypoints.float(), STRIDE), size, config.sigma).flatten(2)
    weights = labelled.to(targets.dtype)
    if config.heatmap == "softmax":
        targets = _of_sum_1(targets)
    if soft is not None:
        taught = soft.flatten(2).to(targets.dtype)
        if config.heatmap == "softmax":
            taught = _of_sum_1(taught)
        targets = torch.where(labelled[..., None], targets.lerp(taught, share), taught)
        weights = weights.clamp_min(share)
    if config.heatmap == "softmax":
        entropy = -torch.xlogy(targets, targets).sum(dim=2)
    total = targets.new_zeros(())
    for output in outputs:
        flat = output.flatten(2).float()
        if config.heatmap == "softmax":
            loss = -(targets * flat.log_softmax(dim=2)).sum(dim=2) - entropy
        else:
            loss = (flat - targets).square().mean(dim=2)
        total = total + (loss * weights).sum()
    return total / (weights.sum().clamp_min(1) * len(outputs))


def _of_sum_1(maps: Tensor) -> Tensor:
    # a keypoint outside the map has no Gaussian to normalise, and is not labelled
    return maps / maps.sum(dim=2, keepdim=True).clamp_min(1e-6)
