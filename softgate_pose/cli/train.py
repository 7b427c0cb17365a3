"""``softgate-pose train``."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import click
import torch

from softgate_pose.cli.options import (
    error_prefix,
    plain_errors,
)
from softgate_pose.data.sources import read_people
from softgate_pose.factory import create_model, find_training
from softgate_pose.model.softgate import SoftGatePose
from softgate_pose.model.transfer import grow
from softgate_pose.training.crops import Keep
from softgate_pose.training.loop import Engine, Epoch
from softgate_pose.training.recipe import get_preset
from softgate_pose.training.run import is_main_process, train_and_save
from softgate_pose.training.teacher import Teacher
from softgate_pose.weights.files import find_checkpoint
from softgate_pose.weights.record import TrainingRecord


@click.command("train")
@click.argument("name")
@click.option("--data", "sources", multiple=True, required=True, help="KIND:FOLDER:SPLIT; given twice it counts twice.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--recipe", "recipe_name", default="fast", show_default=True, help="fast, paper-mpii or paper-lsp.")
@click.option("--size", type=int, help="Side of the square input, in pixels.  [default: the model's]")
@click.option("--epochs", type=int, help="Passes over the people.  [default: the recipe's]")
@click.option("--batch-size", type=int, help="People a step, over all processes.  [default: the recipe's]")
@click.option("--learning-rate", type=float, help="At its peak.  [default: the recipe's]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, order and augmentation.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another setting of the recipe, its augmentation or the model, such as ema_decay=0, rotation=30, "
    "precision=bf16, gate=scalar or heatmap=gaussian; may be given more than once.",
)
@click.option("--skeleton", help="lsp, mpii, coco, or data for that of the first --data.  [default: the model's]")
@click.option(
    "--hold-out",
    type=click.FloatRange(0, 0.5),
    default=0.04,
    show_default=True,
    help="Share of the images kept for validation.",
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights to start from.")
@click.option(
    "--grow-from",
    "smaller_name",
    metavar="NAME",
    help="A narrower model or one of fewer stacks, with weights, such as sgpose_1m9_2s.sports or local-dir:FOLDER, "
    "whose heatmaps this one gives when training begins.",
)
@click.option(
    "--teacher",
    "teacher_name",
    metavar="NAME",
    help="A model with weights, such as sgpose_1m9_2s.sports or local-dir:FOLDER, whose heatmaps become a part of the "
    "targets.",
)
@click.option(
    "--teacher-share",
    type=click.FloatRange(0, 1, min_open=True),
    help="The teacher's part of a target; the annotation has the rest.  [default: 0.5]",
)
@click.option("--test", "tests", multiple=True, help="KIND:FOLDER:SPLIT to measure at the end, for the card.")
@click.option("--licence", help="Of the weights, for the card.")
@click.option("--device", default="cpu", show_default=True, help="Where to train: cpu or cuda.")
@click.option(
    "--keep",
    type=click.Choice(get_args(Keep)),
    default="memory",
    show_default=True,
    help="Crops all in memory, all on the device, or read anew for each batch.",
)
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that read images.")
@click.option("--compile", "use_compile", is_flag=True, help="Use torch.compile.")
@plain_errors()
def train_command(
    name: str,
    sources: tuple[str, ...],
    out: Path,
    recipe_name: str,
    size: int | None,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    seed: int,
    settings: tuple[str, ...],
    skeleton: str | None,
    hold_out: float,
    checkpoint: Path | None,
    smaller_name: str | None,
    teacher_name: str | None,
    teacher_share: float | None,
    tests: tuple[str, ...],
    licence: str | None,
    device: str,
    keep: Keep,
    workers: int,
    use_compile: bool,
) -> None:
    """Train model NAME, or go on with the run in --out; the weights are saved to OUT/model, in fp16.

    A NAME with a tag, hf-hub: or local-dir: starts from its weights. Under `accelerate launch` or
    `torchrun` several processes share each batch.
    """
    input_size = None if size is None else (size, size)
    named = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "input_size": input_size}
    changes: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    asked = _parse_settings(settings)
    preset = get_preset(recipe_name).change({**changes, "seed": seed, **asked})
    before = find_training(name, checkpoint=checkpoint)
    # where gates start and what the heatmaps are is for a recipe to say, but weights have theirs
    theirs = set() if before is None else {"alpha_init"}
    if before is not None and (checkpoint is None or find_checkpoint(checkpoint).config is not None):
        theirs.add("heatmap")  # which tensors alone do not tell
    unused = theirs - asked.keys()
    torch.manual_seed(preset.recipe.seed)
    model = create_model(
        name,
        checkpoint=checkpoint,
        skeleton=read_people(sources[0]).skeleton if skeleton == "data" else skeleton,
        **{key: value for key, value in preset.model.items() if key not in unused},
    )
    if smaller_name is not None:
        if before is not None:
            raise ValueError(f"--grow-from gives a model its first weights, but {checkpoint or name} has weights.")
        before = _grow_from(smaller_name, model)
    if teacher_name is None and teacher_share is not None:
        raise ValueError("--teacher-share needs --teacher, the model that teaches.")
    try:
        with _log_shown():
            saved = train_and_save(
                model,
                sources,
                out,
                recipe=preset.recipe,
                hold_out=hold_out,
                tests=tests,
                licence=licence,
                command="softgate-pose " + shlex.join(sys.argv[1:]),
                before=before,
                teacher=None if teacher_name is None else _teacher(teacher_name, teacher_share),
                engine=Engine(device=device, keep=keep, workers=workers, compile=use_compile),
                report=_print_epoch,
                report_test=_print_test,
            )
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; {out} keeps the run as it was last saved.", err=True)
        click.echo("Give the command again to go on.", err=True)
        sys.exit(130)
    if is_main_process():
        click.echo(f"Saved {saved}; use it as local-dir:{saved}.")


@contextmanager
def _log_shown() -> Iterator[None]:
    """What the library logs, such as at which step a run goes on."""
    logger, handler = logging.getLogger("softgate_pose"), logging.StreamHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def _grow_from(name: str, model: SoftGatePose) -> TrainingRecord | None:
    """Give a model its first weights by growing a smaller one; how that one was trained."""
    with error_prefix(f"--grow-from {name}"):
        own = model.config
        grow(model, create_model(name, pretrained=True, skeleton=own.skeleton, input_size=own.input_size))
    return find_training(name, pretrained=True)


def _teacher(name: str, share: float | None) -> Teacher:
    with error_prefix(f"--teacher {name}"):
        model = create_model(name, pretrained=True)
    others = {} if share is None else {"share": share}
    return Teacher(model, name=name, training=find_training(name, pretrained=True), **others)


def _parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """``key=value`` texts; a value is JSON, or else text."""
    parsed: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set takes KEY=VALUE, such as gate=scalar; got {setting!r}.")
        try:
            parsed[key] = json.loads(value)
        except ValueError:
            parsed[key] = value
    return parsed


def _print_epoch(epoch: Epoch) -> None:
    row = epoch.row
    click.echo(
        f"epoch {row['epoch']}/{epoch.epochs}: loss {row['loss']:.4f}, {row['images_per_second']} images/s, "
        f"{row['seconds']:.0f} s"
    )
    if epoch.validation is not None:
        parts = _parts(epoch.validation.figures)
        click.echo(f"  {epoch.validation.protocol} of {epoch.validation.people} held-out people: {parts}")


def _print_test(row: Mapping[str, Any]) -> None:
    """A row of the card's table of what was measured, or of the mean pose beside it, which knows no flip test."""
    how = {False: "without flip test", True: "with flip test", None: "the mean training pose"}[row.get("flip_test")]
    told = ("data", "flip_test", "protocol", "people", "left_out")
    figures = {key: value for key, value in row.items() if key not in told}
    click.echo(f"{row['data']}, {row['protocol']} of {row['people']} people, {how}:\n  {_parts(figures)}")


def _parts(figures: Mapping[str, float]) -> str:
    return "  ".join(f"{part} {value:.1f}" for part, value in figures.items())
