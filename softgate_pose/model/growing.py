"""A larger network that starts with what a smaller one has learned."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from softgate_pose.config import PoseConfig
from softgate_pose.model.network import SoftGatePose

__all__ = ["grow"]


def grow(model: SoftGatePose, smaller: SoftGatePose) -> None:
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
    if not isinstance(smaller, SoftGatePose):
        raise TypeError(f"A model grows from one of create_model, got {type(smaller).__name__}.")
    _check(model.config, smaller.config)
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


def _check(config: PoseConfig, smaller: PoseConfig) -> None:
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
