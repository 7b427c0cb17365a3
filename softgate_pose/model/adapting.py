"""Weights made to fit another skeleton and other input channels than they were trained with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from softgate_pose.config import PoseConfig
from softgate_pose.model.network import SoftGatePose

__all__ = ["adapt_tensors"]


def adapt_tensors(
    tensors: Mapping[str, Tensor], saved: PoseConfig, model: SoftGatePose
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights of one skeleton and number of channels, made to fit a model of another.

    Heads, and the convolutions that hand heatmaps to the next stack, keep the channels of keypoints
    that both skeletons name, whose heatmaps stay what they were: what a dropped keypoint's told the next
    stack, the convolution of the features tells it. A new keypoint's head keeps the model's initial values,
    and its heatmap is first ignored by the next stack. The stem's filters are summed for one input channel,
    else repeated in turn and scaled, so that activations keep their size.

    Args:
        tensors: Weights of a network of the config ``saved``.
        saved: The config that the weights were saved with.
        model: The network they are for.

    Returns:
        The adapted weights, and one line for each thing that changed. Another input size changes no
        weight, but is one of them.
    """
    tensors = dict(tensors)
    config, notes = model.config, []
    if saved.skeleton.keypoints != config.skeleton.keypoints:
        old_names, new_names = saved.skeleton.keypoints, config.skeleton.keypoints
        named = saved.skeleton.is_named and config.skeleton.is_named
        kept = [name for name in new_names if named and name in old_names]
        new, old = config.skeleton.indices(kept), saved.skeleton.indices(kept)
        _fold_heads(tensors, saved, [i for i in range(len(old_names)) if i not in old])
        for key, value in model.state_dict().items():
            if key.startswith("heads."):
                along = 0  # weight (K, N, 1, 1) and bias (K,)
            elif key.startswith("heatmap_joins.") and key.endswith(".weight"):
                along = 1  # weight (N, K, 1, 1)
            else:
                continue
            if key not in tensors or tensors[key].dim() != value.dim() or tensors[key].shape[along] != len(old_names):
                continue  # does not fit its own config: load_tensors says so
            fresh = value.detach().to("cpu", tensors[key].dtype, copy=True)
            if along == 1:
                fresh.zero_()
            source = tensors[key].index_select(along, torch.tensor(old, dtype=torch.long))
            tensors[key] = fresh.index_copy(along, torch.tensor(new, dtype=torch.long), source)
        added = [name for name in new_names if name not in kept]
        which = f" ({', '.join(kept)})" if kept else ""
        notes.append(
            f"heads kept for {len(kept)} of {len(new_names)} keypoints{which}; "
            f"new and untrained: {', '.join(added) or 'none'}"
        )
    key = "stem.0.weight"
    if saved.in_chans != config.in_chans and key in tensors and tensors[key].dim() == 4:
        tensors[key] = _adapt_channels(tensors[key], config.in_chans)
        notes.append(f"stem adapted from {saved.in_chans} to {config.in_chans} input channels")
    if saved.input_size != config.input_size:
        learned, now = ("{}x{} px".format(*size) for size in (saved.input_size, config.input_size))
        notes.append(
            f"trained at {learned}; at {now} people are of another size, and found less well until trained there"
        )
    return tensors, notes


def _fold_heads(tensors: dict[str, Tensor], saved: PoseConfig, dropped: list[int]) -> None:
    """Let the next stack hear through a stack's features what the heatmaps of dropped keypoints told it.

    Between the two lies a head's 1×1 convolution alone, so that both ways are linear maps of the features.
    """
    width, num_keypoints = saved.width, saved.num_keypoints
    for stack in range(saved.num_stacks - 1):
        shapes = {
            f"heatmap_joins.{stack}.weight": (width, num_keypoints, 1, 1),
            f"heads.{stack}.weight": (num_keypoints, width, 1, 1),
            f"heads.{stack}.bias": (num_keypoints,),
            f"feature_joins.{stack}.weight": (width, width, 1, 1),
            f"feature_joins.{stack}.bias": (width,),
        }
        if any(key not in tensors or tensors[key].shape != shape for key, shape in shapes.items()):
            continue  # does not fit its own config: load_tensors says so
        join, weight, bias = (tensors[key].double() for key in list(shapes)[:3])
        through = join[:, dropped].flatten(1)  # (N, dropped)
        told = through @ weight[dropped].flatten(1), through @ bias[dropped]
        for key, more in zip(list(shapes)[3:], told, strict=True):
            own = tensors[key]
            tensors[key] = (own.double() + more.view_as(own)).to(own.dtype)


def _adapt_channels(weight: Tensor, in_chans: int) -> Tensor:
    if in_chans == 1:
        return weight.sum(dim=1, keepdim=True)
    turns = torch.arange(in_chans) % weight.shape[1]
    return weight[:, turns] * (weight.shape[1] / in_chans)
