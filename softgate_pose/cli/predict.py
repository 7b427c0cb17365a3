"""``softgate-pose predict``."""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from softgate_pose.cli.options import (
    batch_size_option,
    build_model,
    decode_option,
    flip_test_option,
    keep_inputs,
    model_options,
    plain_errors,
)
from softgate_pose.folder.boxes import read_boxes
from softgate_pose.folder.photos import find_photos, picture_paths
from softgate_pose.folder.results import Results
from softgate_pose.folder.run import is_done, predict_photos
from softgate_pose.model.deploy import deploy
from softgate_pose.model.softgate import SoftGatePose
from softgate_pose.pose.heatmaps import DecodeMethod
from softgate_pose.prediction.poses import Poses
from softgate_pose.prediction.predict import predict
from softgate_pose.weights.files import file_digest, weights_digest


@click.command("predict")
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@model_options
@click.option(
    "--boxes",
    "boxes_file",
    type=click.Path(path_type=Path),
    help='People: JSON {"photo.jpg": [[x0, y0, x1, y1], ...]} or CSV image,x0,y0,x1,y1. '
    "[default: each photo is one person]",
)
@flip_test_option
@decode_option
@batch_size_option
@click.option("--out", type=click.Path(path_type=Path), help="Write poses to a .json, .jsonl or .csv file.")
@click.option("--pictures", type=click.Path(path_type=Path), help="Write the photos with skeletons drawn to a folder.")
@click.option("--overwrite", is_flag=True, help="Replace --out if it exists.")
@plain_errors()
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
    name, model = build_model(model_name, checkpoint, device)
    weights = None
    if out is not None:  # only the part file records which weights made it
        weights = weights_digest(model) if isinstance(model, SoftGatePose) else file_digest(Path(name))
    if isinstance(model, SoftGatePose):
        model = deploy(model)
    drawn = None if pictures is None else picture_paths(found, pictures)
    keep_inputs({"--out": out}, [file for file in (boxes_file, checkpoint, Path(name)) if file is not None])
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


def _progress(total: int, unit: str, *, done: int) -> Any:
    return tqdm(total=total, initial=done, unit=f" {unit}", disable=total - done < 2, file=sys.stderr)


def _photos(count: int) -> str:
    return f"{count} photo{'' if count == 1 else 's'}"


def _print_poses(name: str, poses: Poses) -> None:
    for index, (points, scores) in enumerate(zip(poses.keypoints.tolist(), poses.scores.tolist(), strict=True)):
        click.echo(f"{click.format_filename(name)}, person {index}")  # a name may be no text
        for keypoint, (x, y), score in zip(poses.keypoint_names, points, scores, strict=True):
            click.echo(f"  {keypoint:<15} x {x:8.1f}  y {y:8.1f}  score {score:.2f}")
