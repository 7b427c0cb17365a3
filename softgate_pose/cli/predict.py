"""``softgate-pose predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

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
    from softgate_pose import Poses


@click.command("predict")
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@model_options
@click.option(
    "--boxes",
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
    out: Path | None,
    pictures: Path | None,
    **settings: Any,
) -> None:
    """Find people's keypoints in PHOTOS: files, or folders of them.

    A photo that cannot be read is skipped and listed at the end, with exit status 1. An interrupted
    run with --out resumes where it stopped when the same command is given again.
    """
    from softgate_pose import predict_folder

    name, model = build_model(model_name, checkpoint, device)
    files = model_files(name, checkpoint)
    run = predict_folder(model, photos, out=out, pictures=pictures, inputs=files, **settings)
    count = len(run.photos)
    if run.done:
        click.echo(f"Going on: {run.done} of {_photos(count)} are done.", err=True)
    problems: list[str] = []
    bar = tqdm(total=count, initial=run.done, unit=" photos", disable=count - run.done < 2, file=sys.stderr)
    try:
        with bar:
            for photo, poses, problem in run:
                bar.update()
                if problem is not None:
                    problems.append(problem)
                elif poses is not None and out is None and pictures is None:
                    with bar.external_write_mode():
                        _print_poses(photo.name, poses)
    except KeyboardInterrupt:
        if run.part is not None:
            click.echo(f"\nInterrupted; {run.part} keeps what is done.", err=True)
            click.echo("Give the command again to go on.", err=True)
        sys.exit(130)
    if out is not None:
        more = f", and of {run.gone} that {'is' if run.gone == 1 else 'are'} no longer there" if run.gone else ""
        click.echo(f"{out}: poses of {_photos(count - len(problems))}{more}.", err=True)
    if pictures is not None:
        click.echo(f"{pictures}: {_photos(count - len(problems))} with skeletons.", err=True)
    if problems:
        click.echo(f"{len(problems)} of {_photos(count)} failed:", err=True)
        for problem in problems:
            click.echo(f"  {problem}", err=True)
        sys.exit(1)


def _photos(count: int) -> str:
    return f"{count} photo{'' if count == 1 else 's'}"


def _print_poses(name: str, poses: Poses) -> None:
    for index, (points, scores) in enumerate(zip(poses.keypoints.tolist(), poses.scores.tolist(), strict=True)):
        click.echo(f"{click.format_filename(name)}, person {index}")  # a name need not be text
        for keypoint, (x, y), score in zip(poses.keypoint_names, points, scores, strict=True):
            click.echo(f"  {keypoint:<15} x {x:8.1f}  y {y:8.1f}  score {score:.2f}")
