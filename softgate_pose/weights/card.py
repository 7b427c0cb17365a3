"""The model card that is saved and published beside weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from softgate_pose.config import PoseConfig
from softgate_pose.weights.record import TrainingRecord, commands, data_lines, runs

__all__ = ["model_card"]

_PAPER = "https://arxiv.org/abs/2002.11098"

_TEMPLATE = """\
---
{{ card_data }}
---

# {{ config.name }}

{{ about }}.

## Use

```python
import softgate_pose

model = softgate_pose.create_model("{{ source }}")
poses = softgate_pose.predict(model, "photo.jpg")  # boxes=[(x0, y0, x1, y1), ...] for several people
poses.draw("photo.jpg").save("poses.png")
```

## Licence

Weights: {{ licence }}. The code of softgate_pose is Apache-2.0.
{%- if inherited %}

The weights that training started from: {{ inherited|join("; ") }}.
{%- endif %}
{%- if sha256 %}

SHA-256 of `model.safetensors`: `{{ sha256 }}`
{%- endif %}

## Training data

{% for line in data %}- {{ line }}
{% else %}Not stated.
{% endfor %}
## Measured

{{ metrics or "Not stated." }}
{%- if baseline %}

Beside it, the mean training pose put into each box, which looks at no image:

{{ baseline }}
{%- endif %}

## Recipe
{% if commands %}
```sh
{{ commands|join("\n") }}
```
{% endif %}
{%- if recipe %}
```json
{{ recipe }}
```
{% endif %}
{%- if not commands and not recipe %}
Not stated.
{% endif %}
## Keypoints

{{ config.skeleton.keypoints|join(", ") }}
"""


def model_card(
    config: PoseConfig, training: TrainingRecord, source: str = "local-dir:FOLDER", sha256: str | None = None
) -> str:
    """A Hub model card in Markdown; ``source`` is the name under which ``create_model`` finds the model."""
    from huggingface_hub import ModelCard, ModelCardData  # slow to load

    licence = training.get("licence") or "not stated"
    earlier = dict.fromkeys(run.get("licence") for run in reversed(runs(training)[:-1]))
    card = ModelCard.from_template(
        ModelCardData(
            library_name="softgate_pose",
            pipeline_tag="keypoint-detection",
            license="other",
            license_name=licence,
            tags=["human-pose-estimation", "pytorch", "safetensors"],
        ),
        template_str=_TEMPLATE,
        config=config,
        about=_about(config),
        source=source,
        licence=licence,
        inherited=[other for other in earlier if other and other != licence],
        sha256=sha256,
        data=data_lines(training),
        metrics=_table(training.get("metrics", [])),
        baseline=_table(training.get("baseline", [])),
        commands=commands(training),
        recipe=json.dumps(training["recipe"], indent=2) if "recipe" in training else None,
    )
    return f"{card}\n"


def _about(config: PoseConfig) -> str:
    kind, stack, stacks = f"of the architecture {config.architecture}", "stack", "stacks"
    if config.architecture == "softgate":
        kind = f"with soft-gated skip connections ([Bulat et al., FG 2020]({_PAPER}))"
        stack, stacks = "hourglass", "hourglasses"
    size = f"{config.num_stacks} {stack if config.num_stacks == 1 else stacks} of width {config.width}"
    keypoints = f"{config.num_keypoints} keypoints ({config.skeleton.name})"
    height, width = config.input_size
    return f"A 2D human pose network {kind}: {size}, {keypoints}, input {height}×{width} px"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row for each measurement; columns in the order in which the rows first name them."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        return ""
    cells = [columns, ["---"] * len(columns), *([row.get(column, "") for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in cells)
