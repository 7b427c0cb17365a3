"""``softgate-pose export`` and ``publish``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from softgate_pose._files import require_outputs
from softgate_pose.cli.options import DECODERS, build_model, model_files, plain_errors

if TYPE_CHECKING:
    from softgate_pose.pose.heatmaps import DecodeMethod


@click.command("export")
@click.argument("name")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Your own weights, for NAME.")
@click.option("--decode", type=click.Choice(DECODERS), help="Build a decoder into the file.")
@click.option(
    "--int8",
    "calibration",
    metavar="DATA",
    help="Compute in 8-bit integers: much faster on most CPUs, a little less accurate. DATA, KIND:FOLDER:SPLIT as for "
    "train, are people to measure the ranges of activations on.",
)
@plain_errors()
def export_command(
    name: str, out: Path, checkpoint: Path | None, decode: DecodeMethod | None, calibration: str | None
) -> None:
    """Write model NAME to OUT, a .onnx or .pt2 file that takes any number of images.

    The file gives heatmaps, and `predict --model file.onnx` runs it in ONNX Runtime; with --decode it gives keypoints
    in input pixels and their scores.
    """
    from softgate_pose import deploy, export_model, read_people
    from softgate_pose.export import calibration_images

    if name.endswith(".onnx"):
        raise ValueError(f"{name} is an exported file; export the model that it was made from.")
    people = None if calibration is None else read_people(calibration)
    inputs = [] if people is None else [*people.files, *people.images]
    require_outputs({"OUT": out}, [*model_files(name, checkpoint), *inputs])
    _, model = build_model(name, checkpoint, "cpu")
    images = None if people is None else calibration_images(people, model.config)
    file = export_model(deploy(model), out, decode=decode, calibration=images)
    height, width = model.config.input_size
    click.echo(f"{file}: {model.config.name} for images (B, {model.config.in_chans}, {height}, {width}), ", nl=False)
    click.echo("normalised as the model's config says.")


@click.command("publish")
@click.argument("owner")
@click.argument("pattern", default="*")
@click.option("--dry-run", is_flag=True, help="Show what would be uploaded; nothing is sent.")
@click.option("--private", is_flag=True, help="Make new repositories private.")
@plain_errors()
def publish_command(owner: str, pattern: str, dry_run: bool, private: bool) -> None:
    """Publish the bundled weights on the Hugging Face Hub, as OWNER/MODEL.TAG.

    PATTERN is a wildcard such as 'sgpose_*_2s'; without it all are published. Log in first, with
    `hf auth login` or a token in HF_TOKEN. Repeated, it uploads only what differs.
    """
    from softgate_pose.weights import publish as publishing

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
        click.echo("Downloaded again and verified. Rows for softgate_pose/pretrained/index.json:")
        click.echo(json.dumps(rows, indent=2))
