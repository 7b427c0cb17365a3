"""Losses over the heatmaps of all stacks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from softgate_pose.config import STRIDE, PoseConfig
from softgate_pose.pose import geometry
from softgate_pose.pose.heatmaps import render_heatmaps

__all__ = ["heatmap_loss"]


def heatmap_loss(outputs: Sequence[Tensor], keypoints: Tensor, labelled: Tensor, config: PoseConfig) -> Tensor:
    """The mean over stacks and labelled keypoints of the config's heatmap loss.

    ``heatmap="gaussian"``: squared error against the rendered Gaussian, mean over the pixels (the
    paper's). ``heatmap="softmax"``: cross-entropy of the softmax over the pixels against the Gaussian
    of sum 1, less that Gaussian's entropy, so that a perfect network has loss 0.

    Args:
        outputs: Each stack's raw output (B, K, h, w).
        keypoints: (B, K, 2) as (x, y) in input pixels.
        labelled: (B, K) bool; others do not count.
        config: Kind of heatmap and sigma.

    Returns:
        A scalar; 0 if no keypoint is labelled.
    """
    size = (outputs[0].shape[-2], outputs[0].shape[-1])
    targets = render_heatmaps(geometry.input_to_heatmap(keypoints.float(), STRIDE), size, config.sigma).flatten(2)
    weights = labelled.to(targets.dtype)
    if config.heatmap == "softmax":
        # a keypoint outside the map has no Gaussian to normalise, and is not labelled
        targets = targets / targets.sum(dim=2, keepdim=True).clamp_min(1e-6)
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
