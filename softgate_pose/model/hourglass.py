"""The hourglass with U-Net merges (paper, Fig. 2 and Table IV)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softgate_pose.config import PoseConfig
from softgate_pose.model.blocks import SoftGatedBlock

__all__ = ["Hourglass", "MergeBlock", "gated_block"]


def gated_block(config: PoseConfig) -> SoftGatedBlock:
    """An N→N block with the config's gate."""
    return SoftGatedBlock(config.width, config.width, gate=config.gate, alpha_init=config.alpha_init)


class MergeBlock(nn.Module):
    """Doubles a decoder's features, joins them with its skip branch and applies the decoder's block.

    ``sum`` keeps the gate. A concatenation has 2N channels and so no identity path across it.
    """

    def __init__(self, config: PoseConfig) -> None:
        super().__init__()
        self.sums = config.merge == "sum"
        if self.sums:
            self.block = gated_block(config)
        else:
            groups = 2 if config.merge == "concat_grouped" else 1
            self.block = SoftGatedBlock(2 * config.width, config.width, gate=None, groups=groups)

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:  # (B, N, h, w), (B, N, h / 2, w / 2) -> (B, N, h, w)
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        out: Tensor = self.block(skip + x if self.sums else torch.cat((skip, x), dim=1))
        return out


class Hourglass(nn.Module):
    """One level: halve, go on inside, double again, merge with what stayed at full resolution.

    Args:
        config: Width, gate, merge and skip transform.
        depth: Levels from here inwards; the innermost holds a block in place of a level.
    """

    def __init__(self, config: PoseConfig, depth: int) -> None:
        super().__init__()
        width = config.width
        self.skip = gated_block(config) if config.skip == "block" else nn.Conv2d(width, width, 1)
        self.down = gated_block(config)
        self.inner = Hourglass(config, depth - 1) if depth > 1 else gated_block(config)
        self.merge = MergeBlock(config)

    def forward(self, x: Tensor) -> Tensor:  # (B, N, h, w) -> (B, N, h, w)
        return self.levels(x)[0]

    def levels(self, x: Tensor) -> list[Tensor]:
        """What this level gives, (B, N, h, w), then those inside it, each half as large, to the innermost block's."""
        skip = self.skip(x)
        x = self.down(F.max_pool2d(x, 2))
        inside = self.inner.levels(x) if isinstance(self.inner, Hourglass) else [self.inner(x)]
        return [self.merge(skip, inside[0]), *inside]
