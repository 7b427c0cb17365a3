"""The training loop, on Hugging Face Accelerate: one process or many, each seeing its part of every batch."""

from __future__ import annotations

import hashlib
import logging
import math
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from softgate_pose._files import lock, write_picture
from softgate_pose.config import PoseConfig
from softgate_pose.data.people import People
from softgate_pose.evaluation.pck import Evaluation, person_errors, score_keypoints
from softgate_pose.evaluation.sheet import contact_sheet
from softgate_pose.model.softgate import SoftGatePose
from softgate_pose.prediction.predict import predict_people
from softgate_pose.training.augment import Changes, augment, sample_changes
from softgate_pose.training.checkpoint import TrainingState
from softgate_pose.training.crops import Crops, CropStore, Keep, first_few, split_readable
from softgate_pose.training.log import RunLog
from softgate_pose.training.losses import heatmap_loss
from softgate_pose.training.optim import make_accelerator, make_optimizer, make_schedule
from softgate_pose.training.recipe import Recipe
from softgate_pose.training.teacher import Teacher

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Engine", "Epoch", "fit"]

logger = logging.getLogger(__name__)

_BOARD_EVERY = 20  # steps


@dataclass(frozen=True)
class Engine:
    """How a run uses the machine. None of it changes what is learned, but for rounding.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:1``. With several processes, ``cuda`` means each
            process's own GPU.
        keep: Where crops are kept, see ``Keep``.
        workers: Processes that read images, per training process.
        compile: Use ``torch.compile``.
        save_minutes: Longest time between two states on disk; one is also saved after each epoch.
        sheets: Draw a contact sheet after each validation.
        progress: Show progress bars.
    """

    device: str = "cpu"
    keep: Keep = "memory"
    workers: int = 0
    compile: bool = False
    save_minutes: float = 10.0
    sheets: bool = True
    progress: bool = True


@dataclass(frozen=True)
class Epoch:
    """What is reported after an epoch.

    Attributes:
        row: The epoch's row of the log: ``epoch``, ``step``, ``loss``, ``learning_rate``, ``seconds``,
            ``images_per_second``, ``feeding_percent`` and the validation's figures.
        epochs: The number of epochs of the whole run.
        validation: The table per part, if there are validation people.
    """

    row: dict[str, Any]
    epochs: int
    validation: Evaluation | None


def fit(
    model: SoftGatePose,
    people: People,
    recipe: Recipe,
    folder: Path,
    *,
    validation: People | None = None,
    teacher: Teacher | None = None,
    start: str | None = None,
    engine: Engine | None = None,
    report: Callable[[Epoch], None] | None = None,
) -> SoftGatePose:
    """Train a model, or go on with the training that ``folder`` holds.

    The order of the people depends on the seed and the epoch alone, their augmentation on the seed and
    the step, so a run that is stopped at any moment and called again with the same arguments goes on
    as if it had not been. In ``folder``: ``last.safetensors`` is the run's state; ``log.csv`` and
    ``tensorboard/`` its log; ``sheets/`` what it saw in validation people; ``lock`` keeps other runs out.

    Under ``accelerate launch`` or ``torchrun`` every process calls this with the same arguments. Each
    takes its part of each batch; the first alone writes, validates and reports.

    Args:
        model: Trained in place.
        people: The people to train on, with the model's keypoints.
        recipe: The recipe.
        folder: The run's folder, created if missing; several machines must all see it.
        validation: Evaluated after each epoch, with the averaged weights.
        teacher: A trained model whose heatmaps become a part of the targets.
        start: A digest of the weights that the model comes with, such as ``weights_digest`` gives; a run in
            ``folder`` that began with another digest, or with none, is then refused. None for fresh weights.
        engine: How to use the machine.
        report: Called after each epoch.

    Returns:
        A model with the moving average of the weights, if the recipe has one, in evaluation mode.

    Raises:
        BlockingIOError: If another process trains into the folder.
        ImportError: If Accelerate is not installed.
        OSError: If a state cannot be written.
        RuntimeError: If the loss or the weights are no longer finite, or an image cannot be read any more.
        ValueError: If there are fewer people than a batch holds, a batch cannot be shared evenly, their
            skeleton is not the model's, the teacher cannot teach it, too many images cannot be read, or
            the folder holds a run of another recipe, model, start, teacher or people.
    """
    engine = engine or Engine()
    run = _Run(model, people, recipe, folder, teacher, start, engine, make_accelerator(recipe, engine.device))
    _check_run(run, validation)
    if validation is not None and run.is_main:
        asked = len(validation)
        validation, problems = split_readable(validation)
        if asked and not len(validation):
            raise ValueError(f"None of the images of the {asked} validation people can be read: {first_few(problems)}.")
        if problems:
            logger.warning("Left out of validation: %s.", first_few(problems))
    with _locked(folder) if run.is_main else nullcontext():
        state = _RunState(run)
        if len(state.progress.history) < recipe.epochs:
            _Trainer(run, state).train(validation, report)
        return state.averaged.eval()


@dataclass(frozen=True, eq=False)
class _Run:
    """What stays as it is throughout a run: what ``fit`` was given, and the processes that share it."""

    model: SoftGatePose
    people: People
    recipe: Recipe
    folder: Path
    teacher: Teacher | None
    start: str | None
    engine: Engine
    accelerator: Accelerator

    @property
    def config(self) -> PoseConfig:
        return self.model.config

    @property
    def is_main(self) -> bool:
        """Whether this is the one process, or the first of several, which alone writes, validates and reports."""
        return bool(self.accelerator.is_main_process)

    def identity(self) -> dict[str, Any]:
        """What must be the same whenever the run goes on, as JSON."""
        fixed = {
            "recipe": self.recipe.to_dict(),
            "model": self.config.to_dict(),
            "people": _fingerprint(self.people),
        }
        if self.teacher is not None:
            fixed["teacher"] = self.teacher.identity()
        if self.start is not None:
            fixed["start"] = self.start
        return fixed


def _check_run(run: _Run, validation: People | None) -> None:
    """Raise ValueError unless people, recipe and teacher fit the model and the processes; warn of unpaired sides."""
    config, people, recipe = run.config, run.people, run.recipe
    for group in (people, validation):
        if group is not None and group.skeleton.keypoints != config.skeleton.keypoints:
            given, wanted = (f"{s.name!r} ({', '.join(s.keypoints)})" for s in (group.skeleton, config.skeleton))
            raise ValueError(
                f"The people have skeleton {given}, the model {wanted}; "
                "convert the people with people.to_skeleton(model.config.skeleton)."
            )
    if len(people) < recipe.batch_size:
        raise ValueError(
            f"{len(people)} people are fewer than one batch of {recipe.batch_size}; "
            + ("choose a smaller batch_size." if len(people) else "give more, or hold out fewer.")
        )
    processes = run.accelerator.num_processes
    parts = processes * recipe.accumulate
    if recipe.batch_size % parts:
        raise ValueError(
            f"A batch of {recipe.batch_size} cannot be shared evenly by {processes} processes "
            f"of {recipe.accumulate} parts each; choose a batch_size that {parts} divides."
        )
    smallest = (config.size_multiple, config.size_multiple)
    if recipe.batch_size == parts and tuple(config.input_size) == smallest:
        raise ValueError(
            f"One image of {smallest[0]} px at a time leaves the innermost batch norm one value, of which there is no "
            f"variance; choose a batch_size of at least {2 * parts}, or a larger input."
        )
    if config.skeleton.unpaired and recipe.augmentation.flip:
        logger.warning(
            "Mirroring will not swap %s: only pairs named left_x and right_x change places. "
            "Rename them, or train with flip=0.",
            ", ".join(config.skeleton.unpaired),
        )
    if run.teacher is not None:
        run.teacher.require_fit(config)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other runs from the folder, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("ab") as stream:
        lock(
            stream, f"{folder} is being trained into by another process; wait for it to end, or choose another folder."
        )
        yield


class _AllStacks(nn.Module):
    """The network with all stacks' outputs, wrapped because Accelerate replaces the ``forward`` of what it prepares."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        outputs: list[Tensor] = self.network(images, all_stacks=True)
        return outputs


class _RunState:
    """What changes in a run, restored from its folder: the weights, their moving average, optimizer and progress."""

    def __init__(self, run: _Run) -> None:
        from timm.utils import ModelEmaV3  # slow to load, and only training needs it

        self.model, decay = run.model, run.recipe.ema_decay
        self.model.to(run.accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = ModelEmaV3(self.model, decay=decay, use_warmup=True) if decay else None
        self.optimizer = make_optimizer(self.model, run.recipe)
        ema = None if self.ema is None else self.ema.module
        self._stored = TrainingState(run.folder, self.model, ema, self.optimizer, run.identity())
        self.progress = self._stored.load()
        run.accelerator.wait_for_everyone()  # all have read what the first will replace

    @property
    def averaged(self) -> SoftGatePose:
        """The model with the moving average of its weights, or, if there is none, with its weights."""
        averaged: SoftGatePose = self.model if self.ema is None else self.ema.module
        return averaged

    def save(self) -> None:
        self._stored.save(self.progress)


class _Trainer:
    """One process's side of a run that is not finished."""

    def __init__(self, run: _Run, state: _RunState) -> None:
        self.run, self.state = run, state
        self.model, self.recipe, self.accelerator = run.model, run.recipe, run.accelerator
        self.optimizer, self.progress = state.optimizer, state.progress
        device = self.accelerator.device
        self.soft_targets = None if run.teacher is None else run.teacher.soft_targets(run.config, device)
        self.share = 0.0 if run.teacher is None else run.teacher.share
        self.crops = CropStore(
            run.people,
            run.config,
            keep=run.engine.keep,
            device=device,
            workers=run.engine.workers,
            progress=run.engine.progress and run.is_main,
        )
        if self.crops.unreadable and run.is_main:
            logger.warning("Left out of training: %s.", first_few(self.crops.unreadable))
        people = _fingerprint(self.crops.people)
        self._require_people_of_the_run(people)
        self.progress.people = people
        self._require_same_start()
        self.steps = len(self.crops) // self.recipe.batch_size  # of an epoch
        self.schedule = make_schedule(self.optimizer, self.recipe, self.steps)
        network: Any = torch.compile(self.model) if run.engine.compile else self.model
        self.network, self.prepared_optimizer = self.accelerator.prepare(_AllStacks(network), self.optimizer)

    def _require_people_of_the_run(self, people: str) -> None:
        """Raise ValueError unless those whose images can be read fill a batch, and are those of the run so far."""
        size, before = self.recipe.batch_size, self.progress.people
        if len(self.crops) < size:
            raise ValueError(f"{len(self.crops)} people whose images can be read are fewer than one batch of {size}.")
        if before not in ("", people):  # empty before the first step
            raise ValueError(
                f"The images that can be read are not those that the run in {self.run.folder} began with: of people "
                f"there were {before} then, and are {people} now. To go on with it, restore "
                "what is missing, and take away what has come since."
            )

    def _require_same_start(self) -> None:
        """Raise ValueError unless all processes begin at the same step, with the same people."""
        from accelerate.utils import gather_object

        processes = gather_object([f"step {self.progress.step}, {self.progress.people}"])
        if len(set(processes)) > 1:
            raise ValueError(
                f"The processes do not begin alike: {'; '.join(dict.fromkeys(processes))}. All must see the same "
                f"images, and the same folder {self.run.folder}."
            )

    def train(self, validation: People | None, report: Callable[[Epoch], None] | None) -> None:
        progress = self.progress
        if progress.step and self.run.is_main:
            logger.info("Going on after step %d of %d.", progress.step, self.steps * self.recipe.epochs)
        with closing(RunLog(self.run.folder, progress.step)) if self.run.is_main else nullcontext() as log:
            for epoch in range(len(progress.history), self.recipe.epochs):
                row = self._epoch(epoch, log)
                self._require_finite(row["loss"])
                table = None
                if self.run.is_main and validation is not None and len(validation):
                    table = self._validate(validation, epoch)
                if table is not None:
                    row |= {f"{table.protocol} {key}": value for key, value in table.figures.items()}
                progress.history.append(row)
                progress.loss = progress.seconds = 0.0
                if log is not None:
                    log.epoch(progress.history)  # before the state: an epoch that is saved is never logged again
                    self.state.save()
                    if report is not None:
                        report(Epoch(row, self.recipe.epochs, table))
                self.accelerator.wait_for_everyone()

    def _epoch(self, epoch: int, log: RunLog | None) -> dict[str, Any]:
        """Train for what is left of an epoch; its row of the log."""
        recipe, progress, size = self.recipe, self.progress, self.recipe.batch_size
        order = torch.randperm(len(self.crops), generator=_generator(recipe.seed, "order", epoch))
        done = progress.step - epoch * self.steps
        self.model.train()
        total = torch.zeros((), device=self.accelerator.device)
        loss_before, seconds_before = progress.loss, progress.seconds
        feeding, start = 0.0, time.monotonic()
        saved = start
        batches = self._parts(order, done)
        with self._bar(epoch, done) as bar:
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
                if time.monotonic() - saved > 60 * self.run.engine.save_minutes and step + 1 < self.steps:
                    saved = time.monotonic()
                    progress.loss, progress.seconds = loss_before + float(total), seconds_before + saved - start
                    self._require_finite(progress.loss)
                    self.state.save()
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

    def _bar(self, epoch: int, done: int) -> Any:
        size = self.recipe.batch_size
        return tqdm(
            total=self.steps * size,
            initial=done * size,
            desc=f"epoch {epoch + 1}/{self.recipe.epochs}",
            unit=" images",
            disable=None if self.run.engine.progress and self.run.is_main else True,  # none where nobody watches
        )

    def _step(self, batches: Iterator[tuple[Crops, Changes]]) -> tuple[Tensor, float]:
        """One step of the optimizer; its loss, and the seconds that its input took."""
        loss, feeding = torch.zeros((), device=self.accelerator.device), 0.0
        for _ in range(self.recipe.accumulate):
            before = time.monotonic()
            crops, changes = next(batches)
            inputs = augment(crops.to(self.accelerator.device), changes, self.run.config)
            feeding += time.monotonic() - before
            loss += self._learn(*inputs) / self.recipe.accumulate
        self.progress.step += 1
        if self.state.ema is not None:
            self.state.ema.update(self.model, step=self.progress.step - 1)
        return loss, feeding

    def _require_finite(self, loss: float) -> None:
        """Stop before a state that has no future replaces the last good one."""
        if _has_diverged(self.model, loss):
            raise RuntimeError(
                f"The training has diverged: by step {self.progress.step} the loss or the weights are not finite. "
                f"What {self.run.folder} holds is from before. Train into another folder with a lower learning_rate"
                + (", with a clip_grad" if not self.recipe.clip_grad else "")
                + (", or with precision=fp32." if self.recipe.precision != "fp32" else ".")
            )

    def _parts(self, order: Tensor, done: int) -> Iterator[tuple[Crops, Changes]]:
        """This process's parts of the batches of an epoch, from the first that is not done."""
        size, accumulate = self.recipe.batch_size, self.recipe.accumulate
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        part = size // (processes * accumulate)
        mine = [slice(start, start + part) for start in range(process * part, size, processes * part)]
        batches = order[: self.steps * size].view(self.steps, size)[done:]
        crops = self.crops.batches([batch[rows] for batch in batches for rows in mine])
        first = self.progress.step
        for i, group in enumerate(crops):
            if i % accumulate == 0:
                drawing = _generator(self.recipe.seed, "changes", first + i // accumulate)
                changes = sample_changes(size, self.run.config.in_chans, self.recipe.augmentation, drawing)
            yield group, changes.part(mine[i % accumulate])

    def _learn(self, images: Tensor, keypoints: Tensor, labelled: Tensor) -> Tensor:
        with self.accelerator.accumulate(self.network):
            images = images.contiguous(memory_format=torch.channels_last)
            outputs = self.network(images)
            loss = heatmap_loss(
                outputs, keypoints, labelled, self.run.config, soft=self._soft(images), share=self.share
            )
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients and self.recipe.clip_grad:
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
            self.prepared_optimizer.step()
            self.prepared_optimizer.zero_grad()
        return loss.detach()

    def _soft(self, images: Tensor) -> Tensor | None:
        """The teacher's part of the targets, if there is one."""
        if self.soft_targets is None:
            return None
        with self.accelerator.autocast():
            heatmaps: Tensor = self.soft_targets(images)
        return heatmaps

    def _validate(self, people: People, epoch: int) -> Evaluation | None:
        """The table of the held-out people, if their images can be read, and a sheet of them, if it can be written."""
        table = None
        try:
            predictions = predict_people(self.state.averaged, people)
            table = score_keypoints(predictions.keypoints, people)
            if self.run.engine.sheets:
                sheet = contact_sheet(people, predictions, person_errors(predictions.keypoints, people))
                (self.run.folder / "sheets").mkdir(exist_ok=True)
                file = self.run.folder / "sheets" / f"epoch{epoch + 1:03d}.jpg"
                write_picture(sheet, file, "JPEG", quality=90)
        except (OSError, ValueError) as error:  # an epoch of training is worth more than these
            what = "Validation" if table is None else "The contact sheet"
            logger.warning("%s of epoch %d is left out: %s", what, epoch + 1, error)
        return table


def _has_diverged(model: nn.Module, loss: float) -> bool:
    """Whether the loss or a weight is no longer finite."""
    return not math.isfinite(loss) or not all(bool(value.isfinite().all()) for value in model.state_dict().values())


def _generator(seed: int, what: str, index: int) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {what} {index}".encode()))


def _fingerprint(people: People) -> str:
    """A fingerprint of a table of people, the same wherever their images lie."""
    names = " ".join(image.name for image in people.images)
    digest = hashlib.sha256(names.encode(errors="surrogateescape"))  # a name may be no text
    for column in (people.keypoints, people.labelled, people.boxes):
        digest.update(column.contiguous().numpy().tobytes())
    return f"{len(people)} people, {digest.hexdigest()[:16]}"
