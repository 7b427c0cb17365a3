"""Soft-gated pose networks: small, fast, accurate 2D human pose estimation in PyTorch."""

from softgate_pose.config import PoseConfig
from softgate_pose.factory import create_model
from softgate_pose.model.deploy import deploy
from softgate_pose.pose.heatmaps import decode_heatmaps, flip_heatmaps, render_heatmaps
from softgate_pose.pose.skeleton import COCO, LSP, MPII, Skeleton
from softgate_pose.prediction.poses import Poses
from softgate_pose.prediction.predict import predict
from softgate_pose.weights.files import push_to_hub, save_pretrained
from softgate_pose.zoo import list_models, list_pretrained

__version__ = "0.1.0"

__all__ = [
    "COCO",
    "LSP",
    "MPII",
    "PoseConfig",
    "Poses",
    "Skeleton",
    "__version__",
    "create_model",
    "decode_heatmaps",
    "deploy",
    "flip_heatmaps",
    "list_models",
    "list_pretrained",
    "predict",
    "push_to_hub",
    "render_heatmaps",
    "save_pretrained",
]
