"""The model card that is saved and published beside weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

from softgate_pose.config import PoseConfig

__all__ = ["TrainingRecord", "check_training", "commands", "data_lines", "model_card"]

_PAPER = "https://arxiv.org/abs/2002.11098"


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


def model_card(
    config: PoseConfig, training: TrainingRecord, source: str = "local-dir:FOLDER", sha256: str | None = None
) -> str:
    """A Hub model card in Markdown.

    Args:
        config: The saved model's config.
        training: How its weights came to be.
        source: The name under which ``create_model`` finds the model.
        sha256: The hash of ``model.safetensors``.
    """
    licence = training.get("licence")
    height, width = config.input_size
    lines = [
        "---",
        "library_name: softgate_pose",
        "pipeline_tag: keypoint-detection",
        "license: other",
        f"license_name: {json.dumps(licence or 'not stated')}",
        "tags: [human-pose-estimation, pytorch, safetensors]",
        "---",
        "",
        f"# {config.name}",
        "",
        f"A 2D human pose network with soft-gated skip connections ([Bulat et al., FG 2020]({_PAPER})): "
        f"{config.num_stacks} hourglass{'es' if config.num_stacks > 1 else ''} of width {config.width}, "
        f"{config.num_keypoints} keypoints ({config.skeleton.name}), input {height}×{width} px.",
        "",
        "## Use",
        "",
        "```python",
        "import softgate_pose",
        "",
        f'model = softgate_pose.create_model("{source}")',
        'poses = softgate_pose.predict(model, "photo.jpg")  # boxes=[(x0, y0, x1, y1), ...] for several people',
        'poses.draw("photo.jpg").save("poses.png")',
        "```",
        "",
        "## Licence",
        "",
        f"Weights: {licence or 'not stated'}. The code of softgate_pose is Apache-2.0.",
        "",
        *_inherited_licences(training),
        *([f"SHA-256 of `model.safetensors`: `{sha256}`", ""] if sha256 else []),
        "## Training data",
        "",
        *([f"- {line}" for line in data_lines(training)] or ["Not stated."]),
        "",
        "## Measured",
        "",
        *(_metrics_table(training.get("metrics", ())) or ["Not stated."]),
        "",
        *_baseline(training.get("baseline", ())),
        "## Recipe",
        "",
        *(_recipe(training) or ["Not stated."]),
        "",
        "## Keypoints",
        "",
        ", ".join(config.skeleton.keypoints),
        "",
    ]
    return "\n".join(lines)


def check_training(training: Any, subject: str) -> TrainingRecord:
    """The same, seen to be a record from which a card can be written, as are those of the runs before it.

    Args:
        training: Anything, such as what a file holds.
        subject: What ``training`` is called in the message.

    Raises:
        ValueError: If one of the values is of another kind.
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
    return cast("TrainingRecord", training)


def _metrics_table(rows: Any) -> list[str]:
    """One row per measurement; columns in the order in which the rows first name them."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        return []
    body = ["| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in rows]
    return ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns), *body]


def _baseline(rows: Any) -> list[str]:
    if not rows:
        return []
    return [
        "Beside it, the mean training pose put into each box, which looks at no image:",
        "",
        *_metrics_table(rows),
        "",
    ]


def data_lines(training: TrainingRecord) -> list[str]:
    """The data of the run, a line each, preceded by those of the run that it started from."""
    before = data_lines(training["before"]) if "before" in training else []
    teacher = [_teacher(training["teacher"])] if "teacher" in training else []
    held_out = [f"held out for validation: {training['held_out']}"] if "held_out" in training else []
    lines = [f"{'then ' if before else ''}{data}" for data in training.get("data", ())] + teacher + held_out
    return [line for line in before if line not in lines] + lines


def _inherited_licences(training: TrainingRecord) -> list[str]:
    """The licences of the weights that these started from, where they are others."""
    *earlier, last = _runs(training)
    found = dict.fromkeys(run.get("licence") for run in reversed(earlier))
    told = [licence for licence in found if licence and licence != last.get("licence")]
    return [f"The weights that training started from: {'; '.join(told)}.", ""] if told else []


def _teacher(teacher: Mapping[str, Any]) -> str:
    learned = "; ".join(teacher["data"]) or "what is not stated"
    return (
        f"taught by {teacher['name']} (weights {teacher['weights']}), whose share of a target is "
        f"{teacher['share']:g}; it had learned from: {learned}; its licence: {teacher['licence'] or 'not stated'}"
    )


def commands(training: TrainingRecord) -> list[str]:
    """The commands that made the weights, first to last."""
    return [str(run["command"]) for run in _runs(training) if run.get("command")]


def _runs(training: TrainingRecord) -> list[TrainingRecord]:
    """The run, preceded by those whose weights it started from, first to last."""
    return [*(_runs(training["before"]) if "before" in training else []), training]


def _recipe(training: TrainingRecord) -> list[str]:
    lines = ["```sh", *commands(training), "```", ""] if commands(training) else []
    if "recipe" in training:
        lines += ["```json", json.dumps(training["recipe"], indent=2), "```"]
    return lines
