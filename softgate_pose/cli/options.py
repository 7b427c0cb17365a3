"""What several commands share: options, the model they name, and errors without a traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from softgate_pose._files import require_outputs

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
    "--decode", type=click.Choice(DECODERS), default="dark", show_default=True, help="Heatmap decoder."
)

batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="People that go through the network together; for predict, those of one photo.",
)


def build_model(name: str | None, checkpoint: Path | None, device: str) -> tuple[str, PoseModel]:
    """The named model with its weights, or the first that has some, and its name."""
    from softgate_pose import create_model, list_pretrained, load_onnx

    if name is not None and name.endswith(".onnx"):
        if checkpoint is not None or device != "cpu":
            raise ValueError(f"{name} runs as it is, on the CPU: leave out --checkpoint and --device.")
        return name, load_onnx(name)
    if name is None:
        if checkpoint is not None:
            raise ValueError("--checkpoint needs --model, the model that the weights are of.")
        name = list_pretrained()[0]
    _check_device(device)
    pretrained = None if checkpoint is not None else True
    return name, create_model(name, pretrained, checkpoint=checkpoint, device=device, channels_last=True)


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from None


def model_files(name: str | None, checkpoint: Path | None) -> list[Path]:
    """The files that ``build_model`` reads, as far as they lie in a folder of the user's."""
    files = [] if checkpoint is None else [checkpoint]
    kind, _, folder = (name or "").partition("local-dir:")
    if folder and not kind:
        files += Path(folder).glob("*")
    elif name is not None and name.endswith(".onnx"):
        files.append(Path(name))
    return files


def refuse(reason: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError if one of the options was given."""
    unfit = [option for option, value in options.items() if value]
    if unfit:
        raise ValueError(f"{reason}; leave out {', '.join(unfit)}.")


def keep_inputs(outputs: Mapping[str, Path | None], read: Any) -> None:
    """Goes when predict uses it no more."""
    require_outputs(outputs, read, makes_parents=True)
