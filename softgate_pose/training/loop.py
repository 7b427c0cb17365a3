"""The training loop: one device, one process, one checkpoint after every epoch."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from softgate_pose.evaluation import evaluate
from softgate_pose.model.network import SoftGatePose
from softgate_pose.people import People
from softgate_pose.training.augment import Augmentation, Crops, augment, batches, crop_people
from softgate_pose.training.losses import heatmap_loss

__all__ = ["Recipe", "fit"]

logger = logging.getLogger(__name__)


OPTIMIZERS = ("adamw", "lion", "momentum", "nadamw", "radam", "rmsprop", "rmsproptf", "sgd")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        epochs: Passes over the people.
        batch_size: People a step.
        optimizer: One of timm's that resume exactly from the tensors they keep: see ``OPTIMIZERS``.
        learning_rate: At its peak, after the warm-up; from there it falls to 0 along a cosine.
        weight_decay: Of the convolutions' weights; never of gates, biases and batch norms.
        warmup: Share of all steps over which the learning rate rises.
        ema_decay: Of the moving average of the weights, which is the result.
        clip_grad: Largest norm of the gradient.
        seed: Of the order and the augmentation. The model comes with its initial weights.
        augmentation: See there.
    """

    epochs: int = 12
    batch_size: int = 32
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    ema_decay: float = 0.999
    clip_grad: float = 5.0
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}; got {self.optimizer!r}.")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def fit(
    model: SoftGatePose,
    people: People,
    recipe: Recipe,
    folder: Path,
    *,
    validation: People | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> SoftGatePose:
    """Train a model, or go on with the training that ``folder`` holds.

    After each epoch ``folder/last.safetensors`` is replaced as a whole, and ``folder/log.jsonl`` gets a
    line. Each epoch draws from its own seed, so a run that is stopped and called again with the same
    arguments goes on as if it had not been.

    Args:
        model: Trained in place.
        people: Of the model's skeleton.
        recipe: The recipe.
        folder: Created if missing.
        validation: Evaluated after each epoch, with the averaged weights.
        device: Where to train.
        progress: Show progress bars.

    Returns:
        A model with the moving average of the weights, on ``device``, in evaluation mode.

    Raises:
        ValueError: If there are fewer people than a batch holds, their skeleton is not the model's, or
            the folder holds a run of another recipe or config.
    """
    from timm.optim import create_optimizer_v2  # slow to load, and only training needs it
    from timm.scheduler import CosineLRScheduler
    from timm.utils import ModelEmaV3

    config = model.config
    if people.skeleton.keypoints != config.skeleton.keypoints:
        raise ValueError(f"The people have skeleton {people.skeleton.name!r}, the model {config.skeleton.name!r}.")
    steps = len(people) // recipe.batch_size
    if not steps:
        raise ValueError(f"{len(people)} people are fewer than one batch of {recipe.batch_size}.")
    folder.mkdir(parents=True, exist_ok=True)

    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True)
    optimizer = create_optimizer_v2(
        model, opt=recipe.optimizer, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    warmup_steps = round(recipe.warmup * recipe.epochs * steps)
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=recipe.epochs * steps - warmup_steps,  # timm counts the cosine from the warm-up's end
        warmup_t=warmup_steps,
        warmup_lr_init=recipe.learning_rate / 100,
        warmup_prefix=True,
        t_in_epochs=False,
    )
    state = _TrainingState(model, ema.module, optimizer, json.dumps([recipe.to_dict(), config.to_dict(), len(people)]))
    done = state.load(folder / "last.safetensors")
    if done:
        logger.info("Going on after epoch %d of %d.", done, recipe.epochs)
    crops = crop_people(people, config, progress=progress).to(device) if done < recipe.epochs else None

    for epoch in range(done, recipe.epochs):
        assert crops is not None
        start = time.monotonic()
        generator = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
        model.train()
        total = torch.zeros((), device=device)
        bar = tqdm(
            batches(crops, recipe.batch_size, generator),
            f"epoch {epoch + 1}/{recipe.epochs}",
            steps,
            disable=not progress,
        )
        for step, batch in enumerate(bar):
            schedule.step_update(epoch * steps + step)
            loss = _step(model, batch, recipe, optimizer, generator)
            ema.update(model, step=epoch * steps + step)
            total += loss
            if step % 20 == 19:
                bar.set_postfix(loss=f"{float(loss):.3f}", refresh=False)
        line: dict[str, Any] = {"epoch": epoch + 1, "loss": float(total) / steps, "lr": optimizer.param_groups[0]["lr"]}
        line["seconds"] = round(time.monotonic() - start, 1)
        if validation is not None and len(validation):
            line["validation"] = evaluate(ema.module, validation).to_dict()
        state.save(folder / "last.safetensors", epoch + 1)
        with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
    averaged: SoftGatePose = ema.module
    return averaged.eval()


def _step(
    model: SoftGatePose, batch: Crops, recipe: Recipe, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> Tensor:
    images, keypoints, labelled = augment(batch, model.config, recipe.augmentation, generator)
    outputs = model(images.contiguous(memory_format=torch.channels_last), all_stacks=True)
    loss = heatmap_loss(outputs, keypoints, labelled, model.config)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad)
    optimizer.step()
    return loss.detach()


class _TrainingState:
    """Everything a run needs to go on, as one safetensors file."""

    def __init__(self, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, run: str) -> None:
        self.model, self.ema, self.optimizer, self.run = model, ema, optimizer, run

    def save(self, file: Path, epoch: int) -> None:
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        tensors |= {f"ema.{key}": value for key, value in self.ema.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in values.items()}
        part = file.with_suffix(".part")
        save_file(
            {key: value.contiguous() for key, value in tensors.items()},
            part,
            metadata={"epoch": str(epoch), "run": self.run},
        )
        os.replace(part, file)

    def load(self, file: Path) -> int:
        """Restore the run in ``file``; the number of epochs done, 0 if there is no file."""
        if not file.exists():
            return 0
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata()
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        if metadata["run"] != self.run:
            raise ValueError(
                f"{file} is of a run with another recipe, model or number of people. "
                "Train into another folder, or delete this one to start again."
            )

        def under(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        self.model.load_state_dict(under("model."))
        self.ema.load_state_dict(under("ema."))
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in under("optimizer.").items():
            index, _, name = key.partition(".")
            states.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
        return int(metadata["epoch"])
