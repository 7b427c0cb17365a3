"""A trained model that teaches another: what it sees becomes a part of each target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from softgate_pose.config import PoseConfig
from softgate_pose.model.base import PoseModel
from softgate_pose.pose.geometry import resize_points
from softgate_pose.weights.files import weights_digest
from softgate_pose.weights.record import TeacherRecord, TrainingRecord, data_lines

__all__ = ["Teacher"]


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained model, and its share of the targets.

    The idea is that of knowledge distillation (Hinton et al. 2015, arXiv 1503.02531), for heatmaps that
    of Zhang et al., "Fast Human Pose Estimation", CVPR 2019 (arXiv 1811.05419).

    Attributes:
        model: The trained model. It has at least the keypoints of the model that is taught; its input may be
            of another size.
        share: Share of the target of a labelled keypoint, above 0 and at most 1: the rest is the label's
            Gaussian. Where there is no label the teacher's heatmap is the target, and the keypoint
            counts this share of a labelled one.
        name: The name under which ``create_model`` finds it, for the card of what it taught.
        training: Its ``training.json``, whose data and licence that card repeats.
    """

    model: PoseModel
    share: float = 0.5
    name: str | None = None
    training: TrainingRecord | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, PoseModel) or type(self.model).outputs is PoseModel.outputs:
            raise TypeError(f"A teacher is a model from create_model, got {type(self.model).__name__}.")
        if not 0 < self.share <= 1:
            raise ValueError(f"A teacher's share must be above 0 and at most 1, got {self.share!r}.")

    def identity(self) -> dict[str, Any]:
        """A fingerprint of what it teaches, as JSON: its weights, its share, and its config without the name."""
        config = {key: value for key, value in self.model.config.to_dict().items() if key != "name"}
        return {"weights": weights_digest(self.model)[:16], "share": self.share, "model": config}

    def to_card(self) -> TeacherRecord:
        """Its entry on the card of a model that it taught."""
        record: TrainingRecord = self.training or {}
        return {
            "name": self.name or self.model.config.name,
            "weights": self.identity()["weights"],
            "share": self.share,
            "data": data_lines(record),
            "licence": record.get("licence"),
        }

    def require_fit(self, config: PoseConfig) -> None:
        """Raise ValueError unless it knows the keypoints, takes the images and gives the heatmaps of such a model."""
        own = self.model.config
        missing = [name for name in config.skeleton.keypoints if name not in own.skeleton.keypoints]
        if missing:
            raise ValueError(f"The teacher {own.name} does not know {', '.join(missing)}; choose one that does.")
        for what in ("in_chans", "mean", "std", "heatmap"):  # the noise around a Gaussian's peak is no probability
            theirs, ours = getattr(own, what), getattr(config, what)
            if theirs != ours:
                raise ValueError(
                    f"The teacher {own.name} has {what} {theirs!r}, the model {ours!r}; both must have the same."
                )
        (own_height, own_width), (height, width) = own.input_size, config.input_size
        if own_height * width != own_width * height:
            raise ValueError(
                f"The teacher {own.name} has input_size {own.input_size}, the model {config.input_size}, "
                "which has another aspect ratio; choose a size with the same one."
            )

    def soft_targets(self, config: PoseConfig, device: torch.device) -> SoftTargets:
        """What it teaches a model of that config, on a device."""
        self.require_fit(config)
        return SoftTargets(self.model, config).to(device, torch.float32)


class SoftTargets(nn.Module):
    """What a teacher sees, as a network of the given config would."""

    order: Tensor
    resample_rows: Tensor
    resample_columns: Tensor

    def __init__(self, teacher: PoseModel, config: PoseConfig) -> None:
        super().__init__()
        own = teacher.config
        self.network = teacher.deploy()
        self.register_buffer("order", torch.tensor(own.skeleton.indices(config.skeleton.keypoints)))
        self.as_is = (own.heatmap_size, own.input_size, own.sigma) == (
            config.heatmap_size,
            config.input_size,
            config.sigma,
        )
        for name, from_side, side in zip(
            ("resample_rows", "resample_columns"), own.heatmap_size, config.heatmap_size, strict=True
        ):
            self.register_buffer(name, _spread(from_side, side, own.sigma, config.sigma))
        self.peak_scale = (config.sigma / own.sigma) ** 2  # a peak as wide as a label's gets a label's height, 1

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Heatmaps (B, K, h, w) of normalised images (B, C, H, W).

        The teacher sees them at the size that it was trained at, since it is much worse at another.
        """
        size = self.network.config.input_size
        if images.shape[2:] != size:
            images = functional.interpolate(images, size, mode="bilinear", antialias=True)
        heatmaps: Tensor = self.network(images)[:, self.order]
        if self.as_is:
            return heatmaps
        with torch.autocast(images.device.type, enabled=False):
            return self.resample_rows @ heatmaps.float() @ self.resample_columns.T * self.peak_scale


def _spread(count: int, new_count: int, sigma: float, new_sigma: float) -> Tensor:
    """The matrix (new_count, count) that resamples a row of ``count`` pixels to ``new_count`` over the same length.

    A Gaussian of standard deviation ``sigma`` pixels becomes one of ``new_sigma`` new pixels, or, where it is
    too wide for that already, one that is as little wider as the gaps between its pixels allow.
    """
    scale = new_count / count
    centres = resize_points(torch.arange(count), scale)
    variance = max(new_sigma**2 - (scale * sigma) ** 2, (scale / 2) ** 2)
    shares = torch.exp(-((torch.arange(new_count)[:, None] - centres) ** 2) / (2 * variance))
    return shares / shares.sum(dim=0)
