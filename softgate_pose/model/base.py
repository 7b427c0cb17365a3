"""PoseModel: what every network of the zoo is, whatever its architecture."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from softgate_pose.config import STRIDE, PoseConfig
from softgate_pose.pose.heatmaps import spatial_softmax

__all__ = ["PoseModel"]


class PoseModel(nn.Module):
    """A network from images of one person each to one heatmap per keypoint.

    An architecture is a subclass that is built from a config alone and defines ``outputs``; the rest is optional.

    Attributes:
        config: The network's config, in whatever form it runs.
        stride: Input pixels per heatmap pixel.
    """

    config: PoseConfig
    stride: ClassVar[int] = STRIDE

    @property
    def device(self) -> torch.device:
        """Where its weights are, and images must be."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights, and of the images."""
        return next(self.parameters()).dtype

    def forward(self, images: Tensor) -> Tensor:
        """Heatmaps (B, K, H / 4, W / 4), 1 at a perfect peak, of normalised images (B, C, H, W).

        Raises:
            ValueError: If ``images`` has another number of dimensions or channels, is not floating
                point, or has a height or width that is not a multiple of ``config.size_multiple``.
        """
        return self._to_heatmaps(self.outputs(images)[-1])

    def outputs(self, images: Tensor) -> list[Tensor]:
        """The raw output (B, K, H / 4, W / 4) of each supervised stage, the last being the network's own.

        The loss takes them: logits under ``heatmap="softmax"``, else heatmaps.
        """
        raise NotImplementedError(f"{type(self).__name__} only predicts; train the model that it was made from.")

    def deploy(self) -> PoseModel:
        """A copy for inference alone, which an architecture may make faster; see ``softgate_pose.deploy``."""
        deployed = copy.deepcopy(self).to(memory_format=torch.channels_last)
        out: PoseModel = deployed.eval().requires_grad_(False)
        return out

    def adapt(self, tensors: Mapping[str, Tensor], saved: PoseConfig) -> tuple[dict[str, Tensor], list[str]]:
        """Weights saved with another config, made to fit this network, and one line for each thing that changed."""
        if saved.skeleton.keypoints != self.config.skeleton.keypoints or saved.in_chans != self.config.in_chans:
            raise ValueError(
                f"Weights of a {self.config.architecture} network do not adapt: these are for "
                f"{saved.num_keypoints} keypoints ({saved.skeleton.name}) and {saved.in_chans} input channels; "
                f"{self.config.name} has {self.config.num_keypoints} ({self.config.skeleton.name}) and "
                f"{self.config.in_chans}. Build it as the weights were, or train it from the start."
            )
        return dict(tensors), []

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should leave alone."""
        return set()

    def _check_images(self, images: Tensor) -> None:
        if images.dim() != 4 or images.shape[1] != self.config.in_chans:
            raise ValueError(
                f"{self.config.name} takes images of shape (B, {self.config.in_chans}, H, W), "
                f"got {tuple(images.shape)}."
            )
        if not images.is_floating_point():
            raise ValueError(
                f"{self.config.name} takes normalised floating point images, got {images.dtype}. "
                "Use softgate_pose.normalize, or predict() for photos."
            )
        tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if not (torch.compiler.is_compiling() or tracing):  # there, sizes are not numbers
            self.config.check_size(images.shape[2], images.shape[3])

    def _to_heatmaps(self, raw: Tensor) -> Tensor:
        """The heatmaps (B, K, h, w) of a raw output."""
        return spatial_softmax(raw, self.config.sigma) if self.config.heatmap == "softmax" else raw
