"""``softgate-pose train``."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from softgate_pose.cli.options import plain_errors
from softgate_pose.training.recipe import PRESETS, Engine, Keep

if TYPE_CHECKING:
    from softgate_pose.training.loop import Epoch


@click.command("train")
@click.argument("name")
@click.option("--data", "sources", multiple=True, required=True, help="KIND:FOLDER:SPLIT; given twice it counts twice.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--recipe", default="fast", show_default=True, help=f"{', '.join(PRESETS)}.")
@click.option("--size", type=int, help="Side of the square input, in pixels.  [default: the model's]")
@click.option("--epochs", type=int, help="Passes over the people.  [default: the recipe's]")
@click.option("--batch-size", type=int, help="People a step, over all processes.  [default: the recipe's]")
@click.option("--learning-rate", type=float, help="The peak.  [default: the recipe's]")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of weights, order and augmentation.")
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
    metavar="NAME",
    help="A trained model that is narrower or has fewer stacks, such as sgpose_1m9_2s.sports or local-dir:FOLDER, "
    "whose heatmaps this one gives when training begins.",
)
@click.option(
    "--teacher",
    metavar="NAME",
    help="A trained model, such as sgpose_1m9_2s.sports or local-dir:FOLDER, whose heatmaps become a part of the "
    "targets.",
)
@click.option(
    "--teacher-share",
    type=click.FloatRange(0, 1, min_open=True),
    help="The teacher's share of a target; the rest is the annotation's.  [default: 0.5]",
)
@click.option("--test", "tests", multiple=True, help="KIND:FOLDER:SPLIT to measure at the end, for the card.")
@click.option("--licence", help="Licence of the weights, for the card.")
@click.option("--device", default="cpu", show_default=True, help="Where to train: cpu or cuda.")
@click.option(
    "--keep",
    type=click.Choice(get_args(Keep)),
    default="memory",
    show_default=True,
    help="Crops all in memory, all on the device, or read anew for each batch.",
)
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that read images.")
@click.option("--compile", is_flag=True, help="Use torch.compile.")
@plain_errors()
def train_command(
    name: str,
    sources: tuple[str, ...],
    out: Path,
    size: int | None,
    settings: tuple[str, ...],
    device: str,
    keep: Keep,
    workers: int,
    compile: bool,  # noqa: A002
    **options: Any,
) -> None:
    """Train model NAME, or resume the run in --out; the weights are saved to OUT/model, in fp16.

    A NAME with a tag, hf-hub: or local-dir: starts from its weights. Under `accelerate launch` or
    `torchrun` several processes share each batch.
    """
    from softgate_pose.training.run import is_main_process, train

    numbers = {key: options.pop(key) for key in ("epochs", "batch_size", "learning_rate", "seed")}
    numbers["input_size"] = None if size is None else (size, size)
    try:
        with _log_shown():
            saved = train(
                name,
                sources,
                out,
                settings={key: value for key, value in numbers.items() if value is not None} | _parse(settings),
                command="softgate-pose " + shlex.join(sys.argv[1:]),
                engine=Engine(device=device, keep=keep, workers=workers, compile=compile),
                report=_print_epoch,
                report_test=_print_test,
                **options,
            )
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; {out} keeps the run as it was last saved.", err=True)
        click.echo("Give the command again to go on.", err=True)
        sys.exit(130)
    if is_main_process():
        click.echo(f"Saved {saved}; use it as local-dir:{saved}.")


@contextmanager
def _log_shown() -> Iterator[None]:
    """Show what the library logs, such as the step at which a run resumes."""
    logger, handler = logging.getLogger("softgate_pose"), logging.StreamHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def _parse(settings: tuple[str, ...]) -> dict[str, Any]:
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
    row, scores = epoch.row, epoch.validation
    click.echo(
        f"epoch {row['epoch']}/{epoch.epochs}: loss {row['loss']:.4f}, {row['images_per_second']} images/s, "
        f"{row['seconds']:.0f} s"
    )
    if scores is not None:
        click.echo(f"  {scores.protocol} of {scores.people} held-out people: {_parts(scores.figures)}")


def _print_test(row: Mapping[str, Any]) -> None:
    """A row of the card's measurements, or of the mean pose's, which have no flip test."""
    how = {False: "without flip test", True: "with flip test", None: "the mean training pose"}[row.get("flip_test")]
    figures = {k: v for k, v in row.items() if k not in ("data", "flip_test", "protocol", "people", "left_out")}
    click.echo(f"{row['data']}, {row['protocol']} of {row['people']} people, {how}:\n  {_parts(figures)}")


def _parts(figures: Mapping[str, float]) -> str:
    return "  ".join(f"{part} {value:.1f}" for part, value in figures.items())
