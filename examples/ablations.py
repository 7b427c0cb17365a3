"""Train variants of a model or of a recipe under one small, equal budget, and print their table.

    python examples/ablations.py --data lsp:data/lsp:train --data mpii:data/mpii_sports:train gates merges

GROUPS are `gates` (the paper's Table II), `merges` (its Table IV), `recipe` (what the recipe `fast` was
chosen from) and `fast`, that recipe alone, to compare data. Every variant sees the same people, in the same
order, for the same number of epochs, and is measured on the same held-out people, or on those that --measure
names. With --teacher a trained model teaches each of them; those with another kind of heatmap are left out. A
variant that is done is not trained again; one that was stopped goes on.
"""

import json
from pathlib import Path
from typing import Any

import click
import torch

from softgate_pose import create_model
from softgate_pose.data.people import People, concatenate
from softgate_pose.data.sources import read_people
from softgate_pose.evaluation.pck import evaluate
from softgate_pose.training.loop import Engine, fit
from softgate_pose.training.recipe import get_preset
from softgate_pose.training.task import KeypointTask
from softgate_pose.training.teacher import Teacher

BASE = {"alpha_init": 0.0, "learning_rate": 1e-3, "rotation": 60.0}  # what the recipe `fast` was chosen from
GATES = {
    "identity": {"gate": "identity"},
    "no skip": {"gate": "fixed", "alpha_init": 0.0},
    "fixed at 0.5": {"gate": "fixed", "alpha_init": 0.5},
    "learned scalar": {"gate": "scalar"},
    "learned per channel": {},
}
MERGES = {"sum": {"merge": "sum"}, "concat_grouped": {"merge": "concat_grouped"}, "concat": {}}
RECIPE = {
    "base": {},
    "base, seed 1": {"seed": 1},
    "alpha from 0.5": {"alpha_init": 0.5},
    "alpha from 1": {"alpha_init": 1.0},
    "alpha from 1, seed 1": {"alpha_init": 1.0, "seed": 1},
    "squared error on Gaussians": {"heatmap": "gaussian"},
    "learning rate 2e-3": {"learning_rate": 2e-3},
    "rotation 30": {"rotation": 30.0},
    "no moving average": {"ema_decay": 0.0},
    "the recipe fast": {"learning_rate": 2e-3, "alpha_init": 1.0, "rotation": 30.0},
}
FAST = {"the recipe fast": RECIPE["the recipe fast"]}
GROUPS = {"gates": GATES, "merges": MERGES, "recipe": RECIPE, "fast": FAST}

# PCKh@0.5 on MPII of the paper's own weights, 2 stacks of width 128, after 200 epochs. Of Table II our copy
# of the text keeps all five figures, and what the first and the last belong to.
MIDDLE = "one of 87.4, 87.5, 87.6"
PAPER = {
    "gates": dict(zip(GATES, ("87.0", MIDDLE, MIDDLE, MIDDLE, "88.0"), strict=True)),
    "merges": {"sum": "87.5", "concat_grouped": "87.8", "concat": "88.0"},
}


def measure(
    settings: dict[str, Any],
    model_name: str,
    splits: tuple[People, People],
    budget: dict[str, Any],
    teacher: Teacher | None,
    setup: str,
    folder: Path,
) -> dict[str, Any]:
    """Train one variant, unless that was done before, and measure it on the held-out people."""
    done = folder / "result.json"
    preset = get_preset("fast").change({**BASE, **budget, **settings})
    if done.exists():
        result = json.loads(done.read_text())
        if result.get("setup") != setup:
            raise click.UsageError(f"{done} is of {result.get('setup')}, not of {setup}; choose another --out.")
    else:
        torch.manual_seed(preset.recipe.seed)
        model = create_model(model_name, **preset.model)
        training, held_out = splits
        task = KeypointTask(model, training, teacher=teacher)
        trained = fit(task, preset.recipe, folder, engine=Engine(sheets=False))
        result = {"setup": setup, **evaluate(trained, held_out).to_dict()}
        done.write_text(json.dumps(result))
    return result


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n", 1))
@click.argument("groups", nargs=-1, required=True, type=click.Choice(tuple(GROUPS)))
@click.option("--data", "sources", multiple=True, required=True, help="KIND:FOLDER:SPLIT")
@click.option("--model", "model_name", default="sgpose_0m5_1s", show_default=True)
@click.option("--size", default=128, show_default=True)
@click.option("--epochs", default=6, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), help="People a step.  [default: the recipe's]")
@click.option("--hold-out", default=0.2, show_default=True, help="Share of the images; 0 with --measure.")
@click.option("--measure", "measured", multiple=True, help="KIND:FOLDER:SPLIT, in place of held-out people.")
@click.option("--precision", default="fp32", show_default=True, help="fp32 or bf16.")
@click.option("--teacher", "teacher_name", help="A model with weights that teaches.")
@click.option("--out", type=click.Path(path_type=Path), default="ablations", show_default=True)
def main(
    groups: tuple[str, ...],
    sources: tuple[str, ...],
    model_name: str,
    size: int,
    epochs: int,
    batch_size: int | None,
    hold_out: float,
    measured: tuple[str, ...],
    precision: str,
    teacher_name: str | None,
    out: Path,
) -> None:
    skeleton = create_model(model_name).config.skeleton
    people, others = ([read_people(source).to_skeleton(skeleton) for source in group] for group in (sources, measured))
    together = concatenate(people)
    splits = (together, concatenate(others)) if others else together.hold_out(hold_out)
    budget = {"epochs": epochs, "input_size": (size, size), "precision": precision}
    budget |= {"batch_size": batch_size} if batch_size else {}
    teacher = None if teacher_name is None else Teacher(create_model(teacher_name, pretrained=True))
    setup = (
        f"{model_name}, {size} px, {precision}, {epochs} epochs of {len(splits[0])} people ({', '.join(sources)})"
        f"{f' in batches of {batch_size}' if batch_size else ''}; "
        f"measured on {len(splits[1])} {'people of ' + ', '.join(measured) if others else 'held-out people'}"
        f"{f', taught by {teacher_name}' if teacher else ''}."
    )
    click.echo(setup)
    for group in groups:
        for name, settings in GROUPS[group].items():
            if teacher is not None and settings.get("heatmap", "softmax") != teacher.model.config.heatmap:
                click.echo(f"Left out: {name}; its heatmaps are of another kind than the teacher's.", err=True)
                continue
            folder = out / (name.replace(" ", "-").replace(",", "") if settings else "base")
            result = measure(settings, model_name, splits, budget, teacher, setup, folder)
            protocol = result["protocol"]
            if name == next(iter(GROUPS[group])):
                paper = "the paper's PCKh@0.5 (its weights, all of MPII, 2 x 128) | " if group in PAPER else ""
                click.echo(f"\n| {group} | {paper}ours: {protocol} limbs | mean |\n|---|{'---|' * (2 + bool(paper))}")
            row = [name] + ([PAPER[group][name]] if group in PAPER else [])
            click.echo("| " + " | ".join([*row, f"{result['limbs']:.1f}", f"{result['mean']:.1f}"]) + " |")


if __name__ == "__main__":
    main()
