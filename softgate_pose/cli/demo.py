"""``softgate-pose demo``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from softgate_pose.cli.options import build_model, model_options, plain_errors


@click.command("demo")
@model_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; 0.0.0.0 lets other machines in.")
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True, help="Port.")
@click.option(
    "--max-upload",
    type=click.FloatRange(0, min_open=True),
    default=20,
    show_default=True,
    help="Largest photo, in megabytes.",
)
@plain_errors()
def demo_command(
    model_name: str | None, checkpoint: Path | None, device: str, host: str, port: int, max_upload: float
) -> None:
    """Open a page in the browser: a photo, its people, skeletons and heatmaps.

    The page offers all weights, with --model first.
    """
    from softgate_pose import demo, list_pretrained

    name, model = build_model(model_name, checkpoint, device)
    others = [other for other in list_pretrained() if other != name or checkpoint is not None]
    loaders: dict[str, Callable[[], Any]] = {name if checkpoint is None else f"{name} of {checkpoint}": lambda: model}
    loaders |= {other: partial(lambda other: build_model(other, None, device)[1], other) for other in others}
    page = demo.build_page(loaders)
    click.echo(f"Open {demo.serve(page, host=host, port=port, max_upload=max_upload)} in a browser; Ctrl-C stops it.")
    page.block_thread()
