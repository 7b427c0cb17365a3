"""SoftGatePose, top-down: the stack of hourglasses, the hourglass, and the soft-gated block both are made of."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softgate_pose.config import Gate, PoseConfig
from softgate_pose.model.base import PoseModel
from softgate_pose.model.transfer import adapt_tensors

__all__ = ["Hourglass", "MergeBlock", "SoftGatePose", "SoftGatedBlock"]


class SoftGatePose(PoseModel):
    """Images of one person each to one heatmap per keypoint.

    Source: Bulat et al., "Toward fast and accurate human pose estimation via soft-gated skip
    connections", FG 2020 (arXiv 2002.11098).
    """

    def __init__(self, config: PoseConfig) -> None:
        super().__init__()
        self.config = config
        width, num_keypoints = config.width, config.num_keypoints
        self.stem = nn.Sequential(
            nn.Conv2d(config.in_chans, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            gated_block(config),
        )
        self.hourglasses = nn.ModuleList(Hourglass(config, config.depth) for _ in range(config.num_stacks))
        self.necks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
            for _ in range(config.num_stacks)
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, num_keypoints, 1) for _ in range(config.num_stacks))
        # Each stack but the last hands its features and its heatmaps on to the next.
        self.feature_joins = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(config.num_stacks - 1))
        self.heatmap_joins = nn.ModuleList(nn.Conv2d(num_keypoints, width, 1) for _ in range(config.num_stacks - 1))

    def outputs(self, images: Tensor) -> list[Tensor]:
        """Each stack's raw output (B, K, H / 4, W / 4); see ``PoseModel``."""
        self._check_images(images)
        x = self.stem(images)  # (B, N, h, w)
        outputs: list[Tensor] = []
        for i, (hourglass, neck, head) in enumerate(zip(self.hourglasses, self.necks, self.heads, strict=True)):
            features = neck(hourglass(x))
            outputs.append(head(features))  # (B, K, h, w)
            if i < self.config.num_stacks - 1:
                x = self._join(i, x, features, outputs[i])
        return outputs

    def forward_features(self, images: Tensor) -> list[Tensor]:
        """The last hourglass as a pyramid: (B, N, H / 4, W / 4), then each level half as large, of images as above."""
        self._check_images(images)
        x = self.stem(images)
        *hourglasses, last = self.hourglasses
        for i, hourglass in enumerate(hourglasses):
            features = self.necks[i](hourglass(x))
            x = self._join(i, x, features, self.heads[i](features))
        levels: list[Tensor] = last.levels(x)  # type: ignore[operator]
        return levels

    def _join(self, stack: int, x: Tensor, features: Tensor, heatmaps: Tensor) -> Tensor:
        """What a stack hands on to the next, (B, N, h, w)."""
        joined: Tensor = x + self.feature_joins[stack](features) + self.heatmap_joins[stack](heatmaps)
        return joined

    def deploy(self) -> PoseModel:
        from softgate_pose.model.deploy import DeployedPose  # built of this module's blocks

        deployed = DeployedPose(self).to(memory_format=torch.channels_last)
        out: PoseModel = deployed.eval().requires_grad_(False)
        return out

    def adapt(self, tensors: Mapping[str, Tensor], saved: PoseConfig) -> tuple[dict[str, Tensor], list[str]]:
        return adapt_tensors(tensors, saved, self)

    def no_weight_decay(self) -> set[str]:
        """The gates."""
        return {name for name, _ in self.named_parameters() if name.rpartition(".")[2] == "alpha"}


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

    ``depth`` is the number of levels from here inwards; the innermost holds a block in place of a level.
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


class SoftGatedBlock(nn.Module):
    """Three 3×3 convolutions in a chain, concatenated, plus a gated copy of the input.

    ``y = concat(o1, o2, o3) + alpha * x``, each ``o`` a BN-ReLU-conv of the one before, of N/2, N/4
    and N/4 channels, N being ``width``. ``gate`` says what ``alpha`` is; None leaves out the skip path, as it must
    where the channels change.
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
