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


def _adapt_heads(tensors: dict[str, Tensor], saved: PoseConfig, model: PoseModel) -> str:
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


def grow(model: PoseModel, smaller: PoseModel) -> None:
    """Make a new, larger network give the heatmaps of a smaller one, from which training then goes on.

    Old channels keep their weights, with zeros for inputs from new channels. New channels keep their initial
    weights, but whatever reads them starts at zero, so they change nothing until training does. An added stack
    is a copy of the smaller network's last, and at first gets the same input.

    The idea is that of Chen et al., "Net2Net", ICLR 2016 (arXiv 1511.05641), who copy channels instead.

    Args:
        model: The larger network, with its initial weights; changed in place.
        smaller: Has at most its width and stacks, and otherwise its config; the input size may differ.

    Raises:
        TypeError: If ``smaller`` is another form of a network, such as ``deploy`` gives.
        ValueError: If ``smaller`` is not smaller, or differs in more than size.
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
    if smaller.skeleton.keypoints != config.skeleton.keypoints:
        raise ValueError(
            f"{config.name} predicts {', '.join(config.skeleton.keypoints)}; {smaller.name}, which it should grow "
            f"from, {', '.join(smaller.skeleton.keypoints)}. Build both with the same skeleton."
        )
    may_differ = {"name", "num_stacks", "width", "skeleton", "input_size"}
    for name in (field.name for field in dataclasses.fields(PoseConfig) if field.name not in may_differ):
        have, wanted = getattr(smaller, name), getattr(config, name)
        if have != wanted and (name != "alpha_init" or config.gate == "fixed"):  # others have learned theirs
            raise ValueError(
                f"{config.name} cannot grow from {smaller.name}: its {name} is {wanted!r}, that one's {have!r}. "
                "They may differ in width and num_stacks alone."
            )
    for name in ("width", "num_stacks"):
        have, wanted = getattr(smaller, name), getattr(config, name)
        if have > wanted:
            raise ValueError(
                f"{config.name} cannot grow from {smaller.name}, which is larger: {name} {have}, not at most {wanted}."
            )


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
    """One value for each channel, in batch norms, biases and gates: the old channels' are the learned ones.

    Args:
        learned: The smaller network's tensor, of any number of dimensions, all but one of size 1.
        fresh: The larger network's tensor, with its initial values.
        quarter: A quarter of the smaller network's width.
        new_quarter: A quarter of the larger one's.
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
