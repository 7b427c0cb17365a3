"""Layouts of annotation files, as types that ``checked`` takes, and what else readers share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from typing_extensions import NotRequired, TypedDict  # pydantic reads typing's own from Python 3.12 on

from softgate_pose._files import short
from softgate_pose.pose.skeleton import Skeleton

__all__ = [
    "FARTHEST",
    "CocoFile",
    "CocoRow",
    "Floats",
    "Key",
    "MpiiRow",
    "describe_folder",
    "find_file",
    "image_name",
    "require_each",
    "require_near",
]

FARTHEST = 1e6
"""The largest coordinate, in pixels. No image is that large, and differences below it are exact enough."""

Floats = NDArray[np.float64]
Key = int | float | str


def image_name(name: Any) -> str:
    """The path of an image below the folder of the images; one that leads out of it is refused."""
    path = Path(name) if isinstance(name, str) else Path()
    if path.name in ("", "..") or path.anchor or ".." in path.parts:
        raise ValueError("must be the path of an image below the folder of the images")
    return str(name)


def _box(numbers: list[float]) -> list[float]:
    if numbers and (len(numbers) != 4 or not all(abs(number) <= FARTHEST for number in numbers)):
        raise ValueError(f"must be four numbers, finite and within {FARTHEST:.0f} pixels")
    return numbers


_Box = Annotated[list[float], AfterValidator(_box)]  # empty where there is none
_Pair = Annotated[list[float], Field(min_length=2, max_length=2)]


class _CocoImage(TypedDict):
    id: Key
    file_name: str


class _CocoCategory(TypedDict):
    id: Key
    name: NotRequired[str]
    keypoints: NotRequired[list[str] | None]
    skeleton: NotRequired[list[Annotated[list[int], Field(min_length=2, max_length=2)]] | None]


class CocoRow(TypedDict):
    """An annotation of a COCO file; null counts as missing."""

    category_id: Key
    image_id: NotRequired[Key | None]
    keypoints: NotRequired[list[float] | None]
    bbox: NotRequired[_Box | None]
    area: NotRequired[Annotated[float, Field(allow_inf_nan=False)] | None]
    iscrowd: NotRequired[bool | float | None]


class CocoFile(TypedDict):
    """A file in COCO's keypoints layout."""

    categories: list[_CocoCategory]
    images: list[_CocoImage]
    annotations: list[CocoRow]


class MpiiRow(TypedDict):
    """A person in MPII's JSON layout, in 1-based pixels; one without centre and scale has -1 there."""

    image: Annotated[str, AfterValidator(image_name)]
    center: _Pair
    scale: float
    joints: Annotated[list[_Pair], Field(min_length=16, max_length=16)]
    joints_vis: Annotated[list[bool | float], Field(min_length=16, max_length=16)]
    head_box: NotRequired[_Box | None]


def require_each(right: NDArray[np.bool_], place: Callable[[int], str], expected: str, values: Floats) -> None:
    """Raise ValueError for the first of N values that is not ``right``, naming its place and what was expected."""
    for n in np.flatnonzero(~right)[:1].tolist():
        raise ValueError(f"{place(n)} {expected}, got {short(values[n].tolist())}.")


def require_near(joints: Floats, labelled: NDArray[np.bool_], skeleton: Skeleton, place: Callable[[int], str]) -> None:
    """Raise ValueError for the first labelled joint of N people, (N, K, 2), that is nowhere near an image."""
    for n, k in np.argwhere(labelled & ~(np.abs(joints) <= FARTHEST).all(axis=2))[:1].tolist():
        raise ValueError(
            f"{place(n)}: {skeleton.keypoints[k]}, which is labelled, must be finite and within {FARTHEST:.0f} pixels, "
            f"got {joints[n, k].tolist()}."
        )


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
    if not folder.is_dir():
        return f"{folder} is no folder" if folder.exists() else f"there is no folder {folder}"
    names = sorted(entry.name for entry in folder.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{folder} holds {', '.join(names[:8])}{more}" if names else f"{folder} is empty"
