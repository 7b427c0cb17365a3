"""create_model: from a name to a network that is ready to use; and the record of its weights."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import Any

import torch

from softgate_pose import zoo
from softgate_pose.config import PoseConfig
from softgate_pose.model.base import PoseModel
from softgate_pose.model.registry import build
from softgate_pose.pose.skeleton import SKELETONS, Skeleton, get_skeleton
from softgate_pose.weights import files
from softgate_pose.weights.record import TRAINING_FILE, TrainingRecord, read_record, read_training

__all__ = ["create_model", "find_training"]

logger = logging.getLogger(__name__)

_HUB, _LOCAL = "hf-hub:", "local-dir:"

_NETWORK = ("architecture", "num_stacks", "width", "depth", "gate", "merge", "skip", "heatmap")
"""Settings that weights are bound to."""


def create_model(
    name: str,
    pretrained: bool | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    num_keypoints: int | None = None,
    skeleton: str | Skeleton | Sequence[str] | None = None,
    in_chans: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    **settings: Any,
) -> PoseModel:
    """Build a pose network, in evaluation mode.

    The name says which, and whether there are weights to load:

    - ``sgpose_small_4s``: a named config; with ``pretrained=True`` its published weights.
    - ``sgpose_0m5_1s.sports``: a named config and which of its weights.
    - ``hf-hub:owner/repo@revision``: what ``push_to_hub`` published; the revision may be left out.
    - ``local-dir:path``: what ``save_pretrained`` wrote.

    Args:
        name: One of the above; ``list_models()`` and ``list_pretrained()`` show what there is.
        pretrained: Whether to load the weights. None loads them if the name itself means weights: with a tag,
            ``hf-hub:`` or ``local-dir:``. False downloads only the config of a Hub repository.
        checkpoint: Load these weights instead: a ``.safetensors`` file or a folder. The input size,
            skeleton and normalisation come from it too, if it was saved by this package.
        num_keypoints: Another number of keypoints: 14 are LSP's, 16 MPII's and 17 COCO's; with any other number all
            heads are new.
        skeleton: Another skeleton: its name, a ``Skeleton``, or a list of keypoint names. The heads of
            keypoints that the weights know by name are kept. Names that begin with ``left_`` and
            ``right_`` are each other's mirror image, which the flip test and training rely on.
        in_chans: Another number of input channels; the stem's weights are adapted.
        device: The model's device.
        dtype: The type of its parameters.
        channels_last: Whether its weights use the channels-last layout, faster on most devices.
        **settings: Other fields of ``PoseConfig``: ``gate``, ``alpha_init``, ``merge``, ``skip``,
            ``num_stacks``, ``width``, ``depth``, ``input_size``, ``mean``, ``std``, ``heatmap``, ``sigma``.

    Raises:
        FileNotFoundError: If a file, folder or repository does not exist.
        OSError: If a download fails.
        RuntimeError: If the weights do not fit, or are not those that were published.
        TypeError: If a setting is unknown.
        ValueError: If the name or a setting's value is wrong, or there are no weights to load.
    """
    if checkpoint is not None and pretrained:
        raise ValueError("Give either pretrained=True or checkpoint=, not both.")
    fields = {field.name for field in dataclasses.fields(PoseConfig)}
    allowed = sorted(fields - {"name", "architecture", "skeleton", "in_chans"})  # the name says them, or an argument
    unknown = sorted(settings.keys() - {*allowed})
    if unknown:
        raise TypeError(f"create_model got unknown settings {', '.join(unknown)}; known are {', '.join(allowed)}.")
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}

    base, weights = _find(name, pretrained, checkpoint)
    config = _resolve(base, weights, in_chans, settings)
    config = config.replace(skeleton=_skeleton(config.skeleton, num_keypoints, skeleton))
    model = build(config)
    if weights is not None:
        tensors = files.read_tensors(weights.file)
        if weights.config is not None:
            tensors, notes = model.adapt(tensors, weights.config)
            for note in notes:
                logger.warning("%s: %s.", config.name, note)
        files.load_tensors(model, tensors, str(weights.file))
    memory_format = torch.channels_last if channels_last else torch.preserve_format
    model.to(device=device, dtype=dtype, memory_format=memory_format)  # type: ignore[call-overload]
    return model.eval()


def find_training(
    name: str, pretrained: bool | None = None, *, checkpoint: str | os.PathLike[str] | None = None
) -> TrainingRecord | None:
    """How the weights that ``create_model`` would load for these arguments were trained; None if it would load none.

    Weights without a record get one that says so.
    """
    if pretrained is False and checkpoint is None:
        return None
    record: TrainingRecord = {}
    if checkpoint is not None or name.startswith(_LOCAL):
        checkpoint = checkpoint or name.removeprefix(_LOCAL)
        file = files.find_checkpoint(checkpoint).file.parent / TRAINING_FILE
        record = read_record(file) if file.is_file() else {}
    elif not name.startswith(_HUB):
        if not (pretrained or "." in name):
            return None
        record = read_training(zoo.get_pretrained(name))
    return record or {"data": [f"weights {checkpoint or name}, whose training is not recorded"]}


def _find(
    name: str, pretrained: bool | None, checkpoint: str | os.PathLike[str] | None
) -> tuple[PoseConfig, files.Checkpoint | None]:
    """The config that a name stands for, and the weights to load, if any."""
    if not isinstance(name, str):
        raise ValueError(f"A model's name must be a string, got {name!r}. list_models() shows all {len(zoo.MODELS)}.")
    model_name, dot, _ = name.partition(".")
    is_zoo = not name.startswith((_HUB, _LOCAL))
    wants_weights = checkpoint is None and (pretrained if pretrained is not None else bool(dot) or not is_zoo)
    weights = None
    if is_zoo:
        if model_name not in zoo.MODELS and ("/" in name or os.path.exists(name)):  # noqa: PTH110
            raise ValueError(
                f"{name!r} is not a model's name. Weights in a folder are local-dir:{name}; a repository on the Hub is "
                "hf-hub:OWNER/NAME."
            )
        base = zoo.get_entry(model_name).config
        entry = zoo.get_pretrained(name) if dot or wants_weights else None
        weights = files.fetch_published(entry) if entry is not None and wants_weights else None
    elif name.startswith(_HUB) and not wants_weights:
        base = files.fetch_config(*_repository(name))
    else:
        if name.startswith(_HUB):
            weights = files.fetch_checkpoint(*_repository(name))
        else:
            weights = files.find_checkpoint(name.removeprefix(_LOCAL))
        if weights.config is None:
            raise ValueError(f"{name} carries no config; name the model and pass its safetensors file as checkpoint=.")
        base = weights.config
        files.check_shapes_fit_config(weights)
    if checkpoint is not None:
        weights = files.find_checkpoint(checkpoint)
        files.check_shapes_fit_config(weights)
        return base, weights
    return base, weights if wants_weights else None


def _repository(name: str) -> tuple[str, str | None]:
    repo, _, revision = name.removeprefix(_HUB).partition("@")
    return repo, revision or None


def _resolve(
    base: PoseConfig, weights: files.Checkpoint | None, in_chans: int | None, settings: dict[str, Any]
) -> PoseConfig:
    """The config to build: the named one, or that of the weights, which must be of the named network."""
    named = _change(base, in_chans, settings)
    if weights is None or weights.config is None:
        return named
    bound = (*_NETWORK, "alpha_init") if weights.config.gate == "fixed" else _NETWORK
    saved = _change(weights.config, in_chans, {key: settings[key] for key in settings if key not in bound})
    left_open = {"heatmap", "alpha_init"} - settings.keys()  # the weights decide
    for key in bound:
        if key not in left_open and getattr(named, key) != getattr(saved, key):
            raise RuntimeError(
                f"{weights.file} does not fit {named.name}: it was saved from {saved.name}, whose {key} is "
                f"{getattr(saved, key)!r}, not {getattr(named, key)!r}. Build that model, or leave out these weights."
            )
    return saved


def _change(config: PoseConfig, in_chans: int | None, settings: dict[str, Any]) -> PoseConfig:
    """The config with other channels and settings; its name lists those in which it differs from the named model."""
    if in_chans is not None:
        config = config.with_in_chans(in_chans)
    bound = [key for key in _NETWORK if key in settings and settings[key] != getattr(config, key)]
    differing = ", ".join(f"{key}={settings[key]!r}" for key in bound)
    name = f"{config.name} with {differing}" if differing else config.name
    return config.replace(name=name, **settings)


def _skeleton(
    present: Skeleton, num_keypoints: int | None, skeleton: str | Skeleton | Sequence[str] | None
) -> Skeleton:
    if skeleton is not None:
        wanted = get_skeleton(skeleton)
        if num_keypoints not in (None, len(wanted)):
            raise ValueError(
                f"num_keypoints={num_keypoints}, but skeleton {wanted.name!r} has {len(wanted)} keypoints."
            )
        return wanted
    if num_keypoints in (None, len(present)):
        return present
    same_length = (other for other in SKELETONS.values() if len(other) == num_keypoints)
    return next(same_length, None) or Skeleton.unnamed(num_keypoints)
