"""What one network has learned, given to another: of another skeleton, of other input channels, or larger."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from softgate_pose.config import PoseConfig
from softgate_pose.model.base import PoseModel

__all__ = ["adapt_tensors", "grow"]


def adapt_tensors(
    tensors: Mapping[str, Tensor], saved: PoseConfig, model: PoseModel
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights of the config ``saved``, all of them, made to fit a model; and one line for each thing that changed.

    Heads, and the convolutions that hand heatmaps to the next stack, keep the channels of keypoints
    that both skeletons name, whose heatmaps stay what they were: what the heatmap of a dropped keypoint
    contributed to the next stack is folded into the convolution that passes the features on. A new keypoint's
    head keeps the model's initial values, and the next stack ignores its heatmap until training changes that.
    The stem's filters are summed for one input channel, else repeated in turn and scaled, so that activations
    keep their size. Another input size changes no weight, but is one of the lines.
    """
    tensors = dict(tensors)
    config, notes = model.config, []
    if saved.skeleton.keypoints != config.skeleton.keypoints:
        notes.append(_adapt_heads(tensors, saved, model))
    if saved.in_chans != config.in_chans:
        tensors["stem.0.weight"] = _adapt_channels(tensors["stem.0.weight"], config.in_chans)
        notes.append(f"stem adapted from {saved.in_chans} to {config.in_chans} input channels")
    if saved.input_size != config.input_size:
        learned, now = ("{}x{} px".format(*size) for size in (saved.input_size, config.input_size))
        notes.append(
            f"trained at {learned}; at {now} people are of another size, and found less well until trained there"
        )
    return tensors, notes


def _adapt_heads(tensors: dict[str, Tensor], saved: PoseConfig, model: PoseModel) -> str:
    """Give the heads, and what hands heatmaps on, the model's keypoints, in place; a line that says which stay."""
    old, new = saved.skeleton, model.config.skeleton
    shared = [name for name in new.keypoints if old.is_named and new.is_named and name in old.keypoints]
    old_rows, new_rows = old.indices(shared), new.indices(shared)
    _fold_heads(tensors, saved.num_stacks, [row for row in range(len(old)) if row not in old_rows])
    for key, initial in model.state_dict().items():
        if key.startswith("heads."):
            along = 0  # weight (K, N, 1, 1) and bias (K,)
        elif key.startswith("heatmap_joins.") and key.endswith(".weight"):
            along = 1  # weight (N, K, 1, 1)
        else:
            continue
        adapted = initial.detach().to("cpu", tensors[key].dtype, copy=True)
        if along == 1:
            adapted.zero_()
        source = tensors[key].index_select(along, torch.tensor(old_rows, dtype=torch.long))
        tensors[key] = adapted.index_copy(along, torch.tensor(new_rows, dtype=torch.long), source)
    added = [name for name in new.keypoints if name not in shared]
    which = f" ({', '.join(shared)})" if shared else ""
    return (
        f"heads kept for {len(shared)} of {len(new)} keypoints{which}; new and untrained: {', '.join(added) or 'none'}"
    )


def _fold_heads(tensors: dict[str, Tensor], num_stacks: int, dropped: list[int]) -> None:
    """Fold what the heatmaps of dropped keypoints contribute to the next stack into its feature convolution.

    A head and the convolution that hands its heatmaps on are both 1×1, so the contribution is a linear map of
    the features: two 1×1 convolutions in a row are one matrix product.
    """
    for stack in range(num_stacks - 1):
        if not dropped or f"heatmap_joins.{stack}.weight" not in tensors:
            return  # there is nothing to fold, or the architecture hands on features alone
        join = tensors[f"heatmap_joins.{stack}.weight"].double()[:, dropped].flatten(1)  # (N, dropped)
        for part in ("weight", "bias"):
            head = tensors[f"heads.{stack}.{part}"].double()[dropped].reshape(len(dropped), -1)  # (dropped, N or 1)
            own = tensors[f"feature_joins.{stack}.{part}"]
            tensors[f"feature_joins.{stack}.{part}"] = (own.double() + (join @ head).view_as(own)).to(own.dtype)


def _adapt_channels(weight: Tensor, in_chans: int) -> Tensor:
    if in_chans == 1:
        return weight.sum(dim=1, keepdim=True)
    turns = torch.arange(in_chans) % weight.shape[1]
    return weight[:, turns] * (weight.shape[1] / in_chans)


def grow(model: PoseModel, smaller: PoseModel) -> None:
    """Make a new, larger network give the heatmaps of a smaller one, from which training then goes on.

    Old channels keep their weights, with zeros for inputs from new channels. New channels keep their initial
    weights, but whatever reads them starts at zero, so they change nothing until training does. An added stack
    is a copy of the smaller network's last, and at first gets the same input. ``model`` is changed in place.

    The idea is that of Chen et al., "Net2Net", ICLR 2016 (arXiv 1511.05641), who copy channels instead.
    """
    if type(smaller) is not type(model):
        raise TypeError(f"A {type(model).__name__} grows from a smaller one, got {type(smaller).__name__}.")
    _check_can_grow(model.config, smaller.config)
    learned = smaller.state_dict()
    grown = {}
    for key, fresh in model.state_dict().items():
        source = _source(key, smaller.config.num_stacks)
        if source is None:
            grown[key] = torch.zeros_like(fresh)
            continue
        widened = _widened_channels if fresh.dim() < 4 or key.endswith(".alpha") else _widened_convolution
        grown[key] = widened(learned[source].to(fresh), fresh, smaller.config.width // 4, model.config.width // 4)
    model.load_state_dict(grown)


def _check_can_grow(config: PoseConfig, smaller: PoseConfig) -> None:
    """Raise ValueError unless the smaller network can grow into the other."""
    refused = f"{config.name} cannot grow from {smaller.name}: "
    # a stack of CU-Net reads all earlier ones, so that no two are of one shape
    sizes = {"width"} if config.architecture == "cunet" else {"width", "num_stacks"}
    for field in dataclasses.fields(PoseConfig):
        have, wanted = getattr(smaller, field.name), getattr(config, field.name)
        if field.name == "skeleton":
            have, wanted = have.keypoints, wanted.keypoints
        if field.name == "alpha_init" and config.gate != "fixed":
            continue  # both have learned theirs
        if have != wanted and field.name not in {"name", "input_size", *sizes}:
            raise ValueError(
                f"{refused}its {field.name} must be that one's, {have!r}, got {wanted!r}. "
                f"Only {' and '.join(sorted(sizes))} may be larger."
            )
        if field.name in sizes and have > wanted:
            raise ValueError(f"{refused}its {field.name} must be at least {have}, got {wanted}.")


def _source(key: str, num_stacks: int) -> str | None:
    """The tensor of a network of ``num_stacks`` that a tensor starts from; None for what feeds an added stack."""
    part, _, rest = key.partition(".")
    if part == "stem":
        return key
    stack, _, rest = rest.partition(".")
    if part in ("feature_joins", "heatmap_joins"):
        return key if int(stack) < num_stacks - 1 else None
    return f"{part}.{min(int(stack), num_stacks - 1)}.{rest}"


def _widened_channels(learned: Tensor, fresh: Tensor, quarter: int, new_quarter: int) -> Tensor:
    """One value for each channel, in batch norms, biases and gates, all other dimensions being of size 1.

    The old channels' are the learned ones. The quarters are those of the widths.
    """
    grown = fresh.clone()
    values = grown.view(-1)
    values[_places(learned.numel(), values.numel(), quarter, new_quarter)] = learned.flatten()
    return grown


def _widened_convolution(learned: Tensor, fresh: Tensor, quarter: int, new_quarter: int) -> Tensor:
    """A convolution's weight (O, I, k, k), whose old outputs read the old inputs as they did, and no new one."""
    rows, columns = (
        _places(old, new, quarter, new_quarter) for old, new in zip(learned.shape[:2], fresh.shape[:2], strict=True)
    )
    grown = fresh.clone()
    grown[rows] = 0
    grown[rows[:, None], columns] = learned
    return grown


def _places(count: int, new_count: int, quarter: int, new_quarter: int) -> Tensor:
    """Where the old channels are among the new ones.

    A block's output is a half and two quarters, and a merge reads two outputs: every group of channels is made
    of quarters of the width, and each quarter of the smaller network begins one of the larger.
    """
    old = torch.arange(count)
    return old if count == new_count else old // quarter * new_quarter + old % quarter
