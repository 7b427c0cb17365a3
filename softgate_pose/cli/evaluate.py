"""``softgate-pose evaluate``."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from softgate_pose.cli.options import (
    batch_size_option,
    build_model,
    decode_option,
    flip_test_option,
    model_files,
    model_options,
    plain_errors,
)

if TYPE_CHECKING:
    from softgate_pose.evaluation.pck import Evaluation
    from softgate_pose.evaluation.run import SourceEvaluation

_path = click.Path(path_type=Path)


def _only_one(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> str:
    if len(values) > 1:
        raise click.BadParameter(f"one data set is scored at a time, got {', '.join(values)}; run it once for each.")
    return values[0]


def _refuse(reason: str, options: Mapping[str, Any]) -> None:
    unfit = [option for option, value in options.items() if value]
    if unfit:
        raise ValueError(f"{reason}; leave out {', '.join(unfit)}.")


@click.command("evaluate")
@model_options
@click.option(
    "--data",
    multiple=True,  # only to refuse a second one, which would replace the first
    required=True,
    callback=_only_one,
    help="KIND:FOLDER:SPLIT, such as mpii:data/mpii:valid or lsp:data/lsp:test.",
)
@flip_test_option
@decode_option
@batch_size_option
@click.option(
    "--mean-pose",
    multiple=True,
    help="Score the mean pose of these training data instead of a model; may be given more than once.",
)
@click.option(
    "--predictions",
    type=_path,
    help="Score any system's predictions instead of a model: a file that --save-predictions writes, "
    "COCO's results in JSON (for coco: data), or MPII's pred.mat.",
)
@click.option("--save-predictions", type=_path, help="Write what is scored to a JSON file, for --predictions.")
@click.option("--json", "json_file", type=_path, help="Write the tables to a JSON file, too.")
@click.option(
    "--sheet",
    type=_path,
    help="Draw people as predicted into a .jpg or .png, with white rings where the annotations are: a sample from "
    "all over the data above, the worst below.",
)
@plain_errors()
def evaluate_command(
    model_name: str | None,
    checkpoint: Path | None,
    device: str,
    data: str,
    **options: Any,
) -> None:
    """Score a model, or any system's predictions, on annotated people.

    PCKh@0.5 where head boxes are known, else PCK@0.2 of the torso, else PCK@0.1 of the box; for coco: data also COCO's
    average precision. The table says exactly what its protocol counts.
    """
    from softgate_pose import evaluate_source

    of_models = {"--model": model_name, "--checkpoint": checkpoint, "--flip-test": options["flip_test"]}
    if options["predictions"] is not None:
        others = {"--mean-pose": options["mean_pose"], "--save-predictions": options["save_predictions"]}
        _refuse("--predictions scores a file as it is", of_models | others)
    if options["mean_pose"]:
        _refuse("--mean-pose scores no model", of_models)
    name, model = None, None
    if options["predictions"] is None and not options["mean_pose"]:
        name, model = build_model(model_name, checkpoint, device)
    inputs = model_files(name, checkpoint)
    evaluate_source(data, model=model, name=name, inputs=inputs, progress=True, report=_print, **options)


def _print(result: SourceEvaluation) -> None:
    how = ""
    if result.settings:
        how = f" ({result.settings['decode']}, {'with' if result.settings['flip_test'] else 'without'} flip test)"
    click.echo(f"{'model':<12}{result.model}{how}\n{'data':<12}{result.data}")
    for table in filter(None, (result.keypoints, result.oks)):
        _print_table(table)


def _print_table(evaluation: Evaluation) -> None:
    """Protocol and people, and the figures below their names, in as many lines as 80 columns need."""
    indent = " " * 12
    click.echo(f"\n{'protocol':<12}{evaluation.protocol}")
    click.echo(textwrap.fill(evaluation.definition, 80, initial_indent=indent, subsequent_indent=indent))
    click.echo(f"{'people':<12}{evaluation.people} scored, {evaluation.left_out} left out\n")
    names, values = "", ""
    for name, value in evaluation.figures.items():
        width = max(len(name), 5) + 2
        if len(names) + width > 80:
            click.echo(f"{names}\n{values}\n")
            names, values = "", ""
        names, values = f"{names}{name:>{width}}", f"{values}{value:>{width}.1f}"
    click.echo(f"{names}\n{values}" if names else "Nobody could be scored.")
