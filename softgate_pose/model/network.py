"""SoftGatePose: stem, hourglasses, and a heatmap head after each."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor, nn

from softgate_pose.config import PoseConfig
from softgate_pose.model.hourglass import Hourglass, gated_block
from softgate_pose.pose.heatmaps import spatial_softmax

__all__ = ["PoseModel", "SoftGatePose"]


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
                "Use softgate_pose.images.normalize, or predict() for photos."
            )
        tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if not (torch.compiler.is_compiling() or tracing):  # there, sizes are not numbers
            self.config.check_size(images.shape[2], images.shape[3])

    def _to_heatmaps(self, raw: Tensor) -> Tensor:
        """The heatmaps (B, K, h, w) of a head's raw output."""
        return spatial_softmax(raw, self.config.sigma) if self.config.heatmap == "softmax" else raw


class SoftGatePose(PoseModel):
    """Images of one person each to one heatmap per keypoint.

    Source: Bulat et al., "Toward fast and accurate human pose estimation via soft-gated skip
    connections", FG 2020 (arXiv 2002.11098).

    Args:
        config: The architecture; ``create_model`` builds one from a name.
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

    @overload
    def forward(self, images: Tensor, all_stacks: Literal[False] = False) -> Tensor: ...
    @overload
    def forward(self, images: Tensor, all_stacks: Literal[True]) -> list[Tensor]: ...

    def forward(self, images: Tensor, all_stacks: bool = False) -> Tensor | list[Tensor]:
        """Heatmaps of the last stack, or every stack's raw output.

        With B images, K keypoints, and h, w = H / 4, W / 4:

        | tensor | shape | meaning |
        |---|---|---|
        | ``images`` | (B, C, H, W) | floating point, normalised by ``config.mean`` and ``std`` |
        | returned | (B, K, h, w) | the last stack's heatmaps; 1 is a perfect peak |
        | with ``all_stacks`` | a list of (B, K, h, w) | each stack's raw output, which the loss takes |

        The raw output is logits under ``heatmap="softmax"``, else heatmaps.

        Raises:
            ValueError: If ``images`` has another number of dimensions or channels, is not floating
                point, or has a height or width that is not a multiple of ``config.size_multiple``.
        """
        self._check_images(images)
        x = self.stem(images)  # (B, N, h, w)
        outputs: list[Tensor] = []
        for i, (hourglass, neck, head) in enumerate(zip(self.hourglasses, self.necks, self.heads, strict=True)):
            features = neck(hourglass(x))
            outputs.append(head(features))  # (B, K, h, w)
            if i < self.config.num_stacks - 1:
                x = self._join(i, x, features, outputs[i])
        return outputs if all_stacks else self._to_heatmaps(outputs[-1])

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

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should leave alone, for timm's optimizers: the gates."""
        return {name for name, _ in self.named_parameters() if name.rpartition(".")[2] == "alpha"}
