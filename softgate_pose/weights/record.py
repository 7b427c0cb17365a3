"""How weights came to be: the record of it, and the names of the files that hold it and them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from softgate_pose.config import PoseConfig

if TYPE_CHECKING:
    from softgate_pose.zoo import PretrainedEntry

__all__ = [
    "CARD_FILE",
    "CONFIG_FILE",
    "TRAINING_FILE",
    "WEIGHTS_FILE",
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


class TrainingRecord(TypedDict, total=False):
    """How weights came to be, as ``training.json`` holds it; a card says of what is missing that it is not stated.

    Attributes:
        data: A line for each data set.
        held_out: Who was kept for validation.
        licence: An SPDX name or another text.
        command: The command line.
        recipe: Of the run; any JSON.
        metrics: Rows of what was measured: ``data``, ``protocol`` and figures by part.
        baseline: The same of the mean training pose.
        teacher: What ``Teacher.to_card`` gives.
        before: The record of the run whose weights this one started from.
    """

    data: list[str]
    held_out: str
    licence: str | None
    command: str | None
    recipe: dict[str, Any]
    metrics: list[dict[str, Any]]
    baseline: list[dict[str, Any]]
    teacher: dict[str, Any]
    before: TrainingRecord


def read_record(file: Path) -> TrainingRecord:
    """The record in a ``training.json``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not JSON, or no record.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{file}, which says how the weights beside it came to be, is not JSON: {error}.") from None
    return check_training(record, str(file))


def read_config(entry: PretrainedEntry) -> PoseConfig | None:
    """The config of bundled weights; None of others, which it would have to be downloaded for."""
    return None if entry.folder is None else PoseConfig.from_json((entry.folder / CONFIG_FILE).read_bytes())


def read_training(entry: PretrainedEntry) -> TrainingRecord:
    """How bundled weights were trained; of others nothing is known."""
    return {} if entry.folder is None else read_record(entry.folder / TRAINING_FILE)


def check_training(training: Any, subject: str) -> TrainingRecord:
    """The same, seen to be a record from which a card can be written, as are those of the runs before it.

    Args:
        training: Anything, such as what a file holds.
        subject: What ``training`` is called in the message.

    Raises:
        ValueError: If one of the values is of another kind, or a key is nearly one that is known, such as ``license``.
    """
    if not isinstance(training, Mapping):
        raise ValueError(f"{subject} must be a JSON object that says how the weights came to be, got {training!r}.")

    def expect(holds: bool, key: str, kind: str) -> None:
        if not holds:
            raise ValueError(f"{subject}[{key!r}] must be {kind}, got {training[key]!r}.")

    def is_list(values: Any, kind: type) -> bool:
        listed = isinstance(values, Sequence) and not isinstance(values, str)
        return listed and all(isinstance(value, kind) for value in values)

    expect(is_list(training.get("data", []), str), "data", "a list of strings, one for each data set")
    for key in ("metrics", "baseline"):
        expect(is_list(training.get(key, []), Mapping), key, "a list of rows, each an object")
    for key in ("licence", "held_out", "command"):
        expect(isinstance(training.get(key, ""), str | None), key, "a string")
    if "teacher" in training:
        teacher = training["teacher"]
        expect(isinstance(teacher, Mapping), "teacher", "an object")
        kinds: dict[str, Any] = {
            "name": str,
            "weights": str,
            "share": (int, float),
            "data": Sequence,
            "licence": (str, type(None)),
        }
        whole = all(key in teacher and isinstance(teacher[key], kind) for key, kind in kinds.items())
        expect(whole, "teacher", f"an object with {', '.join(kinds)}")
        check_training({"data": teacher["data"]}, f"{subject}['teacher']")
    if "before" in training:
        check_training(training["before"], f"{subject}['before']")
    for key, value in training.items():
        if key == "before":  # was checked above, to its first run
            continue
        close = difflib.get_close_matches(str(key), TrainingRecord.__annotations__, 1, cutoff=0.8)
        if close and close[0] != key:
            raise ValueError(f"{subject}[{key!r}] is not known; did you mean {close[0]!r}?")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{subject}[{key!r}] cannot be written as JSON: {error}.") from None
    return cast("TrainingRecord", training)


def data_lines(training: TrainingRecord) -> list[str]:
    """The data of the run, a line each, preceded by those of the run that it started from."""
    before = data_lines(training["before"]) if "before" in training else []
    teacher = [_teacher(training["teacher"])] if "teacher" in training else []
    held_out = [f"held out for validation: {training['held_out']}"] if "held_out" in training else []
    lines = [f"{'then ' if before else ''}{data}" for data in training.get("data", ())] + teacher + held_out
    return [line for line in before if line not in lines] + lines


def _teacher(teacher: Mapping[str, Any]) -> str:
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
