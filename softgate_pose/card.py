"""The model card that is saved and published beside weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from softgate_pose.config import PoseConfig

__all__ = ["model_card"]

_PAPER = "https://arxiv.org/abs/2002.11098"


def model_card(config: PoseConfig, training: Mapping[str, Any]) -> str:
    """A Hub model card in Markdown.

    Args:
        config: Of the saved model.
        training: ``data`` (list of texts), ``licence`` (an SPDX name or text), ``recipe`` (any JSON),
            ``command`` (text), ``metrics`` (list of rows, each ``data``, ``protocol`` and figures by
            part). What is missing is said to be not stated.
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
        'model = softgate_pose.create_model("local-dir:PATH")  # or "hf-hub:OWNER/REPO@REVISION"',
        'poses = softgate_pose.predict(model, "photo.jpg", boxes=[(x0, y0, x1, y1)])',
        "```",
        "",
        "## Licence",
        "",
        f"Weights: {licence or 'not stated'}. The code of softgate_pose is Apache-2.0.",
        "",
        "## Training data",
        "",
        *([f"- {data}" for data in training.get("data", ())] or ["Not stated."]),
        "",
        "## Measured",
        "",
        *(_metrics_table(training.get("metrics", ())) or ["Not stated."]),
        "",
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


def _recipe(training: Mapping[str, Any]) -> list[str]:
    lines = ["```sh", str(training["command"]), "```", ""] if "command" in training else []
    if "recipe" in training:
        lines += ["```json", json.dumps(training["recipe"], indent=2), "```"]
    return lines
