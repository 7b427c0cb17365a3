"""The command line: the only part that prints. Each command is options and one call of the library."""

from __future__ import annotations

import io
import sys

import click

from softgate_pose import __version__
from softgate_pose.cli.demo import demo_command
from softgate_pose.cli.evaluate import evaluate_command
from softgate_pose.cli.export import export_command, publish_command
from softgate_pose.cli.models import info_command, list_command
from softgate_pose.cli.predict import predict_command
from softgate_pose.cli.train import train_command

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="softgate-pose")
def main() -> None:
    """2D human pose estimation with small, fast soft-gated networks."""
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show must not end a run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


for _command in (
    list_command,
    info_command,
    predict_command,
    evaluate_command,
    train_command,
    export_command,
    publish_command,
    demo_command,
):
    main.add_command(_command)
