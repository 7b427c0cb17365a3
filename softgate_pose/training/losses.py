"""Losses over the heatmaps of all stages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from softgate_pose.config import PoseConfig
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
    """The mean over stages and labelled keypoints of the config's heatmap loss; 0 if no keypoint counts.

    ``heatmap="gaussian"``: squared error against the rendered Gaussian, mean over the pixels (the
    paper's). ``heatmap="softmax"``: cross-entropy of the softmax over the pixels against the Gaussian
    of sum 1, less the target's entropy, so that a perfect network has loss 0.

    With a teacher the target is ``(1 - share)`` of the Gaussian and ``share`` of the teacher's heatmap, which gives
    the gradient of two losses with these weights; what is not labelled counts ``share``, without a teacher nothing.

    ``outputs`` are each stage's, raw, (B, K, h, w), ``keypoints`` (B, K, 2) in input pixels, ``labelled`` (B, K)
    bool, and ``soft`` a teacher's heatmaps (B, K, h, w), of the config's kind, 1 at a perfect peak.
    """
    size = (outputs[0].shape[-2], outputs[0].shape[-1])
    places = geometry.input_to_heatmap(keypoints.float(), config.stride)
    targets = render_heatmaps(places, size, config.sigma).flatten(2)
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
