"""What readers of annotations share: finding files, and fields that are checked as they are taken.

Messages have no full stop and no file; ``error_prefix`` adds both.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softgate_pose.data.matlab import load_matlab
from softgate_pose.pose.skeleton import Skeleton

__all__ = [
    "FARTHEST",
    "Floats",
    "check_joints",
    "describe",
    "describe_folder",
    "error_prefix",
    "field",
    "find_file",
    "image_below",
    "key_field",
    "list_field",
    "matlab_array",
    "number_field",
    "read_json",
]

FARTHEST = 1e6
"""The largest coordinate, in pixels. No image is that large, and differences below it are exact enough."""

Floats = NDArray[np.float64]


def find_file(kind: str, root: Path, *names: str) -> Path:
    """The first of these files that lies in the folder."""
    files = [root / name for name in names]
    for file in files:
        if file.is_file():
            return file
    parent = files[0].parent
    raise FileNotFoundError(
        f"No {kind} annotations: expected {' or '.join(map(str, files))}; "
        f"{describe_folder(parent if parent.is_dir() else root)}."
    )


def describe_folder(folder: Path) -> str:
    """What a folder holds, in words."""
    if not folder.exists():
        return f"there is no folder {folder}"
    if not folder.is_dir():
        return f"{folder} is no folder"
    names = sorted(entry.name for entry in folder.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{folder} holds {', '.join(names[:8])}{more}" if names else f"{folder} is empty"


def image_below(folder: Path, name: Any) -> Path:
    """An image below its folder; a name that leads out of it is refused, not cut, lest two images become one."""
    path = Path(name) if isinstance(name, str) else Path()
    if path.name in ("", ".."):
        raise ValueError(f"expected the name of an image file, got {reprlib.repr(name)}")
    if path.anchor or ".." in path.parts:
        raise ValueError(
            f"the image {reprlib.repr(name)} lies outside the folder of the images; write its path below that folder"
        )
    return folder / path


def read_json(file: Path, *, allow_nan: bool = True) -> Any:
    """What a JSON file holds; the error names the file.

    Args:
        file: Of text in UTF-8.
        allow_nan: Read NaN and Infinity, too, which Python and many tools write, and JSON does not have.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number in JSON; null says that a value is missing")

    try:
        return json.loads(file.read_text(encoding="utf-8-sig"), parse_constant=None if allow_nan else refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from None


def matlab_array(file: Path, name: str, shape: tuple[int | None, ...]) -> Floats:
    """A numeric array of this shape, None for any size; the last axis is that of people."""
    array = np.asarray(load_matlab(file, name))
    found = array.shape
    if array.ndim == len(shape) - 1:
        array = array[..., None]  # MATLAB drops a last axis of one person
    if not _fits(array.shape, shape) or array.dtype.kind not in "biuf":
        expected = ", ".join("N" if side is None else str(side) for side in shape)
        hint = ""
        for other, kind, sides in (("LSP", "lsp", (3, 14, None)), ("LSP-extended", "lspet", (14, 3, None))):
            if name == "joints" and sides != shape and _fits(array.shape, sides):
                hint = f"; this looks like {other} (kind {kind})"
        raise ValueError(
            f"{file}: expected numbers of shape ({expected}) in {name!r}, got {array.dtype} {found}{hint}."
        )
    return array.astype(np.float64)


def _fits(found: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(found) == len(shape) and all(want in (None, got) for want, got in zip(shape, found, strict=True))


@contextmanager
def error_prefix(place: str) -> Iterator[None]:
    """Put before the message of a ValueError what it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {str(error).removesuffix('.')}.") from None


def describe(value: Any) -> str:
    """A value and its type, for messages."""
    return "a dictionary" if isinstance(value, dict) else f"{reprlib.repr(value)} ({type(value).__name__})"


def field(row: Any, name: str) -> Any:
    """A field of a dictionary, which must be there."""
    if not isinstance(row, dict):
        raise ValueError(f"expected a dictionary, got {describe(row)}")
    if name not in row:
        raise ValueError(f"{name!r} is missing")
    return row[name]


def key_field(row: Any, name: str) -> int | float | str:
    """A field that must be a number or a string, such as an id."""
    value = field(row, name)
    if not isinstance(value, (int, float, str)):
        raise ValueError(f"{name!r} must be a number or a string, got {describe(value)}")
    return value


def list_field(row: Any, name: str) -> list[Any]:
    """A field that must be a list."""
    value = field(row, name)
    if not isinstance(value, list):
        raise ValueError(f"{name!r} must be a list, got {describe(value)}")
    return value


def number_field(row: Any, name: str, *shape: int) -> Floats:
    """A field that must be numbers of this shape, which may be NaN."""
    value = field(row, name)
    expected = f"{name!r} must be " + (f"numbers of shape {shape}" if shape else "a number")
    try:
        found = np.asarray(value)
    except ValueError:  # rows of different lengths
        raise ValueError(f"{expected}, got {reprlib.repr(value)}") from None
    if found.dtype.kind not in "biuf" and found.shape == shape:
        for entry in np.ravel(np.asarray(value, dtype=object)):
            if not isinstance(entry, (int, float)):
                raise ValueError(f"{expected}, got {describe(entry)} among them")
    if found.dtype.kind not in "biuf" or found.shape != shape:
        raise ValueError(f"{expected}, got {reprlib.repr(value)} of shape {found.shape}")
    return found.astype(np.float64)


def check_joints(joints: Floats, labelled: NDArray[np.bool_], skeleton: Skeleton) -> None:
    """Raise on the first labelled joint of one person that is nowhere near an image."""
    for k in np.flatnonzero(labelled & ~(np.abs(joints) <= FARTHEST).all(axis=1))[:1]:
        x, y = joints[k].tolist()
        raise ValueError(
            f"its {skeleton.keypoints[k]} is at ({x}, {y}); labelled joints must be finite, "
            f"and within {FARTHEST:.0f} pixels"
        )
