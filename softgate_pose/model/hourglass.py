"""The stacked hourglass of Newell et al., the paper's baseline, top-down."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from softgate_pose.config import PoseConfig
from softgate_pose.model.base import PoseModel
from softgate_pose.model.transfer import adapt_tensors

__all__ = ["StackedHourglass"]


class StackedHourglass(PoseModel):
    """Hourglasses of residual bottlenecks in a row, each with a head.

    Source: Newell, Yang, Deng, "Stacked hourglass networks for human pose estimation", ECCV 2016 (arXiv 1603.06937).
    """

    def __init__(self, config: PoseConfig) -> None:
        super().__init__()
        self.config = config
        width, num_keypoints, stacks = config.width, config.num_keypoints, range(config.num_stacks)
        self.stem = nn.Sequential(
            *(nn.Conv2d(config.in_chans, 64, 7, stride=2, padding=3), nn.BatchNorm2d(64), nn.ReLU(inplace=True)),
            *(Residual(64, 128), nn.MaxPool2d(2), Residual(128, 128), Residual(128, width)),
        )
        self.hourglasses = nn.ModuleList(
            nn.Sequential(Hourglass(width, config.depth), Residual(width, width)) for _ in stacks
        )
        self.necks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)) for _ in stacks
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, num_keypoints, 1) for _ in stacks)
        # Each stack but the last hands its features and its heatmaps on to the next.
        self.feature_joins = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in stacks[1:])
        self.heatmap_joins = nn.ModuleList(nn.Conv2d(num_keypoints, width, 1) for _ in stacks[1:])

    def outputs(self, images: Tensor) -> list[Tensor]:
        self._check_images(images)
        x = self.stem(images)  # (B, N, h, w)
        outputs: list[Tensor] = []
        for i, (hourglass, neck, head) in enumerate(zip(self.hourglasses, self.necks, self.heads, strict=True)):
            features = neck(hourglass(x))
            outputs.append(head(features))  # (B, K, h, w)
            if i < len(self.feature_joins):
                x = x + self.feature_joins[i](features) + self.heatmap_joins[i](outputs[i])
        return outputs

    def adapt(self, tensors: Mapping[str, Tensor], saved: PoseConfig) -> tuple[dict[str, Tensor], list[str]]:
        return adapt_tensors(tensors, saved, self)


class Hourglass(nn.Module):
    """One level: a residual beside all that happens at half the resolution, added."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.skip, self.down, self.up = (Residual(width, width) for _ in range(3))
        self.inner = Hourglass(width, depth - 1) if depth > 1 else Residual(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (B, N, h, w) -> (B, N, h, w)
        inner = self.up(self.inner(self.down(F.max_pool2d(x, 2))))
        out: Tensor = self.skip(x) + F.interpolate(inner, scale_factor=2.0, mode="nearest")
        return out


class Residual(nn.Module):
    """Bottleneck: norm, ReLU and convolution of 1×1, 3×3 and 1×1 at half the width, added to the input."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.layers = nn.Sequential(
            *(nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True), nn.Conv2d(in_channels, half, 1)),
            *(nn.BatchNorm2d(half), nn.ReLU(inplace=True), nn.Conv2d(half, half, 3, padding=1)),
            *(nn.BatchNorm2d(half), nn.ReLU(inplace=True), nn.Conv2d(half, out_channels, 1)),
        )
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w) -> (B, N, h, w)
        out: Tensor = self.layers(x) + self.skip(x)
        return out
