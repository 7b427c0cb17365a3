"""Soft-gated pose networks: small, fast, accurate 2D human pose estimation in PyTorch.

Each public name loads its module, and torch where that needs it, when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:  # the same names, for mypy and editors
    from softgate_pose.config import PoseConfig as PoseConfig
    from softgate_pose.data.images import load_image as load_image
    from softgate_pose.data.images import normalize as normalize
    from softgate_pose.data.people import People as People
    from softgate_pose.data.people import Predictions as Predictions
    from softgate_pose.data.sources import read_people as read_people
    from softgate_pose.evaluation.oks import score_oks as score_oks
    from softgate_pose.evaluation.pck import Evaluation as Evaluation
    from softgate_pose.evaluation.pck import evaluate as evaluate
    from softgate_pose.evaluation.pck import score_keypoints as score_keypoints
    from softgate_pose.evaluation.run import evaluate_source as evaluate_source
    from softgate_pose.export import export_model as export_model
    from softgate_pose.export import load_onnx as load_onnx
    from softgate_pose.factory import create_model as create_model
    from softgate_pose.folder.run import predict_folder as predict_folder
    from softgate_pose.model.base import PoseModel as PoseModel
    from softgate_pose.model.deploy import deploy as deploy
    from softgate_pose.pose.heatmaps import decode_heatmaps as decode_heatmaps
    from softgate_pose.pose.heatmaps import flip_heatmaps as flip_heatmaps
    from softgate_pose.pose.heatmaps import render_heatmaps as render_heatmaps
    from softgate_pose.pose.skeleton import COCO as COCO
    from softgate_pose.pose.skeleton import LSP as LSP
    from softgate_pose.pose.skeleton import MPII as MPII
    from softgate_pose.pose.skeleton import Skeleton as Skeleton
    from softgate_pose.prediction.draw import draw_poses as draw_poses
    from softgate_pose.prediction.poses import Poses as Poses
    from softgate_pose.prediction.predict import predict as predict
    from softgate_pose.prediction.predict import predict_people as predict_people
    from softgate_pose.training.augment import Augmentation as Augmentation
    from softgate_pose.training.loop import Engine as Engine
    from softgate_pose.training.recipe import Recipe as Recipe
    from softgate_pose.training.recipe import get_preset as get_preset
    from softgate_pose.training.run import train as train
    from softgate_pose.training.teacher import Teacher as Teacher
    from softgate_pose.weights.files import push_to_hub as push_to_hub
    from softgate_pose.weights.files import save_pretrained as save_pretrained
    from softgate_pose.zoo import list_models as list_models
    from softgate_pose.zoo import list_pretrained as list_pretrained

_NAMES = {
    "config": ("PoseConfig",),
    "data.images": ("load_image", "normalize"),
    "data.people": ("People", "Predictions"),
    "data.sources": ("read_people",),
    "evaluation.oks": ("score_oks",),
    "evaluation.pck": ("Evaluation", "evaluate", "score_keypoints"),
    "evaluation.run": ("evaluate_source",),
    "export": ("export_model", "load_onnx"),
    "factory": ("create_model",),
    "folder.run": ("predict_folder",),
    "model.base": ("PoseModel",),
    "model.deploy": ("deploy",),
    "pose.heatmaps": ("decode_heatmaps", "flip_heatmaps", "render_heatmaps"),
    "pose.skeleton": ("COCO", "LSP", "MPII", "Skeleton"),
    "prediction.draw": ("draw_poses",),
    "prediction.poses": ("Poses",),
    "prediction.predict": ("predict", "predict_people"),
    "training.augment": ("Augmentation",),
    "training.loop": ("Engine",),
    "training.recipe": ("Recipe", "get_preset"),
    "training.run": ("train",),
    "training.teacher": ("Teacher",),
    "weights.files": ("push_to_hub", "save_pretrained"),
    "zoo": ("list_models", "list_pretrained"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
