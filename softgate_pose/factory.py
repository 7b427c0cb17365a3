"""create_model: from a name to a network that is ready to use, and to what is known of its weights."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from softgate_pose import zoo
from softgate_pose.config import PoseConfig
from softgate_pose.model.softgate import SoftGatePose
from softgate_pose.model.transfer import adapt_tensors
from softgate_pose.pose.skeleton import SKELETONS, Skeleton, get_skeleton
from softgate_pose.weights import files as weights
from softgate_pose.weights.record import TRAINING_FILE, TrainingRecord, read_record

__all__ = ["create_model", "find_training"]

logger = logging.getLogger(__name__)

_HUB, _LOCAL = "hf-hub:", "local-dir:"

_NETWORK = ("num_stacks", "width", "depth", "gate", "merge", "skip", "heatmap")
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
) -> SoftGatePose:
    """Build a pose network, in evaluation mode.

    The name says which, and whether there are weights to load:

    - ``sgpose_small_4s``: a named config; with ``pretrained=True`` its published weights.
    - ``sgpose_0m5_1s.sports``: a named config and which of its weights.
    - ``hf-hub:owner/repo@revision``: what ``push_to_hub`` published; the revision may be left out.
    - ``local-dir:path``: what ``save_pretrained`` wrote.

    Args:
        name: One of the above; ``list_models()`` and ``list_pretrained()`` show what there is.
        pretrained: Load the weights. Left out, they are loaded where the name itself means weights:
            with a tag, ``hf-hub:`` and ``local-dir:``. False builds the network alone; of a Hub
            repository it downloads nothing but the config.
        checkpoint: Load these weights instead: a ``.safetensors`` file or a folder. The input size,
            skeleton and normalisation come from it too, if it was saved by this package.
        num_keypoints: Another number of keypoints: 14 are LSP's, 16 MPII's and 17 COCO's; of any other
            number nothing is known, and all heads are new.
        skeleton: Another skeleton: its name, a ``Skeleton``, or a list of keypoint names. The heads of
            keypoints that the weights know by name are kept. Names that begin with ``left_`` and
            ``right_`` are each other's mirror image, which flip test and training need to know.
        in_chans: Another number of input channels; the stem's weights are adapted.
        device: Where to put it.
        dtype: Of its parameters.
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
    allowed = {field.name for field in dataclasses.fields(PoseConfig)} - {"name", "skeleton", "in_chans"}
    unknown = sorted(set(settings) - allowed)
    if unknown:
        raise TypeError(
            f"create_model got unknown settings {', '.join(unknown)}; known are {', '.join(sorted(allowed))}."
        )

    base, found = _find(name, pretrained, checkpoint)
    changes = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    config = _resolved(base, found, in_chans, changes)
    config = config.replace(skeleton=_skeleton(config.skeleton, num_keypoints, skeleton))

    model = SoftGatePose(config)
    if found is not None:
        tensors = weights.read_tensors(found.file)
        if found.config is not None:
            tensors, notes = adapt_tensors(tensors, found.config, model)
            for note in notes:
                logger.warning("%s: %s.", config.name, note)
        weights.load_tensors(model, tensors, str(found.file))
    memory_format = torch.channels_last if channels_last else torch.preserve_format
    model.to(device=device, dtype=dtype, memory_format=memory_format)  # type: ignore[call-overload]
    return model.eval()


def find_training(
    name: str, pretrained: bool | None = None, *, checkpoint: str | os.PathLike[str] | None = None
) -> TrainingRecord | None:
    """How the weights that ``create_model`` would load for these arguments were trained.

    Returns:
        Their record; for weights without one, a record that says so. None if
        these arguments load no weights.

    Raises:
        FileNotFoundError: If there are no weights in that folder.
        ValueError: If the name is unknown, or the ``training.json`` beside the weights cannot be used.
    """
    if pretrained is False and checkpoint is None:
        return None
    if checkpoint is None and name.startswith(_LOCAL):
        checkpoint = name.removeprefix(_LOCAL)
    if checkpoint is not None:
        file = weights.find_checkpoint(checkpoint).file.parent / TRAINING_FILE
        known: TrainingRecord = read_record(file) if file.is_file() else {}
    elif name.startswith(_HUB):
        known = {}
    elif pretrained or "." in name:
        known = zoo.read_training(zoo.get_pretrained(name))
    else:
        return None
    return known or {"data": [f"weights {checkpoint or name}, whose training is not recorded"]}


def _find(
    name: str, pretrained: bool | None, checkpoint: str | os.PathLike[str] | None
) -> tuple[PoseConfig, weights.Checkpoint | None]:
    """The config that a name stands for, and the weights to load, if any."""
    if not isinstance(name, str):
        raise ValueError(f"A model's name must be a string, got {name!r}. list_models() shows all {len(zoo.MODELS)}.")
    found = None
    if name.startswith(_HUB):
        repo, _, revision = name.removeprefix(_HUB).partition("@")
        if pretrained is False or checkpoint is not None:  # its weights need not be downloaded
            base = weights.read_hub_config(repo, revision or None)
        else:
            found = weights.find_hub(repo, revision or None)
            base = _own_config(found)
    elif name.startswith(_LOCAL):
        found = weights.find_checkpoint(name.removeprefix(_LOCAL))
        base = _own_config(found)
        if pretrained is False:
            found = None
    else:
        model_name, dot, _ = name.partition(".")
        if model_name not in zoo.MODELS and ("/" in name or os.path.exists(name)):  # noqa: PTH110
            raise ValueError(
                f"{name!r} is no model's name. Weights in a folder are local-dir:{name}; a repository on the Hub is "
                "hf-hub:OWNER/NAME."
            )
        base = zoo.get_entry(model_name).config
        use = bool(dot) if pretrained is None else pretrained
        if dot or use:
            entry = zoo.get_pretrained(name)
        if use and checkpoint is None:
            found = weights.find_published(entry)
    if checkpoint is not None:
        found = weights.find_checkpoint(checkpoint)
        weights.check_shapes_fit_config(found)
    return base, found


def _own_config(found: weights.Checkpoint) -> PoseConfig:
    """The config that weights carry, seen to fit them."""
    if found.config is None:
        raise ValueError(f"{found.file} carries no config; name the model and pass checkpoint={str(found.file)!r}.")
    weights.check_shapes_fit_config(found)
    return found.config


def _resolved(
    base: PoseConfig, found: weights.Checkpoint | None, in_chans: int | None, changes: Mapping[str, Any]
) -> PoseConfig:
    """The config to build: what was asked for, or that of the weights, which must be of the network asked for."""
    asked = _changed(base, in_chans, changes)
    if found is None or found.config is None:
        return asked
    bound = (*_NETWORK, "alpha_init") if found.config.gate == "fixed" else _NETWORK
    stored = _changed(found.config, in_chans, {key: changes[key] for key in changes if key not in bound})
    # what the user left open is for the weights to say
    left_open = {"heatmap", "alpha_init"} - changes.keys()
    for key in bound:
        if key not in left_open and getattr(asked, key) != getattr(stored, key):
            raise RuntimeError(
                f"{found.file} does not fit {asked.name}: it was saved from {stored.name}, whose {key} is "
                f"{getattr(stored, key)!r}, not {getattr(asked, key)!r}. Build that model, or leave out these weights."
            )
    return stored


def _changed(config: PoseConfig, in_chans: int | None, changes: Mapping[str, Any]) -> PoseConfig:
    """The config with other channels and settings; its name lists those in which it differs from the named model."""
    if in_chans is not None:
        config = config.with_in_chans(in_chans)
    differing = [
        f"{key}={changes[key]!r}" for key in _NETWORK if key in changes and changes[key] != getattr(config, key)
    ]
    name = f"{config.name} with {', '.join(differing)}" if differing else config.name
    return config.replace(name=name, **changes)


def _skeleton(
    present: Skeleton, num_keypoints: int | None, skeleton: str | Skeleton | Sequence[str] | None
) -> Skeleton:
    if skeleton is not None:
        wanted = get_skeleton(skeleton)
        if num_keypoints is not None and num_keypoints != len(wanted):
            raise ValueError(
                f"num_keypoints={num_keypoints}, but skeleton {wanted.name!r} has {len(wanted)} keypoints."
            )
        return wanted
    if num_keypoints is None or num_keypoints == len(present):
        return present
    for known in SKELETONS.values():
        if len(known) == num_keypoints:
            return known
    return Skeleton.unnamed(num_keypoints)
