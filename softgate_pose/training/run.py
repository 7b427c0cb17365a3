"""A whole training run: data in, measured weights with their card out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from softgate_pose import evaluation
from softgate_pose.model.network import SoftGatePose
from softgate_pose.people import concatenate
from softgate_pose.readers import read_people
from softgate_pose.training.loop import Recipe, fit
from softgate_pose.weights import save_pretrained

__all__ = ["train_and_save"]


def train_and_save(
    model: SoftGatePose,
    sources: Sequence[str],
    folder: Path,
    *,
    recipe: Recipe,
    hold_out: float = 0.04,
    tests: Sequence[str] = (),
    licence: str | None = None,
    command: str | None = None,
    before: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """Train a model, measure what is saved, and save it with a card that says how it came to be.

    Args:
        model: Trained in place.
        sources: ``KIND:FOLDER:SPLIT`` each, see ``read_people``; one that is named twice counts twice.
        folder: Of the run; one that holds an unfinished run goes on with it.
        recipe: See there.
        hold_out: Share of each source's images that is not trained on but validated after each epoch.
        tests: ``KIND:FOLDER:SPLIT`` each; measured at the end with and without flip test, beside the
            mean pose of the training people.
        licence: Of the weights.
        command: The command line, for the card.
        before: The ``training.json`` of the weights that the model came with, if any; its data and
            command become part of this one's.
        device: Where to train.

    Returns:
        ``folder/model``, written by ``save_pretrained`` in fp16.
    """
    skeleton = model.config.skeleton
    splits = {
        source: read_people(source).to_skeleton(skeleton).hold_out(hold_out, recipe.seed)
        for source in dict.fromkeys(sources)
    }
    tested = {source: read_people(source) for source in tests}
    training_people = concatenate([splits[source][0] for source in sources])
    held_out = concatenate([held for _, held in splits.values()])
    trained = fit(model, training_people, recipe, folder, validation=held_out, device=device)

    trained.half().float()  # what is measured is what is saved
    metrics: list[dict[str, Any]] = []
    baseline: list[dict[str, Any]] = []
    for source, people in tested.items():
        for flip_test in (False, True):
            result = evaluation.evaluate(trained, people, flip_test=flip_test, progress=True)
            metrics.append({"data": _label(source), "flip_test": flip_test, **result.to_dict()})
        mean_pose = evaluation.mean_pose_keypoints(training_people.to_skeleton(people.skeleton), people)
        baseline.append({"data": _label(source), **evaluation.score_keypoints(mean_pose, people).to_dict()})
    training = {
        "data": [
            f"{_label(source)}, {len(splits[source][0])} people" + (f", {count} times an epoch" if count > 1 else "")
            for source, count in Counter(sources).items()
        ],
        "held_out": f"{hold_out:.0%} of the images of each, seed {recipe.seed}",
        "licence": licence,
        "command": command,
        "recipe": recipe.to_dict(),
        "metrics": metrics,
        "baseline": baseline,
    }
    if before is not None:
        kept = ("data", "held_out", "command", "recipe", "before")
        training["before"] = {key: before[key] for key in kept if key in before}
    return save_pretrained(trained, folder / "model", training=training, dtype=torch.float16)


def _label(source: str) -> str:
    """``lsp:data/lsp:test`` as cards call it: lsp test."""
    folder, _, split = source.partition(":")[2].rpartition(":")
    return f"{Path(folder).name} {split}"
