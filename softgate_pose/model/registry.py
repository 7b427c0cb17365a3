"""The architectures: which class builds the network of a config."""

from __future__ import annotations

from softgate_pose.config import PoseConfig
from softgate_pose.model.base import PoseModel
from softgate_pose.model.cunet import CUNet
from softgate_pose.model.hourglass import StackedHourglass
from softgate_pose.model.softgate import SoftGatePose

__all__ = ["NETWORKS", "build"]

NETWORKS: dict[str, type[PoseModel]] = {
    "softgate": SoftGatePose,
    "hourglass": StackedHourglass,
    "cunet": CUNet,
}


def build(config: PoseConfig) -> PoseModel:
    """The network of a config, with its initial weights."""
    if config.architecture not in NETWORKS:
        raise ValueError(f"architecture must be one of {', '.join(NETWORKS)}; got {config.architecture!r}.")
    return NETWORKS[config.architecture](config)
