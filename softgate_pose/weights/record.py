"""How weights came to be: their record, and the names of the files that hold both. Imports no torch."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any, cast

from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on

from softgate_pose._files import checked, read_json
from softgate_pose.config import PoseConfig
from softgate_pose.zoo import PretrainedEntry

__all__ = [
    "CARD_FILE",
    "CONFIG_FILE",
    "TRAINING_FILE",
    "WEIGHTS_FILE",
    "TeacherRecord",
    "TrainingRecord",
    "check_training",
    "commands",
    "data_lines",
    "read_config",
    "read_record",
    "read_training",
    "runs",
]

# what save_pretrained writes into a folder
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TRAINING_FILE = "training.json"
CARD_FILE = "README.md"


class TeacherRecord(TypedDict):
    """Whom a model learned from: the teacher's name, the digest of its weights, and what its own record says."""

    name: str
    weights: str
    share: float
    data: list[str]
    licence: str | None


class TrainingRecord(TypedDict, total=False):
    """How weights came to be, as ``training.json`` holds it; a card says "not stated" for missing fields.

    Attributes:
        data: A line for each data set.
        held_out: Who was held out for validation.
        licence: An SPDX name or another text.
        command: The command line.
        recipe: Of the run, in any form that is JSON.
        metrics: Rows of what was measured: ``data``, ``protocol`` and figures by part.
        baseline: The same of the mean training pose.
        teacher: What ``Teacher.to_card`` gives.
        before: The record of the run whose weights this one started from.
    """

    data: list[str]
    held_out: str
    licence: str | None
    command: str | None
    recipe: Any
    metrics: list[dict[str, Any]]
    baseline: list[dict[str, Any]]
    teacher: TeacherRecord
    before: TrainingRecord


def read_config(entry: PretrainedEntry) -> PoseConfig | None:
    """The config of bundled weights; None for others, which would have to be downloaded."""
    return None if entry.folder is None else PoseConfig.from_json((entry.folder / CONFIG_FILE).read_bytes())


def read_training(entry: PretrainedEntry) -> TrainingRecord:
    """How bundled weights were trained; empty for others."""
    return {} if entry.folder is None else read_record(entry.folder / TRAINING_FILE)


def read_record(file: Path) -> TrainingRecord:
    """The record in a ``training.json``; a ValueError if it holds none."""
    return check_training(read_json(file), str(file))


def check_training(training: Any, subject: str) -> TrainingRecord:
    """``training`` itself; a ValueError if a field has another type, or nearly a known name, such as ``license``."""
    checked(TrainingRecord, training, subject)
    for run in runs(training):
        for key, value in run.items():
            close = difflib.get_close_matches(str(key), TrainingRecord.__annotations__, 1, cutoff=0.8)
            if close and close[0] != key:
                raise ValueError(f"{subject}: {key} is not a known field; did you mean {close[0]}?")
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{subject}: {key} cannot be written as JSON: {error}.") from None
    return cast("TrainingRecord", training)


def data_lines(training: TrainingRecord) -> list[str]:
    """The data of the run, a line each, preceded by those of the run that it started from."""
    before = data_lines(training["before"]) if "before" in training else []
    teacher = [_teacher(training["teacher"])] if "teacher" in training else []
    held_out = [f"held out for validation: {training['held_out']}"] if "held_out" in training else []
    lines = [f"{'then ' if before else ''}{data}" for data in training.get("data", ())] + teacher + held_out
    return [line for line in before if line not in lines] + lines


def _teacher(teacher: TeacherRecord) -> str:
    learned = "; ".join(teacher["data"]) or "what is not stated"
    return (
        f"taught by {teacher['name']} (weights {teacher['weights']}), whose share of a target is "
        f"{teacher['share']:g}; it had learned from: {learned}; its licence: {teacher['licence'] or 'not stated'}"
    )


def commands(training: TrainingRecord) -> list[str]:
    """The commands that made the weights, first to last."""
    return [str(run["command"]) for run in runs(training) if run.get("command")]


def runs(training: TrainingRecord) -> list[TrainingRecord]:
    """The run, preceded by those whose weights it started from, first to last."""
    return [*(runs(training["before"]) if "before" in training else []), training]
