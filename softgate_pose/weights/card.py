"""The model card that is saved and published beside weights."""

from __future__ import annotations

import json
from typing import Any

from softgate_pose.config import PoseConfig
from softgate_pose.weights.record import TrainingRecord, commands, data_lines, runs

__all__ = ["model_card"]

_PAPER = "https://arxiv.org/abs/2002.11098"


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


def _inherited_licences(training: TrainingRecord) -> list[str]:
    """The licences of the weights that these started from, where they are others."""
    *earlier, last = runs(training)
    found = dict.fromkeys(run.get("licence") for run in reversed(earlier))
    told = [licence for licence in found if licence and licence != last.get("licence")]
    return [f"The weights that training started from: {'; '.join(told)}.", ""] if told else []


def _recipe(training: TrainingRecord) -> list[str]:
    lines = ["```sh", *commands(training), "```", ""] if commands(training) else []
    if "recipe" in training:
        lines += ["```json", json.dumps(training["recipe"], indent=2), "```"]
    return lines
