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
from softgate_pose.model.softgate import SoftGatePose
from softgate_pose.weights import hub
from softgate_pose.weights.card import model_card
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
    "file_digest",
    "find_checkpoint",
    "find_hub",
    "find_published",
    "load_tensors",
    "push_to_hub",
    "read_hub_config",
    "read_tensors",
    "save_pretrained",
    "weights_digest",
]

T = TypeVar("T")

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".tar")


@dataclass(frozen=True)
class Checkpoint:
    """Weights on disk, and the config they were saved with; None where the file does not say."""

    file: Path
    config: PoseConfig | None


def find_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Weights from a ``.safetensors`` file, or a folder that ``save_pretrained`` wrote.

    The config is that of the ``config.json`` beside ``model.safetensors``, else the one that the file
    itself carries.

    Raises:
        FileNotFoundError: If there is no such file, or the folder lacks one.
        ValueError: If it is a pickle, which could run any code when loaded, or its config is broken.
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


def find_published(entry: PretrainedEntry) -> Checkpoint:
    """Published weights, from the package or the Hub, checked against their sha256.

    Files of the Hub's cache that are damaged are downloaded once more.

    Raises:
        OSError: If they have to be downloaded and cannot be.
        RuntimeError: If the file is not the one that was published.
    """

    def read(folder: Path, remedy: str = "Delete it and try again.") -> Checkpoint:
        found = find_checkpoint(folder)
        digest = file_digest(found.file)
        if digest != entry.sha256:
            raise RuntimeError(
                f"{found.file} is not the published {entry.name}: sha256 {digest}, expected {entry.sha256}. {remedy}"
            )
        return found

    if entry.folder is not None:
        return read(entry.folder, "Reinstall softgate-pose.")
    assert entry.repo is not None
    return _from_hub(entry.repo, entry.revision, (CONFIG_FILE, WEIGHTS_FILE), read)


def find_hub(repo: str, revision: str | None = None) -> Checkpoint:
    """Weights from the Hugging Face Hub, through its cache.

    With a full commit hash as ``revision`` a cached file needs no request. Nothing but data is
    fetched: ``config.json`` and ``model.safetensors``. Files that cannot be read are downloaded once
    more, since the cache would keep them for ever.

    Raises:
        FileNotFoundError: If the repository, the revision or one of the two files does not exist.
        OSError: If they cannot be downloaded and the cache has no copy; ``PermissionError`` if the Hub
            refuses them.
        ValueError: If the repository's name is malformed, or what came is not safetensors.
    """
    return _from_hub(repo, revision, (CONFIG_FILE, WEIGHTS_FILE), find_checkpoint)


def read_hub_config(repo: str, revision: str | None = None) -> PoseConfig:
    """The config of weights on the Hugging Face Hub, without the weights.

    Raises:
        FileNotFoundError: If the repository, the revision or its ``config.json`` does not exist.
        OSError: If it cannot be downloaded and the cache has no copy; ``PermissionError`` if the Hub
            refuses it.
        ValueError: If the repository's name is malformed, or the config is broken.
    """

    def read(folder: Path) -> PoseConfig:
        file = folder / CONFIG_FILE
        return _parse_config(file.read_bytes(), file)

    return _from_hub(repo, revision, (CONFIG_FILE,), read)


def _from_hub(repo: str, revision: str | None, names: tuple[str, ...], read: Callable[[Path], T]) -> T:
    """What ``read`` makes of the folder of these files, which are downloaded once more if it cannot use them."""
    folder = hub.download(repo, revision, names)
    try:
        return read(folder)
    except (RuntimeError, ValueError) as error:
        try:
            folder = hub.download(repo, revision, names, force=True)
        except OSError as again:
            raise type(error)(f"{error} {again}") from again
    return read(folder)


def _parse_config(text: str | bytes, file: Path) -> PoseConfig:
    """The config in the JSON that a file holds."""
    try:
        return PoseConfig.from_json(text)
    except ValueError as error:
        raise ValueError(f"The config in {file} cannot be used: {error}") from None


def check_shapes_fit_config(found: Checkpoint) -> None:
    """Raise ``RuntimeError`` unless a file holds exactly the tensors of its own config.

    Only its header is read, so that a wrong config costs no memory.
    """
    if found.config is None:
        return
    with safe_open(found.file, framework="pt") as stored:
        shapes = {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118
    with torch.device("meta"):
        planned = SoftGatePose(found.config)
    _check_shapes(planned, shapes, str(found.file))


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        ValueError: If the file is a pickle, not valid safetensors, or has a type that PyTorch lacks.
    """
    _read_header(file)
    try:
        with safe_open(file, framework="pt") as stored:
            return {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    except (SafetensorError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{file} holds a tensor that cannot be read: {error}") from None


def load_tensors(model: SoftGatePose, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into a model; every one must fit.

    Args:
        model: Changed in place; its dtype and device stay.
        tensors: As ``read_tensors`` gives them.
        source: Where they come from, for the message.

    Raises:
        RuntimeError: If tensors are missing, unknown, of another shape or kind, or hold NaN or infinity.
    """
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
        raise RuntimeError(f"{source} is damaged: NaN or infinity in {_count(broken)} ({_some(broken)}).")
    model.load_state_dict(dict(tensors))


def save_pretrained(
    model: SoftGatePose,
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
    return _save(model, Path(folder), training, dtype, "local-dir:FOLDER")


def _save(
    model: SoftGatePose, folder: Path, training: TrainingRecord | None, dtype: torch.dtype | None, source: str
) -> Path:
    if not isinstance(model, SoftGatePose):
        raise TypeError(
            f"save_pretrained takes the model that create_model built, got {type(model).__name__}; save that model "
            "before changing its form."
        )
    if dtype not in (None, *_FLOATS):
        raise ValueError(f"Weights are saved in {', '.join(map(str, _FLOATS))}, or with dtype=None; got {dtype}.")
    check_training(training or {}, "training")
    tensors = {}
    for key, value in model.state_dict().items():
        kept = value.detach().cpu().contiguous()
        if kept.is_floating_point() and kept.dtype not in _FLOATS:
            raise ValueError(f"{key} is of type {kept.dtype}, which cannot be loaded again; convert the model first.")
        if not bool(torch.isfinite(kept).all()):
            raise ValueError(f"{key} holds NaN or infinity; what has diverged cannot be loaded again.")
        if dtype is not None and kept.is_floating_point():
            kept = kept.to(dtype)
            if not bool(torch.isfinite(kept).all()):
                raise ValueError(f"{key} does not fit into {dtype}; save with dtype=None.")
        tensors[key] = kept
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
        part = Path(scratch)
        metadata = {"config": json.dumps(model.config.to_dict())}  # alone, as several are written in any order
        content = safetensors.torch.save(tensors, metadata=metadata)
        text = model_card(model.config, training or {}, source, hashlib.sha256(content).hexdigest())
        (part / WEIGHTS_FILE).write_bytes(content)
        (part / CONFIG_FILE).write_text(model.config.to_json(), encoding="utf-8")
        # a command may name a file whose name is no text
        (part / CARD_FILE).write_text(text, encoding="utf-8", errors="backslashreplace")
        (part / TRAINING_FILE).write_text(json.dumps(training or {}, indent=2) + "\n", encoding="utf-8")
        for file in sorted(part.iterdir()):
            os.replace(file, folder / file.name)
    return folder


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of the names and float32 values of a model's tensors, the same whichever file they came from."""
    digest = hashlib.sha256()
    for name, values in model.state_dict().items():
        digest.update(name.encode() + values.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def push_to_hub(
    model: SoftGatePose,
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
        ValueError: As ``save_pretrained``.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        _save(model, Path(scratch), training, dtype, f"hf-hub:{repo}")
        with hub.explained_upload(repo, clear=(OSError, ValueError)):  # no token, no such owner, no repository's name
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo, folder_path=scratch, commit_message=commit_message)
    oid: str = commit.oid
    return oid


def _read_header(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file; an error that names the reason if it is not one."""
    try:
        with safe_open(file, framework="pt") as stored:
            return dict(stored.metadata() or {})
    except (SafetensorError, OSError) as error:
        problem = str(error)
    with file.open("rb") as stream:
        start = stream.read(2)
    if file.suffix.lower() in _PICKLES or start in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise ValueError(
            f"{file} is a pickle (or is named like one), which can run any code when it is loaded; softgate_pose "
            "reads safetensors only. If you trust the file, convert it: load it with torch.load(..., "
            "weights_only=True) and write it with safetensors.torch.save_file."
        )
    raise ValueError(f"{file} is not a valid safetensors file: {problem}")


def _check_shapes(model: SoftGatePose, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raise ``RuntimeError`` unless tensors of these shapes are a model's."""
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    missing = [key for key in own if key not in shapes]
    unknown = [key for key in shapes if key not in own]
    misfits = [key for key in own if key in shapes and own[key] != shapes[key]]
    if missing or unknown or misfits:
        problems = []
        if misfits:
            first = misfits[0]
            problems.append(f"{_count(misfits)} of another shape ({first}: file {shapes[first]}, model {own[first]})")
        if missing:
            problems.append(f"{_count(missing)} missing in the file ({_some(missing)})")
        if unknown:
            problems.append(f"{_count(unknown)} that the model does not have ({_some(unknown)})")
        raise RuntimeError(
            f"{source} does not fit {model.config.name}: {'; '.join(problems)}. {_remedy(model, shapes)}"
        )


def _remedy(model: SoftGatePose, shapes: Mapping[str, tuple[int, ...]]) -> str:
    head, stem = shapes.get("heads.0.weight", ()), shapes.get("stem.0.weight", ())
    changes = []
    if len(stem) == 4:
        if stem[0] != model.config.width:
            return f"The file is of a network of width {stem[0]}: build that one."
        if stem[1] != model.config.in_chans:
            changes.append(f"in_chans={stem[1]}")
    if len(head) == 4 and head[0] != model.config.num_keypoints:
        changes.append(f"num_keypoints={head[0]}")
    if changes:
        return f"Build the model with {', '.join(changes)}."
    return "The file is of another architecture: build the model with the settings it was trained with."


def file_digest(file: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _count(keys: list[str]) -> str:
    return f"{len(keys)} tensor{'' if len(keys) == 1 else 's'}"


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
