"""Photos to predict on, found in folders, and where their pictures go."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from softgate_pose.data.images import IMAGE_SUFFIXES

__all__ = ["PICTURE_MARK", "Photo", "find_photos", "picture_paths"]

PICTURE_MARK = b"Drawn by softgate_pose"
"""The JPEG comment of every picture. A file without it was not drawn here, and is never replaced."""

_MARK_WITHIN = 512  # bytes from a JPEG's beginning


@dataclass(frozen=True, slots=True)
class Photo:
    """A file to predict on, and its name in outputs: its path below the folder that was given."""

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        return self.folder / self.name


def find_photos(sources: Iterable[str | os.PathLike[str]], *, leave_out: Path | None = None) -> list[Photo]:
    """All photos that are named, or lie anywhere below a named folder, in order of their path.

    A link to a file counts as a file, even one that leads nowhere; a link to a folder is not followed. ``leave_out``
    is a folder to skip where it lies inside a source: that of the pictures.
    """
    photos: list[Photo] = []
    for source in map(Path, sources):
        if not os.path.exists(source):  # noqa: PTH110 (a path's own method raises on names too long for a file)
            raise FileNotFoundError(f"No photo or folder {source}.")
        if not source.is_dir():
            photos.append(Photo(source.parent, source.name))
            continue
        inside = [Photo(source, name) for name in _names_below(source, leave_out and leave_out.resolve())]
        if not inside:
            raise ValueError(f"{source} holds no images; looked for {', '.join(sorted(IMAGE_SUFFIXES))}.")
        photos += inside
    by_name: dict[str, Photo] = {}
    for photo in photos:
        other = by_name.setdefault(photo.name, photo)
        if other.path != photo.path:
            raise ValueError(
                f"{other.path} and {photo.path} would both be called {photo.name!r} in the output; "
                "give the folder above them, or run twice."
            )
    return list(by_name.values())


def _names_below(source: Path, leave_out: Path | None) -> Iterator[str]:
    """The paths below a folder that have an image's ending, in order, except those below ``leave_out``."""
    waiting = [""]
    while waiting:
        name = waiting.pop()
        if name and not name.endswith("/"):
            yield name
            continue
        if name and leave_out is not None and (source / name).resolve() == leave_out:
            continue
        with os.scandir(source / name) as entries:
            inside = sorted(entries, key=lambda entry: entry.name, reverse=True)
        for entry in inside:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(f"{name}{entry.name}/")
            elif _is_photo(entry):
                waiting.append(f"{name}{entry.name}")


def _is_photo(entry: os.DirEntry[str]) -> bool:
    """Whether an entry has an image's name, and is a file, or a link that leads nowhere."""
    if PurePosixPath(entry.name).suffix.lower() not in IMAGE_SUFFIXES or entry.name.startswith("._"):  # macOS's own
        return False
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))  # noqa: PTH110
    except OSError:  # a link that leads to itself
        return True


def picture_paths(photos: Sequence[Photo], folder: Path) -> dict[str, str]:
    """Photo name to where its picture goes: the same path below ``folder``, unique, as JPEG; replaces only pictures."""
    paths: dict[str, str] = {}
    taken = {parent for photo in photos for parent in _folders_in(photo.name)}
    for photo in photos:
        name = PurePosixPath(photo.name).with_suffix(".jpg").as_posix()
        if name in taken:  # a.png beside a.jpg
            name = f"{photo.name}.jpg"
        while name in taken:  # a.png.bmp, too
            name += ".jpg"
        taken.add(name)
        path = paths[photo.name] = str(folder / name)
        if os.path.lexists(path) and not _has_mark(path):
            raise ValueError(
                f"The picture {path} would replace a photo, or another file that was not drawn here; choose another "
                "folder for the pictures."
            )
    return paths


def _folders_in(name: str) -> Iterator[str]:
    while name := name.rpartition("/")[0]:
        yield name


def _has_mark(path: str) -> bool:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 (a million, as strings)
            return PICTURE_MARK in file.read(_MARK_WITHIN)
    except OSError:
        return False
