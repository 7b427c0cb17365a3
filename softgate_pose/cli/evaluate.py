"""``softgate-pose evaluate``."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from softgate_pose._files import write_picture, written_whole
from softgate_pose.cli.options import (
    batch_size_option,
    build_model,
    check_outputs,
    decode_option,
    flip_test_option,
    model_options,
    plain_errors,
    refuse,
)
from softgate_pose.data.people import People, Predictions, concatenate, missing_images
from softgate_pose.data.sources import annotation_files, read_people, read_people_and_coco
from softgate_pose.evaluation import oks, pck
from softgate_pose.evaluation.files import read_predictions, write_predictions
from softgate_pose.evaluation.sheet import contact_sheet
from softgate_pose.pose.heatmaps import DecodeMethod
from softgate_pose.prediction.predict import predict_people


def _only_one(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> str:
    if len(values) > 1:
        raise click.BadParameter(f"one data set is scored at a time, got {', '.join(values)}; run it once for each.")
    return values[0]


@click.command("evaluate")
@model_options
@click.option(
    "--data",
    multiple=True,  # only to see a second one, which train takes and which would take this one's place
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
    "predictions_file",
    type=click.Path(path_type=Path),
    help="Score any system's predictions instead of a model: a file that --save-predictions writes, "
    "COCO's results in JSON (for coco: data), or MPII's pred.mat.",
)
@click.option(
    "--save-predictions",
    type=click.Path(path_type=Path),
    help="Write what is scored to a JSON file, for --predictions.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the tables to a file, too.")
@click.option(
    "--sheet",
    type=click.Path(path_type=Path),
    help="Draw people as predicted in a .jpg or .png, white rings where the annotation is: above some from all over "
    "the data, below the worst.",
)
@plain_errors()
def evaluate_command(
    model_name: str | None,
    checkpoint: Path | None,
    device: str,
    data: str,
    flip_test: bool,
    decode: DecodeMethod,
    batch_size: int,
    mean_pose: tuple[str, ...],
    predictions_file: Path | None,
    save_predictions: Path | None,
    json_file: Path | None,
    sheet: Path | None,
) -> None:
    """Score a model, or predictions of any other, on annotated people.

    PCKh@0.5 where head boxes are known, else PCK@0.2 of the torso, else PCK@0.1 of the box; for coco:
    data COCO's average precision, too. The table says what exactly its protocol counts.
    """
    model_options = {"--model": model_name, "--checkpoint": checkpoint, "--flip-test": flip_test}
    if predictions_file is not None:
        others = {**model_options, "--mean-pose": mean_pose, "--save-predictions": save_predictions}
        refuse("--predictions scores a file as it is", others)
    if mean_pose:
        refuse("--mean-pose scores no model", model_options)

    people, annotations = read_people_and_coco(data)
    sources = (data, *mean_pose)
    read = [*people.images, *(file for source in sources for file in annotation_files(source))]
    read += [] if predictions_file is None else [predictions_file]
    check_outputs({"--json": json_file, "--save-predictions": save_predictions, "--sheet": sheet}, read)
    if sheet is not None and sheet.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise ValueError(f"--sheet {sheet}: the picture must end in .jpg or .png.")
    if sheet is not None or (predictions_file is None and not mean_pose):  # both need the images
        absent = missing_images(people)
        if absent:
            raise FileNotFoundError(f"{data} lacks {len(absent)} of its images; the first is {absent[0]}.")

    lacking = None if annotations is None else _lacking_pycocotools()
    settings: dict[str, Any] = {}
    if predictions_file is not None:
        name, found = str(predictions_file), read_predictions(predictions_file, people)
        if not isinstance(found, Predictions):
            if annotations is None:
                raise ValueError(f"{name} holds COCO's results, which score on coco: data alone; got {data}.")
            if lacking is not None:
                raise lacking
            if sheet is not None:
                raise ValueError(f"{name} holds COCO's results, which do not say whom each is for: no --sheet.")
    elif mean_pose:
        name, found = "mean pose", _mean_pose(mean_pose, people, data)
    else:
        name, model = build_model(model_name, checkpoint, device)
        settings = {"flip_test": flip_test, "decode": decode}
        found = predict_people(model, people, **settings, batch_size=batch_size, progress=True)
    if save_predictions is not None and isinstance(found, Predictions):
        write_predictions(save_predictions, found)

    chosen = found.select_keypoints(people.skeleton.keypoints) if isinstance(found, Predictions) else None
    scored = None if chosen is None else pck.score_keypoints(chosen.keypoints, people)
    precision = oks.score_oks(found, annotations) if annotations is not None and lacking is None else None
    if json_file is not None:  # before anything is printed, whose reader may leave
        _write_json(json_file, {"model": name, "data": data, **settings}, scored, precision)
    how = f" ({decode}, {'with' if flip_test else 'without'} flip test)" if settings else ""
    click.echo(f"{'model':<12}{name}{how}\n{'data':<12}{data}")
    for table in filter(None, (scored, precision)):
        _print_evaluation(table)
    if lacking is not None:
        click.echo(f"\nWithout average precision. {lacking}", err=True)
    if sheet is not None and chosen is not None:  # last, so that an image that cannot be read costs no figures
        _write_sheet(sheet, people, chosen)


def _write_sheet(file: Path, people: People, predictions: Predictions) -> None:
    errors = pck.person_errors(predictions.keypoints, people)
    picture_format = "PNG" if file.suffix.lower() == ".png" else "JPEG"
    write_picture(contact_sheet(people, predictions, errors), file, picture_format, quality=90)


def _lacking_pycocotools() -> ImportError | None:
    """Why average precision cannot be computed, if so; asked before predicting."""
    try:
        oks.require_pycocotools()
    except ImportError as error:
        return error
    return None


def _mean_pose(sources: tuple[str, ...], people: People, data: str) -> Predictions:
    training = concatenate([read_people(source).to_skeleton(people.skeleton) for source in sources])
    if not training.labelled.any():
        raise ValueError(f"--mean-pose {', '.join(sources)}: nothing is labelled that {data} is scored on.")
    return Predictions(people.skeleton.keypoints, pck.mean_pose_keypoints(training, people))


def _write_json(
    file: Path, run: Mapping[str, Any], scored: pck.Evaluation | None, precision: pck.Evaluation | None
) -> None:
    """The run, the table of PCK beside it, and that of average precision under ``oks``."""
    row = dict(run)
    if scored is not None:
        row |= scored.to_dict() | {"definition": scored.definition}
    if precision is not None:
        row["oks"] = precision.to_dict() | {"definition": precision.definition}
    with written_whole(file) as scratch:
        scratch.write_text(json.dumps(row, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _print_evaluation(scored: pck.Evaluation) -> None:
    """Protocol and people, and the figures below their names, in as many lines as 80 columns need."""
    indent = " " * 12
    click.echo(f"\n{'protocol':<12}{scored.protocol}")
    click.echo(textwrap.fill(scored.definition, 80, initial_indent=indent, subsequent_indent=indent))
    click.echo(f"{'people':<12}{scored.people} scored, {scored.left_out} left out\n")
    names, values = "", ""
    for name, value in scored.figures.items():
        width = max(len(name), 5) + 2
        if len(names) + width > 80:
            click.echo(f"{names}\n{values}\n")
            names, values = "", ""
        names, values = f"{names}{name:>{width}}", f"{values}{value:>{width}.1f}"
    click.echo(f"{names}\n{values}" if names else "Nobody could be scored.")
