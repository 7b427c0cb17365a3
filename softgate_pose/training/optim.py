"""What a run trains with: Accelerate's view of the machine, the optimizer and the learning rate's schedule."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from softgate_pose.training.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["make_accelerator", "make_optimizer", "make_schedule"]

_PROCESS_TIMEOUT = timedelta(days=1)  # the others wait for the first process while it validates and measures


def make_accelerator(recipe: Recipe, device_name: str) -> Accelerator:
    """A new Accelerator, whatever an earlier run in this process, or a launcher's settings, were."""
    try:
        from accelerate import Accelerator, PartialState
        from accelerate.state import AcceleratorState
        from accelerate.utils import DistributedType, GradientAccumulationPlugin, InitProcessGroupKwargs
    except ImportError:
        raise ImportError("Training needs Accelerate: pip install 'softgate-pose[train]'.") from None
    if PartialState._shared_state:
        # Accelerate keeps the precision, and in a single process the device, of an earlier run; reset both.
        alone = PartialState().distributed_type == DistributedType.NO
        AcceleratorState._reset_state(reset_partial_state=alone)
    try:
        device = torch.device(device_name)
    except RuntimeError:
        raise ValueError(f"A device is called cpu, cuda or cuda:1, for example; got {device_name!r}.") from None
    if device.type == "cuda" and device.index is not None and torch.cuda.is_available():
        torch.cuda.set_device(device)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if recipe.precision == "fp32" else recipe.precision,
        # as a plugin, which a launcher's environment does not override
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=recipe.accumulate),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PROCESS_TIMEOUT)],
    )
    if accelerator.device.type != device.type:
        raise ValueError(
            f"The device {device_name!r} is not available here, {accelerator.device.type!r} is; "
            f"pass device={accelerator.device.type!r}."
        )
    return accelerator


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer; weight decay spares biases, norms and what the model's ``no_weight_decay`` names."""
    from timm.optim import create_optimizer_v2

    settings = {"opt": recipe.optimizer, "lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(model, **settings, **recipe.optimizer_settings)
    except (TypeError, IndexError, ValueError) as error:  # not all optimizers check their settings themselves
        raise ValueError(f"optimizer_settings do not fit {recipe.optimizer}: {error}.") from None
    return optimizer


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> Any:
    """The recipe's schedule as one of timm's, which counts steps, of which an epoch has ``steps``."""
    from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler

    warmup_steps = min(round(recipe.warmup * recipe.epochs * steps), recipe.epochs * steps - 1)
    warmup = {"warmup_t": warmup_steps, "warmup_lr_init": recipe.learning_rate / 100 if warmup_steps else 0.0}
    if recipe.schedule == "step":
        milestones = [milestone * steps + 1 for milestone in recipe.milestones]  # timm drops one step before
        return MultiStepLRScheduler(
            optimizer, milestones, recipe.decay, t_in_epochs=False, warmup_prefix=False, **warmup
        )
    length = recipe.epochs * steps - warmup_steps  # timm counts the cosine from the warm-up's end
    return CosineLRScheduler(optimizer, t_initial=length, t_in_epochs=False, warmup_prefix=True, **warmup)
