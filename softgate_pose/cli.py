"""The command line. The only module that prints; each command is a thin layer over the library."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_args

import click
import torch
from tqdm import tqdm

from softgate_pose import __version__, demo, evaluation, oks, publishing, zoo
from softgate_pose.batch.boxes import read_boxes
from softgate_pose.batch.photos import find_photos, picture_paths
from softgate_pose.batch.predicting import is_done, predict_photos
from softgate_pose.batch.results import Results
from softgate_pose.export import calibration_images, export_model, load_onnx
from softgate_pose.factory import create_model, find_training
from softgate_pose.model.deployed import deploy
from softgate_pose.model.growing import grow
from softgate_pose.model.network import PoseModel, SoftGatePose
from softgate_pose.people import People, Predictions, concatenate, missing_images
from softgate_pose.pose.heatmaps import DecodeMethod
from softgate_pose.prediction import Poses, predict, predict_people
from softgate_pose.prediction_files import read_predictions, write_predictions
from softgate_pose.readers import annotation_files, read_people, read_people_and_coco
from softgate_pose.record import TrainingRecord, commands, data_lines
from softgate_pose.sheet import contact_sheet
from softgate_pose.training.crops import Keep
from softgate_pose.training.loop import Engine, Epoch
from softgate_pose.training.recipe import get_preset
from softgate_pose.training.run import is_main_process, train_and_save
from softgate_pose.training.teacher import Teacher
from softgate_pose.weights import file_digest, find_checkpoint, weights_digest
from softgate_pose.writing import write_picture, written_whole

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Errors that say what to do need no traceback."""
    try:
        yield
    except BrokenPipeError:  # the reader, such as head, has seen enough
        raise
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def _error_prefix(option: str) -> Iterator[None]:
    """Say which option an error is about."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        raise ValueError(f"{option}: {error}") from None


def _model_options(command: Callable[P, R]) -> Callable[P, R]:
    for option in (
        click.option("--device", default="cpu", show_default=True, help="Where to run, such as cpu or cuda."),
        click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights of yours, for --model."),
        click.option(
            "--model",
            "model_name",
            help="A name from `softgate-pose list`, hf-hub:OWNER/REPO, local-dir:FOLDER, or an exported file.onnx. "
            "[default: the first that has weights]",
        ),
    ):
        command = option(command)
    return command


def _only_one(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> str:
    if len(values) > 1:
        raise click.BadParameter(f"one data set is scored at a time, got {', '.join(values)}; run it once for each.")
    return values[0]


_flip_test = click.option("--flip-test", is_flag=True, help="Average with the mirrored image: slower, more accurate.")
_decode = click.option(
    "--decode", type=click.Choice(get_args(DecodeMethod)), default="dark", show_default=True, help="Heatmap decoder."
)
_batch_size = click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="People that go through the network together; for predict, those of one photo.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="softgate-pose")
def main() -> None:
    """2D human pose estimation with small, fast soft-gated networks."""
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show must not end a run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@main.command("list")
@click.argument("pattern", default="*")
@_plain_errors()
def list_command(pattern: str) -> None:
    """Show the models, their budgets, and which weights exist.

    PATTERN is a wildcard such as 'sgpose_*_2s'.
    """
    names = zoo.list_models(pattern)
    if not names:
        raise ValueError(f"No model matches {pattern!r}. `softgate-pose list` shows all {len(zoo.MODELS)}.")
    rows = []
    for name in names:
        entry = zoo.MODELS[name]
        tags = [weights.tag for weights in zoo.pretrained_entries(name)]
        rows.append(
            (
                name,
                f"{entry.config.num_stacks} x {entry.config.width}",
                f"{entry.params / 1e6:.2f} M",
                f"{entry.macs / 1e9:.2f} G",
                "-" if entry.paper_params is None else f"{entry.paper_params:.1f} M",
                "-" if entry.paper_macs is None else f"{entry.paper_macs:.2f} G",
                entry.paper_pckh or "-",
                ", ".join(tags) or "none yet",
            )
        )
    header = ("model", "stacks x width", "params", "MACs", "params", "MACs", "PCKh@0.5", "our weights")
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    ours, paper = sum(widths[2:4]) + 2, sum(widths[4:7]) + 4
    click.echo(f"{'':{sum(widths[:2]) + 4}}{'counted here':^{ours}}  {'reported in the paper':^{paper}}".rstrip())
    for row in (header, tuple("-" * width for width in widths), *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    click.echo("\nMACs are of one 256x256 image. The paper's PCKh is of its own weights on all of MPII, never of ours;")
    click.echo("`softgate-pose info MODEL` shows what our weights measure.")


@main.command("info")
@click.argument("name")
@_plain_errors()
def info_command(name: str) -> None:
    """Show a model's config, budget and weights.

    NAME is a model, or one with a tag.
    """
    model, dot, _ = name.partition(".")
    entry = zoo.get_entry(model)
    click.echo(f"{model}: {entry.config.num_stacks} x {entry.config.width}, depth {entry.config.depth}")
    params = "not given" if entry.paper_params is None else f"{entry.paper_params:g} M"
    click.echo(f"  parameters   {entry.params:,} (paper: {params})")
    macs = "not given" if entry.paper_macs is None else f"{entry.paper_macs:g} G"
    click.echo(f"  MACs         {entry.macs:,} at 256x256 (paper: {macs})")
    click.echo(f"  paper PCKh   {entry.paper_pckh or 'not given'} (PCKh@0.5 on all of MPII, the paper's weights)")
    published = [zoo.get_pretrained(name)] if dot else zoo.pretrained_entries(model)
    if not published:
        click.echo("  weights      none published yet")
    for weights in published:
        config, training = zoo.read_config(weights), zoo.read_training(weights)
        where = weights.folder or f"hf-hub:{weights.repo}@{weights.revision}"
        click.echo(f"\nweights {weights.name}\n  file         {where}\n  sha256       {weights.sha256}")
        if config is not None:
            height, width = config.input_size
            click.echo(f"  input        {height}x{width} px, {config.num_keypoints} keypoints ({config.skeleton.name})")
        click.echo(f"  licence      {training.get('licence', 'not stated')}")
        for data in data_lines(training):
            click.echo(f"  data         {data}")
        for command in commands(training):
            click.echo(f"  made by      {command}")
        for row in training.get("metrics", ()):
            click.echo("  measured     " + ", ".join(f"{key} {value}" for key, value in row.items()))


@main.command("predict")
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@_model_options
@click.option(
    "--boxes",
    "boxes_file",
    type=click.Path(path_type=Path),
    help='People: JSON {"photo.jpg": [[x0, y0, x1, y1], ...]} or CSV image,x0,y0,x1,y1. '
    "[default: each photo is one person]",
)
@_flip_test
@_decode
@_batch_size
@click.option("--out", type=click.Path(path_type=Path), help="Write poses to a .json, .jsonl or .csv file.")
@click.option("--pictures", type=click.Path(path_type=Path), help="Write the photos with skeletons drawn to a folder.")
@click.option("--overwrite", is_flag=True, help="Replace --out if it exists.")
@_plain_errors()
def predict_command(
    photos: tuple[Path, ...],
    model_name: str | None,
    checkpoint: Path | None,
    device: str,
    boxes_file: Path | None,
    flip_test: bool,
    decode: DecodeMethod,
    batch_size: int,
    out: Path | None,
    pictures: Path | None,
    overwrite: bool,
) -> None:
    """Find people's keypoints in PHOTOS: files, or folders of them.

    A photo that cannot be read is passed over and listed at the end, with exit status 1. An
    interrupted run with --out goes on where it stopped when the same command is given again.
    """
    found = find_photos(photos, leave_out=pictures)
    boxes = None if boxes_file is None else read_boxes(boxes_file)
    name, model = _build(model_name, checkpoint, device)
    weights = None
    if out is not None:  # only the part file records which weights made it
        weights = weights_digest(model) if isinstance(model, SoftGatePose) else file_digest(Path(name))
    if isinstance(model, SoftGatePose):
        model = deploy(model)
    drawn = None if pictures is None else picture_paths(found, pictures)
    _keep_inputs({"--out": out}, [file for file in (boxes_file, checkpoint, Path(name)) if file is not None])
    settings = {
        "photos": [str(source.resolve()) for source in photos],
        "model": name,
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "weights": weights,
        "boxes": None if boxes is None else hashlib.sha256(json.dumps(boxes).encode()).hexdigest(),
        "flip_test": flip_test,
        "decode": decode,
    }
    run = partial(predict, model, flip_test=flip_test, decode=decode, batch_size=batch_size)
    failed: list[str] = []
    gone = 0
    with nullcontext() if out is None else Results(out, settings, overwrite=overwrite) as results:
        done = sum(is_done(photo, results, drawn) for photo in found)
        if done:
            click.echo(f"Going on: {done} of {_photos(len(found))} are done.", err=True)
        try:
            with _progress(len(found), "photos", done=done) as bar:
                for photo, poses, problem in predict_photos(found, run, boxes=boxes, results=results, pictures=drawn):
                    bar.update()
                    if problem is not None:
                        failed.append(problem)
                    elif poses is not None and out is None and pictures is None:
                        with bar.external_write_mode():
                            _print_poses(photo.name, poses)
        except KeyboardInterrupt:
            if results is not None:
                click.echo(f"\nInterrupted; {results.part} keeps what is done.", err=True)
                click.echo("Give the command again to go on.", err=True)
            sys.exit(130)
        if results is not None:
            gone = len(results.done.keys() - {photo.name for photo in found})
            results.finish([photo.name for photo in found])
    succeeded = len(found) - len(failed)
    if out is not None:
        more = f", and of {gone} that {'is' if gone == 1 else 'are'} no longer there" if gone else ""
        click.echo(f"{out}: poses of {_photos(succeeded)}{more}.", err=True)
    if pictures is not None:
        click.echo(f"{pictures}: {_photos(succeeded)} with skeletons.", err=True)
    if failed:
        click.echo(f"{len(failed)} of {_photos(len(found))} failed:", err=True)
        for problem in failed:
            click.echo(f"  {problem}", err=True)
        sys.exit(1)


@main.command("evaluate")
@_model_options
@click.option(
    "--data",
    multiple=True,  # only to see a second one, which train takes and which would take this one's place
    required=True,
    callback=_only_one,
    help="KIND:FOLDER:SPLIT, such as mpii:data/mpii:valid or lsp:data/lsp:test.",
)
@_flip_test
@_decode
@_batch_size
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
@_plain_errors()
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
        _refuse("--predictions scores a file as it is", others)
    if mean_pose:
        _refuse("--mean-pose scores no model", model_options)

    people, annotations = read_people_and_coco(data)
    sources = (data, *mean_pose)
    read = [*people.images, *(file for source in sources for file in annotation_files(source))]
    read += [] if predictions_file is None else [predictions_file]
    _check_outputs({"--json": json_file, "--save-predictions": save_predictions, "--sheet": sheet}, read)
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
        name, model = _build(model_name, checkpoint, device)
        settings = {"flip_test": flip_test, "decode": decode}
        found = predict_people(model, people, **settings, batch_size=batch_size, progress=True)
    if save_predictions is not None and isinstance(found, Predictions):
        write_predictions(save_predictions, found)

    chosen = found.select_keypoints(people.skeleton.keypoints) if isinstance(found, Predictions) else None
    scored = None if chosen is None else evaluation.score_keypoints(chosen.keypoints, people)
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


@main.command("train")
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
@_plain_errors()
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
    with _error_prefix(f"--grow-from {name}"):
        own = model.config
        grow(model, create_model(name, pretrained=True, skeleton=own.skeleton, input_size=own.input_size))
    return find_training(name, pretrained=True)


def _teacher(name: str, share: float | None) -> Teacher:
    with _error_prefix(f"--teacher {name}"):
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


@main.command("export")
@click.argument("name")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights of yours, for NAME.")
@click.option("--decode", type=click.Choice(get_args(DecodeMethod)), help="Put a decoder behind the network.")
@click.option(
    "--int8",
    "calibration",
    metavar="DATA",
    help="Compute in 8-bit integers: much faster on most CPUs, a little less accurate. DATA is people to measure the "
    "ranges of activations on, KIND:FOLDER:SPLIT as for train.",
)
@_plain_errors()
def export_command(
    name: str, out: Path, checkpoint: Path | None, decode: DecodeMethod | None, calibration: str | None
) -> None:
    """Write model NAME to OUT, a .onnx or .pt2 file that takes any number of images.

    Without --decode heatmaps come out, and `predict --model file.onnx` runs it in ONNX Runtime; with it keypoints
    in input pixels and their scores.
    """
    if name.endswith(".onnx"):
        raise ValueError(f"{name} is an exported file; export the model that it was made from.")
    _, model = _build(name, checkpoint, "cpu")
    assert isinstance(model, SoftGatePose)
    images = None if calibration is None else calibration_images(read_people(calibration), model.config)
    file = export_model(deploy(model), out, decode=decode, calibration=images)
    height, width = model.config.input_size
    click.echo(f"{file}: {model.config.name} for images (B, {model.config.in_chans}, {height}, {width}), ", nl=False)
    click.echo("normalised as the model's config says.")


@main.command("publish")
@click.argument("owner")
@click.argument("pattern", default="*")
@click.option("--dry-run", is_flag=True, help="Show what would be uploaded; nothing is sent.")
@click.option("--private", is_flag=True, help="Make new repositories private.")
@_plain_errors()
def publish_command(owner: str, pattern: str, dry_run: bool, private: bool) -> None:
    """Publish the bundled weights on the Hugging Face Hub, as OWNER/MODEL.TAG.

    PATTERN is a wildcard such as 'sgpose_*_2s'; without it all are published. Log in first, with
    `hf auth login` or a token in HF_TOKEN. Given again, it uploads only what differs.
    """
    publications = publishing.plan(owner, pattern)
    rows = []
    for publication in publications:
        click.echo(f"{publication.repo}")
        for name, content in publication.files.items():
            click.echo(f"  {name:<18} {len(content):>11,} bytes  sha256 {hashlib.sha256(content).hexdigest()}")
        if not dry_run:
            published, changed = publishing.publish(publication, private=private)
            click.echo(f"  {'uploaded as' if changed else 'was there already, as'} commit {published.revision}")
            rows.append(publishing.index_row(published))
    if dry_run:
        click.echo("Nothing was sent. Without --dry-run these files are uploaded.")
    else:
        click.echo("Downloaded again, and each is what was published. Rows for softgate_pose/pretrained/index.json:")
        click.echo(json.dumps(rows, indent=2))


@main.command("demo")
@_model_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; 0.0.0.0 lets other machines in.")
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True, help="Port.")
@click.option(
    "--max-upload",
    type=click.FloatRange(0, min_open=True),
    default=20,
    show_default=True,
    help="Megabytes a photo may have.",
)
@_plain_errors()
def demo_command(
    model_name: str | None, checkpoint: Path | None, device: str, host: str, port: int, max_upload: float
) -> None:
    """Open a page in the browser: a photo, its people, skeletons and heatmaps.

    The page offers all weights that there are, and --model first.
    """
    name, model = _build(model_name, checkpoint, device)
    others = [other for other in zoo.list_pretrained() if other != name or checkpoint is not None]
    loaders: dict[str, Callable[[], Any]] = {name if checkpoint is None else f"{name} of {checkpoint}": lambda: model}
    loaders |= {other: partial(lambda other: _build(other, None, device)[1], other) for other in others}
    page = demo.build_page(loaders)
    click.echo(f"Open {demo.serve(page, host=host, port=port, max_upload=max_upload)} in a browser; Ctrl-C stops it.")
    page.block_thread()


def _build(name: str | None, checkpoint: Path | None, device: str) -> tuple[str, PoseModel]:
    """The named model with its weights, or the first that has some."""
    if name is not None and name.endswith(".onnx"):
        if checkpoint is not None or device != "cpu":
            raise ValueError(f"{name} runs as it is, on the CPU: leave out --checkpoint and --device.")
        return name, load_onnx(name)
    if name is None:
        if checkpoint is not None:
            raise ValueError("--checkpoint needs --model, the model that the weights are of.")
        name = zoo.list_pretrained()[0]
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from None
    pretrained = None if checkpoint is not None else True
    return name, create_model(name, pretrained, checkpoint=checkpoint, device=device, channels_last=True)


def _check_outputs(outputs: Mapping[str, Path | None], read: Iterable[Path]) -> None:
    """Raise unless each option's file can be written, and replaces no input and no other output."""
    for option, file in outputs.items():
        if file is None:
            continue
        target = Path(os.path.realpath(file))
        if target.is_dir():
            raise ValueError(f"{option} {file}: is a folder.")
        if not target.parent.is_dir():
            raise ValueError(f"{option} {file}: there is no folder {target.parent}.")
        is_device = target.exists() and not target.is_file()
        if not os.access(target if is_device else target.parent, os.W_OK):
            raise ValueError(
                f"{option} {file}: " + ("" if is_device else f"the folder {target.parent} ") + "cannot be written."
            )
    _keep_inputs(outputs, read)


def _keep_inputs(outputs: Mapping[str, Path | None], read: Iterable[Path]) -> None:
    """Raise if an option's file is one that is read, or another option's."""
    wanted = {option: file for option, file in outputs.items() if file is not None}
    taken = {}
    for file in set(read) if wanted else ():
        with suppress(ValueError):  # a name that no file can have
            taken[os.path.realpath(file)] = "is read by this command"
    for option, file in wanted.items():
        real = os.path.realpath(file)
        if real in taken:
            raise ValueError(f"{option} {file}: this file {taken[real]}; choose another name.")
        taken[real] = f"is that of {option}"


def _write_sheet(file: Path, people: People, predictions: Predictions) -> None:
    errors = evaluation.person_errors(predictions.keypoints, people)
    picture_format = "PNG" if file.suffix.lower() == ".png" else "JPEG"
    write_picture(contact_sheet(people, predictions, errors), file, picture_format, quality=90)


def _refuse(reason: str, options: dict[str, Any]) -> None:
    given = [option for option, value in options.items() if value]
    if given:
        raise ValueError(f"{reason}; leave out {', '.join(given)}.")


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
    return Predictions(people.skeleton.keypoints, evaluation.mean_pose_keypoints(training, people))


def _write_json(
    file: Path, run: Mapping[str, Any], scored: evaluation.Evaluation | None, precision: evaluation.Evaluation | None
) -> None:
    """The run, the table of PCK beside it, and that of average precision under ``oks``."""
    row = dict(run)
    if scored is not None:
        row |= scored.to_dict() | {"definition": scored.definition}
    if precision is not None:
        row["oks"] = precision.to_dict() | {"definition": precision.definition}
    with written_whole(file) as scratch:
        scratch.write_text(json.dumps(row, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _print_evaluation(scored: evaluation.Evaluation) -> None:
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


def _progress(total: int, unit: str, *, done: int) -> Any:
    return tqdm(total=total, initial=done, unit=f" {unit}", disable=total - done < 2, file=sys.stderr)


def _photos(count: int) -> str:
    return f"{count} photo{'' if count == 1 else 's'}"


def _print_poses(name: str, poses: Poses) -> None:
    for index, (points, scores) in enumerate(zip(poses.keypoints.tolist(), poses.scores.tolist(), strict=True)):
        click.echo(f"{click.format_filename(name)}, person {index}")  # a name may be no text
        for keypoint, (x, y), score in zip(poses.keypoint_names, points, scores, strict=True):
            click.echo(f"  {keypoint:<15} x {x:8.1f}  y {y:8.1f}  score {score:.2f}")
