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
    that both skeletons name, whose heatmaps stay what they were: what the heatmap of a dropped keypoint
    contributed to the next stack is folded into the convolution that passes the features on. A new keypoint's
    head keeps the model's initial values, and the next stack ignores its heatmap until training changes that.
    The stem's filters are summed for one input channel, else repeated in turn and scaled, so that activations
    keep their size.

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
        notes.append(_adapt_heads(tensors, saved, model))
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


def _adapt_heads(tensors: dict[str, Tensor], saved: PoseConfig, model: SoftGatePose) -> str:
    """Give the heads, and what hands heatmaps on, the model's keypoints, in place; a line that says which are kept."""
    wanted = model.config
    named = saved.skeleton.is_named and wanted.skeleton.is_named
    kept = [name for name in wanted.skeleton.keypoints if named and name in saved.skeleton.keypoints]
    saved_rows, wanted_rows = saved.skeleton.indices(kept), wanted.skeleton.indices(kept)
    _fold_heads(tensors, saved, [row for row in range(saved.num_keypoints) if row not in saved_rows])
    for key, initial in model.state_dict().items():
        if key.startswith("heads."):
            along = 0  # weight (K, N, 1, 1) and bias (K,)
        elif key.startswith("heatmap_joins.") and key.endswith(".weight"):
            along = 1  # weight (N, K, 1, 1)
        else:
            continue
        learned = tensors.get(key)
        if learned is None or learned.dim() != initial.dim() or learned.shape[along] != saved.num_keypoints:
            continue  # does not fit its own config: load_tensors says so
        adapted = initial.detach().to("cpu", learned.dtype, copy=True)
        if along == 1:
            adapted.zero_()
        source = learned.index_select(along, torch.tensor(saved_rows, dtype=torch.long))
        tensors[key] = adapted.index_copy(along, torch.tensor(wanted_rows, dtype=torch.long), source)
    added = [name for name in wanted.skeleton.keypoints if name not in kept]
    which = f" ({', '.join(kept)})" if kept else ""
    return (
        f"heads kept for {len(kept)} of {wanted.num_keypoints} keypoints{which}; "
        f"new and untrained: {', '.join(added) or 'none'}"
    )


def _fold_heads(tensors: dict[str, Tensor], saved: PoseConfig, dropped: list[int]) -> None:
    """Fold what the heatmaps of dropped keypoints contribute to the next stack into its feature convolution.

    A head and the convolution that hands its heatmaps on are both 1×1, so the contribution is a linear map of
    the features: two 1×1 convolutions in a row are one matrix product.
    """
    width, num_keypoints = saved.width, saved.num_keypoints
    for stack in range(saved.num_stacks - 1):
        heatmap_join, head = f"heatmap_joins.{stack}.weight", f"heads.{stack}"
        feature_join = f"feature_joins.{stack}"
        shapes = {
            heatmap_join: (width, num_keypoints, 1, 1),
            f"{head}.weight": (num_keypoints, width, 1, 1),
            f"{head}.bias": (num_keypoints,),
            f"{feature_join}.weight": (width, width, 1, 1),
            f"{feature_join}.bias": (width,),
        }
        if any(key not in tensors or tensors[key].shape != shape for key, shape in shapes.items()):
            continue  # does not fit its own config: load_tensors says so
        join = tensors[heatmap_join].double()[:, dropped].flatten(1)  # (N, dropped)
        weight = tensors[f"{head}.weight"].double()[dropped].flatten(1)  # (dropped, N)
        bias = tensors[f"{head}.bias"].double()[dropped]
        for key, extra in ((f"{feature_join}.weight", join @ weight), (f"{feature_join}.bias", join @ bias)):
            own = tensors[key]
            tensors[key] = (own.double() + extra.view_as(own)).to(own.dtype)


def _adapt_channels(weight: Tensor, in_chans: int) -> Tensor:
    if in_chans == 1:
        return weight.sum(dim=1, keepdim=True)
    turns = torch.arange(in_chans) % weight.shape[1]
    return weight[:, turns] * (weight.shape[1] / in_chans)
