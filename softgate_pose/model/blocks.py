"""The soft-gated residual block (paper, eq. 1 and Fig. 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softgate_pose.config import Gate

__all__ = ["SoftGatedBlock"]


class SoftGatedBlock(nn.Module):
    """Three 3×3 convolutions in a chain, concatenated, plus a gated copy of the input.

    ``y = concat(o1, o2, o3) + alpha * x``, each ``o`` a BN-ReLU-conv of the one before, of N/2, N/4
    and N/4 channels.

    Args:
        in_channels: Channels of ``x``. Unless it equals ``width`` there is no skip path.
        width: Channels N of ``y``.
        gate: What ``alpha`` is; see ``PoseConfig``. None for a block without a skip path.
        alpha_init: Where ``alpha`` starts.
        groups: Groups of the first convolution (2 in the grouped concatenation merge).

    Raises:
        ValueError: If a gated block would have to change the number of channels.
    """

    alpha: Tensor | None

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        gate: Gate | None = "channel",
        alpha_init: float = 0.0,
        groups: int = 1,
    ) -> None:
        super().__init__()
        if gate is not None and in_channels != width:
            raise ValueError(f"A gated block keeps its channels; got {in_channels} in and {width} out. Use gate=None.")
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width // 2, 3, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 4, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width // 4)
        self.conv3 = nn.Conv2d(width // 4, width // 4, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)

        if gate == "channel":
            self.alpha = nn.Parameter(torch.full((1, width, 1, 1), float(alpha_init)))
        elif gate == "scalar":
            self.alpha = nn.Parameter(torch.full((1, 1, 1, 1), float(alpha_init)))
        elif gate is None:
            self.alpha = None
        else:  # a constant follows from the config, so the weights file does not repeat it
            value = 1.0 if gate == "identity" else float(alpha_init)
            self.register_buffer("alpha", torch.full((1, 1, 1, 1), value), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w) -> (B, N, h, w)
        o1 = self.conv1(self.relu(self.bn1(x)))
        o2 = self.conv2(self.relu(self.bn2(o1)))
        o3 = self.conv3(self.relu(self.bn3(o2)))
        y = torch.cat((o1, o2, o3), dim=1)
        return y if self.alpha is None else torch.addcmul(y, self.alpha, x)
