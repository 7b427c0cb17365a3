"""Weights: find, download, verify, load, save and publish them. safetensors only."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from softgate_pose.config import PoseConfig
from softgate_pose.model.base import PoseModel
from softgate_pose.model.registry import NETWORKS, build
from softgate_pose.weights.card import model_card
from softgate_pose.weights.hub import fetch_files, upload
from softgate_pose.weights.record import (
    CARD_FILE,
    CONFIG_FILE,
    TRAINING_FILE,
    WEIGHTS_FILE,
    TrainingRecord,
    check_training,
)
from softgate_pose.zoo import PretrainedEntry

__all__ = [
    "Checkpoint",
    "check_shapes_fit_config",
    "fetch_checkpoint",
    "fetch_config",
    "fetch_published",
    "file_digest",
    "find_checkpoint",
    "load_tensors",
    "push_to_hub",
    "read_tensors",
    "save_pretrained",
    "weights_digest",
]

T = TypeVar("T")

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".tar")
_PICKLE_STARTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class Checkpoint:
    """Weights on disk, and the config they were saved with; None where the file does not say."""

    file: Path
    config: PoseConfig | None


def find_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Weights from a ``.safetensors`` file, or a folder that ``save_pretrained`` wrote.

    The config is that of the ``config.json`` beside ``model.safetensors``, else the one that the file itself carries.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"No weights: there is no file or folder {path}.")
    file = path / WEIGHTS_FILE if path.is_dir() else path
    if not file.is_file():
        inner = path / "model"  # where a training run puts it
        hint = f" Did you mean {inner}?" if (inner / WEIGHTS_FILE).is_file() else ""
        raise FileNotFoundError(f"No weights: the folder {path} has no {WEIGHTS_FILE}.{hint}")
    metadata = _read_header(file)
    if "run" in metadata:
        raise ValueError(f"{file} is the state of a training run, not a model; use the folder {file.parent / 'model'}.")
    beside = file.parent / CONFIG_FILE
    if file.name == WEIGHTS_FILE and beside.is_file():
        return Checkpoint(file, _parse_config(beside.read_bytes(), beside))
    return Checkpoint(file, _parse_config(metadata["config"], file) if "config" in metadata else None)


def fetch_published(entry: PretrainedEntry) -> Checkpoint:
    """Published weights, from the package or the Hub, checked against their sha256."""

    def read(folder: Path) -> Checkpoint:
        checkpoint = find_checkpoint(folder)
        digest = file_digest(checkpoint.file)
        if digest != entry.sha256:
            remedy = "Reinstall softgate-pose." if entry.folder else "Delete it and try again."
            raise RuntimeError(
                f"{checkpoint.file} is not the published {entry.name}: sha256 {digest}, expected {entry.sha256}. "
                f"{remedy}"
            )
        return checkpoint

    if entry.folder is not None:
        return read(entry.folder)
    assert entry.repo is not None
    return _fetch(entry.repo, entry.revision, (CONFIG_FILE, WEIGHTS_FILE), read)


def fetch_checkpoint(repo: str, revision: str | None = None) -> Checkpoint:
    """Weights from the Hugging Face Hub, through its cache: ``config.json`` and ``model.safetensors`` alone."""
    return _fetch(repo, revision, (CONFIG_FILE, WEIGHTS_FILE), find_checkpoint)


def fetch_config(repo: str, revision: str | None = None) -> PoseConfig:
    """The config of weights on the Hugging Face Hub, without the weights."""

    def read(folder: Path) -> PoseConfig:
        return _parse_config((folder / CONFIG_FILE).read_bytes(), folder / CONFIG_FILE)

    return _fetch(repo, revision, (CONFIG_FILE,), read)


def _fetch(repo: str, revision: str | None, names: tuple[str, ...], read: Callable[[Path], T]) -> T:
    """The result of ``read`` for the folder of these files.

    If it cannot use them, they are downloaded once more: the cache would keep damaged ones for ever.
    """
    folder = fetch_files(repo, revision, names)
    try:
        return read(folder)
    except (RuntimeError, ValueError) as error:
        try:
            folder = fetch_files(repo, revision, names, force=True)
        except OSError as again:
            raise type(error)(f"{error} {again}") from again
    return read(folder)


def _parse_config(text: str | bytes, file: Path) -> PoseConfig:
    try:
        return PoseConfig.from_json(text)
    except ValueError as error:
        raise ValueError(f"The config in {file} cannot be used: {error}") from None


def check_shapes_fit_config(checkpoint: Checkpoint) -> None:
    """Raise ``RuntimeError`` unless a file holds exactly the tensors of its own config.

    Only its header is read, so that a wrong config costs no memory.
    """
    if checkpoint.config is None:
        return
    with safe_open(checkpoint.file, framework="pt") as stored:
        shapes = {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118
    with torch.device("meta"):
        planned = build(checkpoint.config)
    _check_shapes(planned, shapes, str(checkpoint.file))


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU."""
    _read_header(file)
    try:
        with safe_open(file, framework="pt") as stored:
            return {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    except (SafetensorError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{file} holds a tensor that cannot be read: {error}") from None


def load_tensors(model: PoseModel, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into a model, whose dtype and device stay; every one must fit, and be finite."""
    _check_shapes(model, {key: tuple(value.shape) for key, value in tensors.items()}, source)
    for key, value in model.state_dict().items():
        kinds = _FLOATS if value.is_floating_point() else (value.dtype,)
        if tensors[key].dtype not in kinds:
            raise RuntimeError(
                f"{source} does not fit {model.config.name}: {key} is of type {tensors[key].dtype}, "
                f"expected {' or '.join(map(str, kinds))}. Convert it."
            )
    broken = [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise RuntimeError(f"{source} is damaged: {_count(broken, 'with NaN or infinity')}.")
    model.load_state_dict(dict(tensors))


def save_pretrained(
    model: PoseModel,
    folder: str | os.PathLike[str],
    *,
    training: TrainingRecord | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write weights, config and model card; ``create_model("local-dir:FOLDER")`` reads them back.

    Args:
        model: What to save.
        folder: Created if missing; the files of an earlier save are replaced, each at once.
        training: What the card says of data, licence, recipe and measured figures, kept as ``training.json``.
        dtype: The type of the floating point tensors; None leaves them, ``torch.float16`` halves the file.

    Returns:
        The folder.

    Raises:
        OSError: If it cannot be written.
        TypeError: If ``model`` is another form of a network, such as ``deploy`` gives.
        ValueError: If a value is not finite or too large for ``dtype``, if ``dtype`` is none of float16, bfloat16,
            float32 and float64, or if ``training`` holds values of other kinds.
    """
    files, folder = _files_to_save(model, training, dtype, "local-dir:FOLDER"), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
        for name, content in files.items():
            (Path(scratch) / name).write_bytes(content)
        for name in files:
            os.replace(Path(scratch) / name, folder / name)
    return folder


def push_to_hub(
    model: PoseModel,
    repo: str,
    *,
    training: TrainingRecord | None = None,
    dtype: torch.dtype | None = None,
    private: bool = False,
    token: str | None = None,
    commit_message: str = "Upload softgate_pose model",
) -> str:
    """Publish what ``save_pretrained`` writes as a Hub repository, created if missing, in one commit.

    Args:
        model: What to publish.
        repo: ``owner/name``.
        training: See ``save_pretrained``.
        dtype: See ``save_pretrained``.
        private: Whether a new repository is private.
        token: A Hub token; None for the one you logged in with.
        commit_message: Of the commit.

    Returns:
        The commit's hash: pin it, as ``hf-hub:owner/name@hash``.

    Raises:
        OSError: If it cannot be uploaded, as without a token that may write there.
        TypeError: As ``save_pretrained``.
        ValueError: As ``save_pretrained``, or if the repository's name is malformed.
    """
    files = _files_to_save(model, training, dtype, f"hf-hub:{repo}")
    return upload(repo, files, commit_message, private=private, token=token)[0]


def _files_to_save(
    model: PoseModel, training: TrainingRecord | None, dtype: torch.dtype | None, source: str
) -> dict[str, bytes]:
    """Name to content; ``source`` is the name by which the card loads the model."""
    if type(model) not in NETWORKS.values():
        raise TypeError(
            f"save_pretrained takes the model that create_model built, got {type(model).__name__}; save that model "
            "before changing its form."
        )
    if dtype not in (None, *_FLOATS):
        raise ValueError(f"Weights are saved in {', '.join(map(str, _FLOATS))}, or with dtype=None; got {dtype}.")
    training = check_training(training or {}, "training")
    tensors = {}
    for key, value in model.state_dict().items():
        is_float = value.is_floating_point()
        if is_float and value.dtype not in _FLOATS:
            raise ValueError(f"{key} is of type {value.dtype}, which cannot be loaded again; convert the model first.")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{key} holds NaN or infinity; what has diverged cannot be loaded again.")
        tensors[key] = value.detach().to("cpu", dtype if is_float else None).contiguous()
        if not bool(torch.isfinite(tensors[key]).all()):
            raise ValueError(f"{key} does not fit into {dtype}; save with dtype=None.")
    metadata = {"config": json.dumps(model.config.to_dict())}  # alone, as several are written in any order
    content = safetensors.torch.save(tensors, metadata=metadata)
    card = model_card(model.config, training, source, hashlib.sha256(content).hexdigest())
    return {
        WEIGHTS_FILE: content,
        CONFIG_FILE: model.config.to_json().encode(),
        CARD_FILE: card.encode(errors="backslashreplace"),  # a command may name a file whose name is no text
        TRAINING_FILE: (json.dumps(training, indent=2) + "\n").encode(),
    }


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of the names and float32 values of a model's tensors, the same whichever file they came from."""
    digest = hashlib.sha256()
    for name, values in model.state_dict().items():
        digest.update(name.encode() + values.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def file_digest(file: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _read_header(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file; an error that names the reason if it is not one."""
    try:
        with safe_open(file, framework="pt") as stored:
            return dict(stored.metadata() or {})
    except (SafetensorError, OSError) as error:
        problem = str(error)
    with file.open("rb") as stream:
        start = stream.read(2)
    if file.suffix.lower() in _PICKLES or start in _PICKLE_STARTS:
        raise ValueError(
            f"{file} is a pickle (or is named like one), which can run any code when it is loaded; softgate_pose "
            "reads safetensors only. If you trust the file, convert it: load it with torch.load(..., "
            "weights_only=True) and write it with safetensors.torch.save_file."
        )
    raise ValueError(f"{file} is not a valid safetensors file: {problem}")


def _check_shapes(model: PoseModel, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raise ``RuntimeError`` unless tensors of these shapes fit a model."""
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    problems = []
    if misfits := [key for key in own if shapes.get(key, own[key]) != own[key]]:
        first = misfits[0]
        problems.append(_count(misfits, "of another shape", f"{first}: file {shapes[first]}, model {own[first]}"))
    if missing := [key for key in own if key not in shapes]:
        problems.append(_count(missing, "missing in the file"))
    if unknown := [key for key in shapes if key not in own]:
        problems.append(_count(unknown, "that the model does not have"))
    if problems:
        raise RuntimeError(f"{source} does not fit {model.config.name}: {'; '.join(problems)}. {_remedy(own, shapes)}")


def _remedy(own: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """How to build a model that tensors of these shapes fit, as far as two of its convolutions show."""
    changes = []
    if own.keys() == shapes.keys():
        stem, head = "stem.0.weight", "heads.0.weight"
        for setting, key, axis in (("width", stem, 0), ("in_chans", stem, 1), ("num_keypoints", head, 0)):
            if len(own.get(key, ())) == len(shapes.get(key, ())) == 4 and own[key][axis] != shapes[key][axis]:
                changes.append(f"{setting}={shapes[key][axis]}")
    return f"Build the model with {', '.join(changes) or 'the settings it was trained with'}."


def _count(keys: list[str], what: str, detail: str = "") -> str:
    detail = detail or ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    return f"{len(keys)} tensor{'' if len(keys) == 1 else 's'} {what} ({detail})"
