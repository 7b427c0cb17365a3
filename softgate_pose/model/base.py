"""PoseModel: what every network of the zoo is, whatever its architecture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softgate_pose.config import PoseConfig
from softgate_pose.pose.heatmaps import spatial_softmax

__all__ = ["PoseModel"]


class PoseModel(nn.Module):
    """What ``predict`` takes: normalised images (B, C, H, W) to heatmaps (B, K, H / 4, W / 4).

    Attributes:
        config: The network's config, in whatever form it runs.
    """

    config: PoseConfig

    @property
    def device(self) -> torch.device:
        """Where its weights are, and the images must be."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights, and of the images."""
        return next(self.parameters()).dtype

    def _check_images(self, images: Tensor) -> None:
        if images.dim() != 4 or images.shape[1] != self.config.in_chans:
            raise ValueError(
                f"{self.config.name} takes images of shape (B, {self.config.in_chans}, H, W), "
                f"got {tuple(images.shape)}."
            )
        if not images.is_floating_point():
            raise ValueError(
                f"{self.config.name} takes normalised floating point images, got {images.dtype}. "
                "Use softgate_pose.data.images.normalize, or predict() for photos."
            )
        tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if not (torch.compiler.is_compiling() or tracing):  # there, sizes are not numbers
            self.config.check_size(images.shape[2], images.shape[3])

    def _to_heatmaps(self, raw: Tensor) -> Tensor:
        """The heatmaps (B, K, h, w) of a head's raw output."""
        return spatial_softmax(raw, self.config.sigma) if self.config.heatmap == "softmax" else raw
