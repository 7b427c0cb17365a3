"""Predict over many photos: find them, go on past bad ones, resume, and write the results in one piece."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import reprlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from PIL.Image import Image

from softgate_pose.images import IMAGE_SUFFIXES, open_image
from softgate_pose.prediction import Poses
from softgate_pose.writing import lock, written_whole

__all__ = ["OUTPUT_SUFFIXES", "Photo", "Results", "find_photos", "picture_paths", "process", "read_boxes"]

OUTPUT_SUFFIXES = (".json", ".jsonl", ".csv")

Boxes = list[list[float]]

_JPEG_LIMIT = 65500
"""The longest side of a picture that Pillow's JPEG encoder takes."""

_SYNC_SECONDS = 1.0
"""How much work a power cut may cost; to wait for the disk after every photo would cost more."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A file to predict on, and its name in outputs: its path below the folder that was given."""

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        return self.folder / self.name


def find_photos(sources: Sequence[str | os.PathLike[str]], *, leave_out: Path | None = None) -> list[Photo]:
    """All photos that are named, or lie anywhere below a named folder, in order of their path.

    A link to a file counts as a file, even one that leads nowhere; a link to a folder is not followed.

    Args:
        sources: Files and folders.
        leave_out: A folder to pass over where it lies inside a source: that of the pictures.

    Raises:
        FileNotFoundError: If a source does not exist.
        OSError: If a folder cannot be listed.
        ValueError: If a folder holds no file with an image's ending, or two photos have one name.
    """
    photos: list[Photo] = []
    for source in map(Path, sources):
        if not os.path.exists(source):  # noqa: PTH110 (a path's own method raises on names too long for a file)
            raise FileNotFoundError(f"No photo or folder {source}.")
        if not source.is_dir():
            photos.append(Photo(source.parent, source.name))
            continue
        found = [Photo(source, name) for name in _names_below(source, leave_out)]
        if not found:
            raise ValueError(f"{source} holds no images; looked for {', '.join(sorted(IMAGE_SUFFIXES))}.")
        photos += found
    by_name: dict[str, Photo] = {}
    for photo in photos:
        other = by_name.setdefault(photo.name, photo)
        if other is not photo:
            raise ValueError(
                f"{other.path} and {photo.path} would both be called {photo.name!r} in the output; "
                "give the folder above them, or run twice."
            )
    return photos


def _names_below(source: Path, leave_out: Path | None) -> Iterator[str]:
    """The paths below a folder that have an image's ending, in order, but for those in ``leave_out``."""
    passed_over = None if leave_out is None or leave_out.resolve() == source.resolve() else leave_out.resolve()
    if passed_over in source.resolve().parents:
        return
    waiting = [""]
    while waiting:
        name = waiting.pop()
        if name and not name.endswith("/"):
            yield name
            continue
        if passed_over is not None and (source / name).resolve() == passed_over:
            continue
        with os.scandir(source / name) as entries:
            inside = sorted(entries, key=lambda entry: entry.name, reverse=True)
        for entry in inside:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(f"{name}{entry.name}/")
            elif _is_called_a_photo(entry.name) and _is_file_or_dead_link(entry):
                waiting.append(f"{name}{entry.name}")


def _is_called_a_photo(name: str) -> bool:
    """Whether a file's name has an image's ending, and is not what macOS keeps beside a photo."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("._")


def _is_file_or_dead_link(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))  # noqa: PTH110


def picture_paths(photos: Sequence[Photo], folder: Path) -> dict[str, str]:
    """Photo name to where its picture goes: the same path below ``folder``, as JPEG, unique.

    Raises:
        ValueError: If a picture would replace a photo.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    folders = {parent for photo in photos for parent in _folders_in(photo.name)}
    for photo in photos:
        name = PurePosixPath(photo.name).with_suffix(".jpg").as_posix()
        if name in taken or name in folders:  # a.png beside a.jpg
            name = f"{photo.name}.jpg"
        while name in taken or name in folders:  # a.png.bmp, too
            name += ".jpg"
        taken.add(name)
        names[photo.name] = name
    paths = {photo: str(folder / name) for photo, name in names.items()}
    within = {_real_folder(os.path.dirname(path)) for path in paths.values()}  # noqa: PTH120 (a million, as strings)
    originals = {real for photo in photos if os.path.dirname(real := _real(str(photo.path))) in within}  # noqa: PTH120
    for path in paths.values() if originals else ():
        if _real(path) in originals:
            raise ValueError(f"The picture {path} would replace a photo; choose another folder for the pictures.")
    return paths


def _folders_in(name: str) -> Iterator[str]:
    while name := name.rpartition("/")[0]:
        yield name


def _real(path: str) -> str:
    """What ``os.path.realpath`` says, for very many files in few folders."""
    folder, name = os.path.split(path)
    real = os.path.join(_real_folder(folder), name)  # noqa: PTH118
    return os.path.realpath(real) if os.path.islink(real) else real  # noqa: PTH114


@cache
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def read_boxes(file: Path) -> dict[str, Boxes]:
    """Boxes of people from a file: photo name to (x0, y0, x1, y1), in pixels of the upright photo.

    JSON: ``{"photo.jpg": [[x0, y0, x1, y1], ...]}``. CSV: a header line with the columns image, x0,
    y0, x1 and y1, and a line for each person.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is neither, names a photo twice in JSON, or a box is not four numbers.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"No boxes file {file}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The boxes file {file} cannot be read: {error}") from None
    try:
        boxes = _boxes_in_csv(text) if file.suffix.lower() == ".csv" else _boxes_in_json(text)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, RecursionError, csv.Error) as error:
        raise ValueError(
            f"{file} is not a boxes file ({type(error).__name__}: {error}). Expected JSON "
            '{"photo.jpg": [[x0, y0, x1, y1], ...]} or CSV with the columns image,x0,y0,x1,y1.'
        ) from None
    for name, rows in boxes.items():
        for box in rows:
            if len(box) != 4:
                raise ValueError(f"{file}: a box of {name!r} has {len(box)} numbers, expected x0, y0, x1, y1.")
    return boxes


def _boxes_in_csv(text: str) -> dict[str, Boxes]:
    table = csv.DictReader(io.StringIO(text))
    lacking = {"image", "x0", "y0", "x1", "y1"} - set(table.fieldnames or ())
    if lacking:
        raise ValueError(f"the first line does not name {', '.join(sorted(lacking))}")
    boxes: dict[str, Boxes] = {}
    for row in table:
        boxes.setdefault(_as_given(row["image"]), []).append([float(row[key]) for key in ("x0", "y0", "x1", "y1")])
    return boxes


def _boxes_in_json(text: str) -> dict[str, Boxes]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if _as_given(name) in found:
                raise ValueError(f"{name!r} is named twice; give one list with all people of a photo")
            found[_as_given(name)] = value
        return found

    boxes = json.loads(text, object_pairs_hook=unique)
    for name, rows in boxes.items():
        if not isinstance(rows, list) or not all(isinstance(box, list) for box in rows):
            raise ValueError(f"{name!r} has {reprlib.repr(rows)}, not a list of boxes")
        if any(isinstance(value, bool | str) for box in rows for value in box):
            raise ValueError(f"a box of {name!r} holds what is not a number: {reprlib.repr(rows)}")
    return {name: [[float(value) for value in box] for box in rows] for name, rows in boxes.items()}


def _as_given(name: str) -> str:
    """A photo's path in one spelling: ./a.jpg is a.jpg."""
    return PurePosixPath(name).as_posix()


class Results:
    """An output file that is whole or not there, and a ``.part`` file beside it until then.

    A context manager; ``finish`` makes the output whole, leaving without it keeps the part file.
    The part file has one line of JSON for each photo done, preceded by a line that says with which
    settings; a run with the same settings goes on from it. Poses stay in the file: of each photo
    memory holds its name and where its line begins.

    Args:
        file: The output; its suffix chooses the format.
        settings: What the results depend on.
        overwrite: Replace an output that exists.

    Attributes:
        done: Names of the photos that are kept, to the byte at which their line begins.

    Raises:
        BlockingIOError: If another process is writing the part file.
        FileExistsError: If the output exists and ``overwrite`` is false.
        IsADirectoryError: If the output is a folder.
        ValueError: If the suffix is unknown, or the part file is of a run with other settings.
        OSError: If the folder cannot be written.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        if file.suffix.lower() not in OUTPUT_SUFFIXES:
            raise ValueError(f"{file}: the output must end in {', '.join(OUTPUT_SUFFIXES)}.")
        if file.is_dir():
            raise IsADirectoryError(f"{file} is a folder; the output is a file in it, such as {file / 'poses.json'}.")
        if file.exists() and not overwrite:
            raise FileExistsError(f"{file} exists; choose another name or replace it with --overwrite.")
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file, self.part = file, file.with_name(file.name + ".part")
        self.settings = dict(settings)
        self.done: dict[str, int] = {}
        self._stream = self.part.open("ab")
        try:
            lock(
                self._stream,
                f"{self.part} is being written by another process; wait for it to end, or choose another output.",
            )
            self._resume()
        except BaseException:
            self._stream.close()
            raise
        self._synced = time.monotonic()

    def add(self, name: str, poses: Poses) -> None:
        """Keep a photo's poses.

        When this returns they outlive the process, however it is ended; a power cut costs about the last
        second's, which the next run does again.
        """
        start = self._end
        self._write(json.dumps({"image": name, **poses.to_dict()}, allow_nan=False).encode() + b"\n")
        self.done[name] = start
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._stream.fileno())
            self._synced = time.monotonic()

    def finish(self, names: Sequence[str]) -> None:
        """Write the output, in the order of ``names``, at once, and drop the part file."""
        with (
            written_whole(self.file) as scratch,
            self.part.open("rb") as part,
            scratch.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
        ):
            rows = (_read_row(part, self.done[name]) for name in names if name in self.done)
            _WRITERS[self.file.suffix.lower()](rows, stream)
            stream.flush()
            os.fsync(stream.fileno())
        self._stream.close()
        self.part.unlink()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def _write(self, line: bytes) -> None:
        self._stream.write(line)
        self._stream.flush()
        self._end += len(line)

    def _resume(self) -> None:
        """Find what the part file holds, and make it end after its last whole line.

        A line that the interruption cut short, or that a power cut left damaged, is as if it were not
        there: its photo is done again.
        """
        self._end = 0
        with self.part.open("rb") as part:
            for line in part:
                if not line.endswith(b"\n"):
                    if self._end == 0 and not self._first_line().startswith(line.rstrip(b"\0")):
                        raise self._damaged()  # it may be somebody's file
                    break
                row = _parse(line)
                if self._end == 0:
                    self._check_settings(row)
                elif _is_row(row):
                    self.done[row["image"]] = self._end
                self._end += len(line)
        self._stream.truncate(self._end)
        if self._end == 0:
            self._write(self._first_line())

    def _first_line(self) -> bytes:
        return json.dumps({"settings": self.settings}).encode() + b"\n"

    def _damaged(self) -> ValueError:
        return ValueError(f"{self.part} is damaged; delete it to start again.")

    def _check_settings(self, row: Any) -> None:
        if not isinstance(row, dict) or "settings" not in row:
            raise self._damaged()
        if row != json.loads(json.dumps({"settings": self.settings})):
            raise ValueError(
                f"{self.part} is of an interrupted run with other settings ({json.dumps(row)}). "
                "Repeat that command to finish it, or delete the file to start again."
            )


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _read_row(part: io.BufferedReader, start: int) -> dict[str, Any]:
    part.seek(start)
    row: dict[str, Any] = json.loads(part.readline())
    return row


def _is_row(row: Any) -> bool:
    """Whether a line of a part file is what ``Results.add`` writes."""
    if not isinstance(row, dict) or set(row) != {"image", "keypoint_names", "people"}:
        return False
    names, people = row["keypoint_names"], row["people"]
    return (
        isinstance(row["image"], str)
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and isinstance(people, list)
        and all(
            isinstance(person, dict)
            and set(person) == {"box", "keypoints", "scores"}
            and _are_numbers(person["box"], 4)
            and _are_numbers(person["scores"], len(names))
            and isinstance(person["keypoints"], list)
            and len(person["keypoints"]) == len(names)
            and all(_are_numbers(point, 2) for point in person["keypoints"])
            for person in people
        )
    )


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(value) is float and math.isfinite(value) for value in values)
    )


def process(
    photos: Sequence[Photo],
    predict: Callable[[Any, Boxes | None], Poses],
    *,
    boxes: Mapping[str, Boxes] | None = None,
    results: Results | None = None,
    pictures: Mapping[str, str] | None = None,
) -> Iterator[tuple[Photo, Poses | None, str | None]]:
    """Predict photo by photo, keeping the results; a photo that fails is told and passed over.

    Args:
        photos: From ``find_photos``.
        predict: Given the opened image and its boxes, or None for the whole image.
        boxes: From ``read_boxes``; then a photo without an entry is an error of that photo.
        results: Where poses are kept; photos that it has already are not yielded.
        pictures: Where the photos with skeletons go, from ``picture_paths``; one that is missing is
            drawn, even if its poses are kept already.

    Yields:
        The photo, its poses or None, and what went wrong, which names the photo's path, or None.

    Raises:
        OSError: If results or pictures cannot be written.
    """
    base_names = Counter(_base_name(photo) for photo in photos) if boxes is not None else {}
    for photo in photos:
        path = None if pictures is None else Path(pictures[photo.name])
        if results is not None and photo.name in results.done and (path is None or path.exists()):
            continue
        poses, picture, problem = _attempt(
            photo, predict, boxes, by_base_name=base_names.get(_base_name(photo)) == 1, draws=path is not None
        )
        if path is not None and picture is not None:
            problem = _save_picture(picture, path, photo)
        if poses is None or problem is not None:
            yield photo, None, problem
            continue
        if results is not None:
            results.add(photo.name, poses)
        yield photo, poses, None


def _attempt(
    photo: Photo,
    predict: Callable[[Any, Boxes | None], Poses],
    boxes: Mapping[str, Boxes] | None,
    *,
    by_base_name: bool,
    draws: bool,
) -> tuple[Poses | None, Image | None, str | None]:
    """A photo's poses, and the photo with their skeletons if ``draws``; or what went wrong with this photo."""
    try:
        image = open_image(photo.path)
        if draws and max(image.size) > _JPEG_LIMIT:
            raise ValueError(f"{photo.path}: its picture would be larger than JPEG's {_JPEG_LIMIT} pixels.")
        poses = predict(image, _boxes_of(photo, boxes, by_base_name=by_base_name))
        if not bool(poses.keypoints.isfinite().all() and poses.scores.isfinite().all()):
            raise ValueError(f"{photo.path}: the model's keypoints or scores are not finite numbers.")
        return poses, poses.draw(image) if draws else None, None
    except (OSError, ValueError) as error:
        problem = str(error)
        return None, None, problem if str(photo.path) in problem else f"{photo.path}: {problem}"
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error):  # as PyTorch says it
            raise
        return None, None, f"{photo.path} does not fit into memory: {error}"


def _save_picture(picture: Image, path: Path, photo: Photo) -> str | None:
    """Write a picture; what went wrong, if that concerns this photo alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with written_whole(path) as scratch:
            picture.save(scratch, format="JPEG", quality=92)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # which no other photo need meet
            raise
        return f"{photo.path}: its picture {path} cannot be written: {error.strerror}."
    return None


def _base_name(photo: Photo) -> str:
    return photo.name.rpartition("/")[2]


def _boxes_of(photo: Photo, boxes: Mapping[str, Boxes] | None, *, by_base_name: bool) -> Boxes | None:
    if boxes is None:
        return None
    for key in (photo.path.as_posix(), photo.name, *([_base_name(photo)] if by_base_name else [])):
        if key in boxes:
            return boxes[key]
    raise ValueError(f"{photo.path}: the boxes file has no entry {photo.name!r}; in JSON, [] says nobody is in it.")


def _write_json(rows: Iterable[Mapping[str, Any]], stream: TextIO) -> None:
    before = "["
    for row in rows:
        stream.write(before + json.dumps([row], indent=1)[1:-2])  # a list's text without its brackets
        before = ","
    stream.write("[]\n" if before == "[" else "\n]\n")


def _write_jsonl(rows: Iterable[Mapping[str, Any]], stream: TextIO) -> None:
    stream.writelines(json.dumps(row) + "\n" for row in rows)


def _write_csv(rows: Iterable[Mapping[str, Any]], stream: TextIO) -> None:
    table = csv.writer(stream)
    table.writerow(("image", "person", "keypoint", "x", "y", "score"))
    for row in rows:
        for index, person in enumerate(row["people"]):
            for name, point, score in zip(row["keypoint_names"], person["keypoints"], person["scores"], strict=True):
                table.writerow((row["image"], index, name, *point, score))


_WRITERS = {".json": _write_json, ".jsonl": _write_jsonl, ".csv": _write_csv}
