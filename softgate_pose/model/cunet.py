"""CU-Net, coupled U-Nets, which the paper compares itself with, top-down."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softgate_pose.config import PoseConfig
from softgate_pose.model.base import PoseModel
from softgate_pose.model.transfer import adapt_tensors

__all__ = ["CUNet"]


class CUNet(PoseModel):
    """U-Nets in a row, each with a head; a block reads what the blocks at its place in all earlier U-Nets made.

    Source: Tang et al., "CU-Net: Coupled U-Nets", BMVC 2018 (arXiv 1808.06521). The paper's width is 128 and its
    growth rate 32, a quarter. Two things the published budgets decided: every pair of U-Nets is coupled, and the
    next U-Net reads the last one's features with no convolution between them.
    """

    def __init__(self, config: PoseConfig) -> None:
        super().__init__()
        self.config = config
        width, stacks = config.width, range(config.num_stacks)
        self.stem = nn.Sequential(
            nn.Conv2d(config.in_chans, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.unets = nn.ModuleList(UNet(width, config.depth, earlier=i) for i in stacks)
        self.necks = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(inplace=True)) for _ in stacks)
        self.heads = nn.ModuleList(nn.Conv2d(width, config.num_keypoints, 1, bias=False) for _ in stacks)

    def outputs(self, images: Tensor) -> list[Tensor]:
        self._check_images(images)
        x = self.stem(images)  # (B, N, h, w)
        coupled: list[list[Tensor]] = [[] for _ in range(2 * self.config.depth + 1)]  # one list for each block's place
        outputs: list[Tensor] = []
        for unet, neck, head in zip(self.unets, self.necks, self.heads, strict=True):
            x = unet(x, coupled)
            outputs.append(head(neck(x)))  # (B, K, h, w)
        return outputs

    def adapt(self, tensors: Mapping[str, Tensor], saved: PoseConfig) -> tuple[dict[str, Tensor], list[str]]:
        return adapt_tensors(tensors, saved, self)


class UNet(nn.Module):
    """Blocks on the way down, one at the bottom, and blocks on the way up, which read their skip as well.

    There are ``depth`` halvings, and ``earlier`` U-Nets before this one.
    """

    def __init__(self, width: int, depth: int, earlier: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(CoupledBlock(width, width, earlier, readers=2) for _ in range(depth))
        self.bottom = CoupledBlock(width, width, earlier)
        self.up = nn.ModuleList(CoupledBlock(2 * width, width, earlier) for _ in range(depth))

    def forward(self, x: Tensor, coupled: list[list[Tensor]]) -> Tensor:  # (B, N, h, w) -> (B, N, h, w)
        places = iter(coupled)
        skips = []
        for block in self.down:
            x, skip = block(x, next(places))
            skips.append(skip)
            x = F.max_pool2d(x, 2)
        (x,) = self.bottom(x, next(places))
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            (x,) = block(torch.cat((x, skip), dim=1), next(places))
        return x


class CoupledBlock(nn.Module):
    """A quarter of the width of new channels, beside those from earlier U-Nets, and one 1×1 convolution a reader."""

    def __init__(self, in_channels: int, width: int, earlier: int, readers: int = 1) -> None:
        super().__init__()
        growth = width // 4
        channels = in_channels + earlier * growth
        self.grow = nn.Sequential(_norm_conv(channels, 4 * growth), _norm_conv(4 * growth, growth, 3))
        self.readers = nn.ModuleList(_norm_conv(channels + growth, width) for _ in range(readers))

    def forward(self, x: Tensor, coupled: list[Tensor]) -> list[Tensor]:  # (B, C, h, w) -> one (B, N, h, w) a reader
        coupled.append(self.grow(torch.cat((x, *coupled), dim=1)))
        features = torch.cat((x, *coupled), dim=1)
        return [reader(features) for reader in self.readers]


def _norm_conv(in_channels: int, out_channels: int, size: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True), conv)
