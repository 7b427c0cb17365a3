"""What several commands share: options, the model they name, and errors without a traceback."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_args

import click
import torch

from softgate_pose import zoo
from softgate_pose.export import load_onnx
from softgate_pose.factory import create_model
from softgate_pose.model.base import PoseModel
from softgate_pose.pose.heatmaps import DecodeMethod

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors that say what to do need no traceback."""
    try:
        yield
    except BrokenPipeError:  # the reader, such as head, has seen enough
        raise
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def error_prefix(option: str) -> Iterator[None]:
    """Say which option an error is about."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        raise ValueError(f"{option}: {error}") from None


def model_options(command: Callable[P, R]) -> Callable[P, R]:
    """The options that choose a model."""
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


flip_test_option = click.option(
    "--flip-test", is_flag=True, help="Average with the mirrored image: slower, more accurate."
)


decode_option = click.option(
    "--decode", type=click.Choice(get_args(DecodeMethod)), default="dark", show_default=True, help="Heatmap decoder."
)


batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="People that go through the network together; for predict, those of one photo.",
)


def build_model(name: str | None, checkpoint: Path | None, device: str) -> tuple[str, PoseModel]:
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


def check_outputs(outputs: Mapping[str, Path | None], read: Iterable[Path]) -> None:
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
    keep_inputs(outputs, read)


def keep_inputs(outputs: Mapping[str, Path | None], read: Iterable[Path]) -> None:
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


def refuse(reason: str, options: dict[str, Any]) -> None:
    """Raise ValueError if one of the options was given."""
    given = [option for option, value in options.items() if value]
    if given:
        raise ValueError(f"{reason}; leave out {', '.join(given)}.")
