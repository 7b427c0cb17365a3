"""What a network is trained for: the part of training that the loop leaves open, and the first such task, keypoints."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from softgate_pose._files import write_picture
from softgate_pose.data.people import People
from softgate_pose.evaluation.pck import person_errors, score_keypoints
from softgate_pose.evaluation.sheet import contact_sheet
from softgate_pose.model.base import PoseModel
from softgate_pose.prediction.predict import predict_people
from softgate_pose.training.augment import Changes, augment, sample_changes
from softgate_pose.training.crops import Crops, CropStore, fingerprint, first_few, split_readable
from softgate_pose.training.losses import heatmap_loss
from softgate_pose.training.recipe import Engine, Recipe
from softgate_pose.training.teacher import Teacher

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["KeypointTask", "Scores", "Store", "Task"]

logger = logging.getLogger(__name__)


class Scores(Protocol):
    """What a validation found, for the log: percentages, or other figures, by name."""

    @property
    def protocol(self) -> str: ...
    @property
    def people(self) -> int: ...
    @property
    def figures(self) -> Mapping[str, float]: ...


class Store(Protocol):
    """The samples that can be trained on, by their row.

    Attributes:
        fingerprint: Of these samples; starts with their number.
        unreadable: A line for each file that was left out.
    """

    fingerprint: str
    unreadable: list[str]

    def __len__(self) -> int: ...

    def batches(self, rows: Sequence[Tensor]) -> Iterator[Any]:
        """The samples of each group of rows, in turn, as ``Task.inputs`` takes them."""


class Task(Protocol):
    """What ``fit`` trains a model for.

    Attributes:
        model: Its ``outputs(images)`` are what the loss takes.
    """

    @property
    def model(self) -> nn.Module: ...

    def __len__(self) -> int:
        """Samples to train on."""

    def identity(self) -> dict[str, Any]:
        """What must be the same whenever a run goes on, as JSON: model, data and what else the targets come from."""

    def check(self, recipe: Recipe, parts: int) -> None:
        """Raise ValueError unless a batch in so many parts can be trained on; called before any file is written."""

    def prepare(self, accelerator: Accelerator, engine: Engine, folder: Path) -> Store:
        """Make ready for steps, in every process at the same time."""

    def draw(self, count: int, recipe: Recipe, generator: torch.Generator) -> Any:
        """Random changes for a whole batch, whose ``part(rows)`` are those of some of its samples."""

    def inputs(self, samples: Any, changes: Any) -> tuple[Tensor, Any]:
        """Images (B, C, H, W) on the run's device, and what ``loss`` needs to know of them."""

    def loss(self, outputs: list[Tensor], images: Tensor, targets: Any) -> Tensor:
        """A scalar: the mean over the batch."""

    def validate(self, model: Any, epoch: int, sheets: Path | None) -> Scores | None:
        """Measure the model, in the first process, and draw what it saw into a folder, if one is given.

        A problem is logged, not raised: an epoch of training is worth more.
        """


class KeypointTask:
    """One person's keypoints, by one heatmap each.

    Args:
        model: Trained in place.
        people: To train on, with the model's keypoints.
        validation: Measured after each epoch.
        teacher: A trained model whose heatmaps become a part of the targets.
    """

    def __init__(
        self, model: PoseModel, people: People, *, validation: People | None = None, teacher: Teacher | None = None
    ) -> None:
        self.model, self.people, self.validation, self.teacher = model, people, validation, teacher
        skeleton = model.config.skeleton
        for group in (people, validation):
            if group is not None and group.skeleton.keypoints != skeleton.keypoints:
                raise ValueError(
                    f"The people have skeleton {group.skeleton.name!r} ({', '.join(group.skeleton.keypoints)}), the "
                    f"model {skeleton.name!r} ({', '.join(skeleton.keypoints)}); convert the people with "
                    "people.to_skeleton(model.config.skeleton)."
                )
        if teacher is not None:
            teacher.require_fit(model.config)

    def __len__(self) -> int:
        return len(self.people)

    def identity(self) -> dict[str, Any]:
        teacher = {} if self.teacher is None else {"teacher": self.teacher.identity()}
        return {"model": self.model.config.to_dict(), "people": fingerprint(self.people), **teacher}

    def check(self, recipe: Recipe, parts: int) -> None:
        config = self.model.config
        smallest = (config.size_multiple, config.size_multiple)
        if recipe.batch_size == parts and config.input_size == smallest:
            raise ValueError(
                f"One image of {smallest[0]} px at a time leaves the innermost batch norm one value, of which there is "
                f"no variance; choose a batch_size of at least {2 * parts}, or a larger input."
            )
        if config.skeleton.unpaired and recipe.augmentation.flip:
            logger.warning(
                "Mirroring will not swap %s: only pairs named left_x and right_x change places. "
                "Rename them, or train with flip=0.",
                ", ".join(config.skeleton.unpaired),
            )

    def prepare(self, accelerator: Accelerator, engine: Engine, folder: Path) -> Store:
        config, device = self.model.config, accelerator.device
        self._device, self._autocast = device, accelerator.autocast
        self._soft = None if self.teacher is None else self.teacher.soft_targets(config, device)
        if self.validation is not None and accelerator.is_main_process:
            readable, problems = split_readable(self.validation)
            if problems and not len(readable):
                raise ValueError(
                    f"None of the images of the {len(self.validation)} validation people can be read: "
                    f"{first_few(problems)}."
                )
            if problems:
                logger.warning("Left out of validation: %s.", first_few(problems))
            self.validation = readable
        return CropStore(self.people, config, engine, folder, accelerator)

    def draw(self, count: int, recipe: Recipe, generator: torch.Generator) -> Changes:
        return sample_changes(count, self.model.config.in_chans, recipe.augmentation, generator)

    def inputs(self, samples: Crops, changes: Changes) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        images, keypoints, labelled = augment(samples.to(self._device), changes, self.model.config)
        return images, (keypoints, labelled)

    def loss(self, outputs: list[Tensor], images: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        soft, share = None, 0.0
        if self.teacher is not None and self._soft is not None:
            with self._autocast():
                soft, share = self._soft(images), self.teacher.share
        return heatmap_loss(outputs, *targets, self.model.config, soft=soft, share=share)

    def validate(self, model: PoseModel, epoch: int, sheets: Path | None) -> Scores | None:
        people, scores = self.validation, None
        if people is None or not len(people):
            return None
        try:
            predictions = predict_people(model, people)
            scores = score_keypoints(predictions.keypoints, people)
            if sheets is not None:
                sheet = contact_sheet(people, predictions, person_errors(predictions.keypoints, people))
                sheets.mkdir(exist_ok=True)
                write_picture(sheet, sheets / f"epoch{epoch:03d}.jpg", "JPEG", quality=90)
        except (OSError, ValueError) as error:
            what = "Validation" if scores is None else "The contact sheet"
            logger.warning("%s of epoch %d is left out: %s", what, epoch, error)
        return scores
