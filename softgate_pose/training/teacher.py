"""A trained model that teaches another: what it sees becomes a part of each target."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from softgate_pose.config import STRIDE, PoseConfig
from softgate_pose.model.deployed import deploy
from softgate_pose.model.network import SoftGatePose

__all__ = ["Teacher"]


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained model, and how much its word counts.

    The idea is that of knowledge distillation (Hinton et al. 2015, arXiv 1503.02531), for heatmaps that
    of Zhang et al., "Fast Human Pose Estimation", CVPR 2019 (arXiv 1811.05419).

    Attributes:
        model: Has at least the keypoints of the model that is taught; its input may be of another size.
        share: Of the target of a labelled keypoint, above 0 and at most 1: the rest is the label's
            Gaussian. Where there is no label the teacher's heatmap is the target, with this weight.
        name: Under which ``create_model`` finds it, for the card of what it taught.

    Raises:
        ValueError: If ``share`` is out of range.
    """

    model: SoftGatePose
    share: float = 0.5
    name: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"A teacher's share must be above 0 and at most 1, got {self.share!r}.")

    def identity(self) -> dict[str, Any]:
        """What tells what it teaches from what another does, as JSON."""
        digest = hashlib.sha256()
        for name, values in self.model.state_dict().items():
            digest.update(name.encode() + values.detach().float().cpu().contiguous().numpy().tobytes())
        return {"weights": digest.hexdigest()[:16], "share": self.share}

    def soft_targets(self, config: PoseConfig, device: torch.device) -> _SoftTargets:
        """What it teaches a model of that config, on a device.

        Raises:
            ValueError: If the teacher lacks a keypoint, or does not take the same images.
        """
        own = self.model.config
        missing = [name for name in config.skeleton.keypoints if name not in own.skeleton.keypoints]
        if missing:
            raise ValueError(f"The teacher {own.name} does not know {', '.join(missing)}; choose one that does.")
        for what in ("in_chans", "mean", "std"):
            theirs, ours = getattr(own, what), getattr(config, what)
            if theirs != ours:
                raise ValueError(f"The teacher {own.name} takes images of {what} {theirs}, the model of {ours}.")
        (own_height, own_width), (height, width) = own.input_size, config.input_size
        if own_height * width != own_width * height:
            raise ValueError(
                f"The teacher {own.name} takes inputs of {own_height}x{own_width} px, the model of {height}x{width}, "
                "which is another shape; choose a size of the same."
            )
        order = [own.skeleton.keypoints.index(name) for name in config.skeleton.keypoints]
        return _SoftTargets(self.model, order).to(device, torch.float32)


class _SoftTargets(nn.Module):
    """What a teacher sees, of the keypoints of the model that is taught.

    Args:
        teacher: The model that teaches.
        order: The taught model's keypoints among the teacher's.
    """

    def __init__(self, teacher: SoftGatePose, order: list[int]) -> None:
        super().__init__()
        self.network, self.order = deploy(teacher), order

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Heatmaps (B, K, H / 4, W / 4) of normalised images (B, C, H, W); 1 is a perfect peak.

        The teacher sees them in the size that it was trained in: people of another size it hardly knows.
        """
        heatmaps: Tensor = self.network(_resized(images, self.network.config.input_size))[:, self.order]
        return _resized(heatmaps.float(), (images.shape[2] // STRIDE, images.shape[3] // STRIDE))


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[2:] == size:
        return maps
    return functional.interpolate(maps, size, mode="bilinear", antialias=True)
