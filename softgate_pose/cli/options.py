"""What several commands share: options, the model they name, and errors without a traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from softgate_pose.model.base import PoseModel

P = ParamSpec("P")
R = TypeVar("R")

DECODERS = ("argmax", "quarter", "dark", "soft", "mass")
"""The values of ``pose.heatmaps.DecodeMethod``, which is not imported here, as it would load torch."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors that say what to do need no traceback."""
    try:
        yield
    except BrokenPipeError:  # the reader, such as head, has seen enough
        raise
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        raise click.ClickException(str(error)) from error


def model_options(command: Callable[P, R]) -> Callable[P, R]:
    """The options that choose a model."""
    for option in (
        click.option("--device", default="cpu", show_default=True, help="Where to run, such as cpu or cuda."),
        click.option("--checkpoint", type=click.Path(path_type=Path), help="Your own weights, for --model."),
        click.option(
            "--model",
            "model_name",
            help="A name from `softgate-pose list`, hf-hub:OWNER/REPO, local-dir:FOLDER, or an exported file.onnx. "
            "[default: the first with weights]",
        ),
    ):
        command = option(command)
    return command


flip_test_option = click.option(
    "--flip-test", is_flag=True, help="Average with the mirrored image: slower, more accurate."
)

decode_option = click.option(
    "--decode", type=click.Choice(DECODERS), default="dark", show_default=True, help="Heatmap decoder."
)

batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="People in a batch; for predict, those of one photo.",
)


def build_model(name: str | None, checkpoint: Path | None, device: str) -> tuple[str, PoseModel]:
    """The named model with its weights, by default the first that has some, and its name."""
    import torch

    from softgate_pose import create_model, list_pretrained, load_onnx

    if name is not None and name.endswith(".onnx"):
        if checkpoint is not None or device != "cpu":
            raise ValueError(f"{name} runs as it is, on the CPU: leave out --checkpoint and --device.")
        return name, load_onnx(name)
    if name is None:
        if checkpoint is not None:
            raise ValueError("--checkpoint needs --model, the model that the weights belong to.")
        name = list_pretrained()[0]
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from None
    pretrained = None if checkpoint is not None else True
    return name, create_model(name, pretrained, checkpoint=checkpoint, device=device, channels_last=True)


def model_files(name: str | None, checkpoint: Path | None) -> list[Path]:
    """The user's files that ``build_model`` reads."""
    places = [] if checkpoint is None else [checkpoint]
    if name is not None and (name.startswith("local-dir:") or name.endswith(".onnx")):
        places.append(Path(name.removeprefix("local-dir:")))
    return [file for place in places for file in (place.glob("*") if place.is_dir() else [place])]
