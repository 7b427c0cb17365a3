"""The training loop, on Hugging Face Accelerate: one process or many, each seeing its part of every batch."""

from __future__ import annotations

import logging
import math
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from softgate_pose._files import locked
from softgate_pose.training.checkpoint import TrainingState
from softgate_pose.training.crops import first_few
from softgate_pose.training.log import RunLog
from softgate_pose.training.optim import make_accelerator, make_optimizer, make_schedule
from softgate_pose.training.recipe import Engine, Recipe
from softgate_pose.training.task import Scores, Task

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Engine", "Epoch", "fit"]

logger = logging.getLogger(__name__)

_BOARD_EVERY = 20  # steps


@dataclass(frozen=True)
class Epoch:
    """What is reported after an epoch: its row of the log, the epochs of the run, and what the validation found."""

    row: dict[str, Any]
    epochs: int
    validation: Scores | None


def fit(
    task: Task,
    recipe: Recipe,
    folder: Path,
    *,
    start: str | None = None,
    engine: Engine | None = None,
    report: Callable[[Epoch], None] | None = None,
) -> Any:
    """Train a task's model, or resume the run in ``folder``; every process of a run calls it with the same arguments.

    The order of the samples depends on the seed and the epoch alone, their augmentation on the seed and
    the step, so a run that is stopped at any moment and called again with the same arguments goes on as if it had not
    stopped. Each process takes its part of each batch; the first alone writes, validates and reports.

    A run whose weights did not begin as ``start`` says, a digest such as ``weights_digest`` gives, or None for fresh
    ones, is refused. Returns the model with the moving average of its weights, if the recipe has one.
    """
    engine = engine or Engine()
    accelerator = make_accelerator(recipe, engine.device)
    parts = accelerator.num_processes * recipe.accumulate
    if len(task) < recipe.batch_size:
        raise ValueError(
            f"{len(task)} people are fewer than one batch of {recipe.batch_size}; "
            + ("choose a smaller batch_size." if len(task) else "give more, or hold out fewer.")
        )
    if recipe.batch_size % parts:
        raise ValueError(
            f"A batch of {recipe.batch_size} cannot be shared evenly by {accelerator.num_processes} processes "
            f"of {recipe.accumulate} parts each; choose a batch_size that {parts} divides."
        )
    task.check(recipe, parts)
    identity = {"recipe": recipe.to_dict(), **task.identity()} | ({} if start is None else {"start": start})
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"{folder} is being trained into by another process; wait for it to end, or choose another folder."
    with locked(folder / "lock", busy) if accelerator.is_main_process else nullcontext():
        run = _Run(task, recipe, folder, engine, accelerator, identity)
        if len(run.progress.history) < recipe.epochs:
            run.prepare()
            run.train(report)
        return run.averaged.eval()


class _Outputs(nn.Module):
    """A network whose ``forward`` is its ``outputs``: the one method that Accelerate and ``torch.compile`` take."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        outputs: list[Tensor] = self.network.outputs(images)  # type: ignore[operator]
        return outputs


class _Run:
    """One process's side of a run: its weights, their moving average, the optimizer and the progress, as last saved."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        folder: Path,
        engine: Engine,
        accelerator: Accelerator,
        identity: dict[str, Any],
    ) -> None:
        from timm.utils import ModelEmaV3  # slow to load, and only training needs it

        self.task, self.recipe, self.folder, self.engine, self.accelerator = task, recipe, folder, engine, accelerator
        self.model, decay = task.model, recipe.ema_decay
        self.model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = ModelEmaV3(self.model, decay=decay, use_warmup=True) if decay else None
        self.averaged: nn.Module = self.model if self.ema is None else self.ema.module
        self.optimizer = make_optimizer(self.model, recipe)
        self.state = TrainingState(folder, self.model, self.ema and self.ema.module, self.optimizer, identity)
        self.progress = self.state.load()
        accelerator.wait_for_everyone()  # all have read what the first will replace

    def prepare(self) -> None:
        """Make ready for steps."""
        accelerator, progress, recipe = self.accelerator, self.progress, self.recipe
        self.samples = self.task.prepare(accelerator, self.engine, self.folder)
        if self.samples.unreadable and accelerator.is_main_process:
            logger.warning("Left out of training: %s.", first_few(self.samples.unreadable))
        if len(self.samples) < recipe.batch_size:
            raise ValueError(
                f"{len(self.samples)} people whose images can be read are fewer than one batch of {recipe.batch_size}."
            )
        if progress.people not in ("", self.samples.fingerprint):  # empty before the first step
            raise ValueError(
                f"The images that can be read are not those that the run in {self.folder} began with: there were "
                f"{progress.people} then, and are {self.samples.fingerprint} now. To go on with it, restore "
                "what is missing, and take away what has come since."
            )
        progress.people = self.samples.fingerprint
        self._require_same_start()
        self.steps = len(self.samples) // recipe.batch_size  # of an epoch
        self.schedule = make_schedule(self.optimizer, recipe, self.steps)
        network: Any = _Outputs(self.model)
        network = torch.compile(network) if self.engine.compile else network
        self.network, self.prepared_optimizer = accelerator.prepare(network, self.optimizer)

    def _require_same_start(self) -> None:
        """Raise ValueError unless all processes begin at the same step, with the same samples."""
        from accelerate.utils import gather_object

        processes = gather_object([f"step {self.progress.step}, {self.progress.people}"])
        if len(set(processes)) > 1:
            raise ValueError(
                f"The processes do not begin alike: {'; '.join(dict.fromkeys(processes))}. All must see the same "
                f"images, and the same folder {self.folder}."
            )

    def train(self, report: Callable[[Epoch], None] | None) -> None:
        progress, is_main = self.progress, self.accelerator.is_main_process
        if progress.step and is_main:
            logger.info("Going on after step %d of %d.", progress.step, self.steps * self.recipe.epochs)
        with closing(RunLog(self.folder, progress.step)) if is_main else nullcontext() as log:
            for epoch in range(len(progress.history), self.recipe.epochs):
                row = self._epoch(epoch, log)
                self._require_finite(row["loss"])
                scores = None
                if log is not None:
                    sheets = self.folder / "sheets" if self.engine.sheets else None
                    scores = self.task.validate(self.averaged, epoch + 1, sheets)
                if scores is not None:
                    row |= {f"{scores.protocol} {key}": value for key, value in scores.figures.items()}
                progress.history.append(row)
                progress.loss = progress.seconds = 0.0
                if log is not None:
                    log.epoch(progress.history)  # before the state: an epoch that is saved is never logged again
                    self.state.save(progress)
                    if report is not None:
                        report(Epoch(row, self.recipe.epochs, scores))
                self.accelerator.wait_for_everyone()

    def _epoch(self, epoch: int, log: RunLog | None) -> dict[str, Any]:
        """Train for what is left of an epoch; its row of the log."""
        recipe, progress, size = self.recipe, self.progress, self.recipe.batch_size
        order = torch.randperm(len(self.samples), generator=_generator(recipe.seed, "order", epoch))
        done = progress.step - epoch * self.steps
        self.model.train()
        total = torch.zeros((), device=self.accelerator.device)
        loss_before, seconds_before = progress.loss, progress.seconds
        feeding, start = 0.0, time.monotonic()
        saved = start
        batches = self._parts(order, done)
        title = f"epoch {epoch + 1}/{recipe.epochs}"
        hidden = None if self.engine.progress and log is not None else True  # None: where nobody watches
        total_images, done_images = self.steps * size, done * size
        with tqdm(None, title, total_images, initial=done_images, unit=" images", disable=hidden) as bar:
            for step in range(done, self.steps):
                self.schedule.step_update(progress.step)
                loss, waited = self._step(batches)
                total += loss
                feeding += waited
                bar.update(size)
                if log is None:
                    continue
                if step % _BOARD_EVERY == _BOARD_EVERY - 1:
                    self._log_step(log, bar, float(loss), (time.monotonic() - start) / (step + 1 - done))
                    if not loss.isfinite():  # waste no time until the next save
                        self._require_finite(float(loss))
                if time.monotonic() - saved > 60 * self.engine.save_minutes and step + 1 < self.steps:
                    saved = time.monotonic()
                    progress.loss, progress.seconds = loss_before + float(total), seconds_before + saved - start
                    self._require_finite(progress.loss)
                    self.state.save(progress)
        loss_sum = float(self.accelerator.reduce(total, "mean")) + loss_before
        seconds = time.monotonic() - start
        return {
            "epoch": epoch + 1,
            "step": progress.step,
            "loss": loss_sum / self.steps,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": round(seconds + seconds_before, 1),
            "images_per_second": round((self.steps - done) * size / seconds, 1),
            "feeding_percent": round(100 * feeding / seconds, 2),
        }

    def _log_step(self, log: RunLog, bar: Any, loss: float, seconds: float) -> None:
        """Log a step, and show beside the bar how long the rest takes at so many seconds a step."""
        rate = self.optimizer.param_groups[0]["lr"]
        log.scalars({"step/loss": loss, "step/learning_rate": rate}, self.progress.step)
        left = tqdm.format_interval(seconds * (self.steps * self.recipe.epochs - self.progress.step))
        bar.set_postfix_str(f"loss {loss:.3f}, {left} left of the run", refresh=False)

    def _step(self, batches: Iterator[tuple[Any, Any]]) -> tuple[Tensor, float]:
        """One step of the optimizer; its loss, and the seconds that its input took."""
        loss, feeding = torch.zeros((), device=self.accelerator.device), 0.0
        for _ in range(self.recipe.accumulate):
            before = time.monotonic()
            images, targets = self.task.inputs(*next(batches))
            feeding += time.monotonic() - before
            loss += self._learn(images, targets) / self.recipe.accumulate
        self.progress.step += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.progress.step - 1)
        return loss, feeding

    def _require_finite(self, loss: float) -> None:
        """Stop before a diverged state replaces the last good one."""
        if math.isfinite(loss) and all(bool(value.isfinite().all()) for value in self.model.state_dict().values()):
            return
        raise RuntimeError(
            f"The training has diverged: by step {self.progress.step} the loss or the weights are not finite. "
            f"What {self.folder} holds is from before. Train into another folder with a lower learning_rate"
            + (", with a clip_grad" if not self.recipe.clip_grad else "")
            + (", or with precision=fp32." if self.recipe.precision != "fp32" else ".")
        )

    def _parts(self, order: Tensor, done: int) -> Iterator[tuple[Any, Any]]:
        """This process's parts of the batches of an epoch, from the first that is not done, and their changes."""
        size, accumulate = self.recipe.batch_size, self.recipe.accumulate
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        part = size // (processes * accumulate)
        mine = [slice(start, start + part) for start in range(process * part, size, processes * part)]
        batches = order[: self.steps * size].view(self.steps, size)[done:]
        first = self.progress.step
        for i, samples in enumerate(self.samples.batches([batch[rows] for batch in batches for rows in mine])):
            if i % accumulate == 0:
                drawing = _generator(self.recipe.seed, "changes", first + i // accumulate)
                changes = self.task.draw(size, self.recipe, drawing)
            yield samples, changes.part(mine[i % accumulate])

    def _learn(self, images: Tensor, targets: Any) -> Tensor:
        with self.accelerator.accumulate(self.network):
            images = images.contiguous(memory_format=torch.channels_last)
            outputs = self.network(images)
            loss = self.task.loss(outputs, images, targets)
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients and self.recipe.clip_grad:
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
            self.prepared_optimizer.step()
            self.prepared_optimizer.zero_grad()
        return loss.detach()


def _generator(seed: int, what: str, index: int) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {what} {index}".encode()))
