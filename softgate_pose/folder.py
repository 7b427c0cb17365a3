"""Predict over many photos: find them, go on past bad ones, resume, and write the results in one piece."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from softgate_pose.images import IMAGE_SUFFIXES, open_image
from softgate_pose.prediction import Poses

__all__ = ["OUTPUT_SUFFIXES", "Photo", "Results", "find_photos", "picture_paths", "process", "read_boxes"]

OUTPUT_SUFFIXES = (".json", ".jsonl", ".csv")

Boxes = list[list[float]]

_JPEG_LIMIT = 65500
"""The longest side of a picture that Pillow's JPEG encoder takes."""


@dataclass(frozen=True)
class Photo:
    """A file to predict on, and its name in outputs: its path below the folder that was given."""

    path: Path
    name: str


def find_photos(sources: Sequence[str | os.PathLike[str]], *, leave_out: Path | None = None) -> list[Photo]:
    """All photos that are named, or lie anywhere below a named folder, in order of their path.

    Args:
        sources: Files and folders.
        leave_out: A folder to pass over where it lies inside a source: that of the pictures.

    Raises:
        FileNotFoundError: If a source does not exist.
        ValueError: If a folder holds no file with an image's ending, or two photos have one name.
    """
    photos: list[Photo] = []
    for source in map(Path, sources):
        if not source.exists():
            raise FileNotFoundError(f"No photo or folder {source}.")
        if not source.is_dir():
            photos.append(Photo(source, source.name))
            continue
        files = sorted(f for f in source.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file())
        if leave_out is not None and leave_out.resolve() != source.resolve():
            files = [file for file in files if leave_out.resolve() not in file.resolve().parents]
        if not files:
            raise ValueError(f"{source} holds no images; looked for {', '.join(sorted(IMAGE_SUFFIXES))}.")
        photos += [Photo(file, file.relative_to(source).as_posix()) for file in files]
    by_name: dict[str, Photo] = {}
    for photo in photos:
        other = by_name.setdefault(photo.name, photo)
        if other is not photo:
            raise ValueError(
                f"{other.path} and {photo.path} would both be called {photo.name!r} in the output; "
                "give the folder above them, or run twice."
            )
    return photos


def picture_paths(photos: Sequence[Photo], folder: Path) -> dict[str, Path]:
    """Photo name to where its picture goes: the same path below ``folder``, as JPEG, unique.

    Raises:
        ValueError: If a picture would replace a photo.
    """
    paths: dict[str, Path] = {}
    taken: set[Path] = set()
    folders = {parent for photo in photos for parent in (folder / photo.name).parents}
    for photo in photos:
        path = (folder / photo.name).with_suffix(".jpg")
        if path in taken or path in folders:  # a.png beside a.jpg
            path = folder / f"{photo.name}.jpg"
        taken.add(path)
        paths[photo.name] = path
    originals = {photo.path.resolve() for photo in photos}
    for path in taken:
        if path.resolve() in originals:
            raise ValueError(f"The picture {path} would replace a photo; choose another folder for the pictures.")
    return paths


def read_boxes(file: Path) -> dict[str, Boxes]:
    """Boxes of people from a file: photo name to (x0, y0, x1, y1), in pixels of the upright photo.

    JSON: ``{"photo.jpg": [[x0, y0, x1, y1], ...]}``. CSV: a header line with the columns image, x0,
    y0, x1 and y1, and a line for each person.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is neither, or a box is not four numbers.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"No boxes file {file}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The boxes file {file} cannot be read: {error}") from None
    try:
        if file.suffix.lower() == ".csv":
            boxes: dict[str, Boxes] = {}
            for row in csv.DictReader(io.StringIO(text)):
                boxes.setdefault(row["image"], []).append([float(row[key]) for key in ("x0", "y0", "x1", "y1")])
        else:
            data = json.loads(text)
            boxes = {str(name): [[float(v) for v in box] for box in rows] for name, rows in data.items()}
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


class Results:
    """An output file that is whole or not there, and a ``.part`` file beside it until then.

    A context manager; ``finish`` makes the output whole, leaving without it keeps the part file.
    The part file has one line of JSON for each photo done, behind a first line that says with which
    settings; a run with the same settings goes on from it.

    Args:
        file: The output; its suffix chooses the format.
        settings: What the results depend on.
        overwrite: Replace an output that exists.

    Raises:
        FileExistsError: If the output exists and ``overwrite`` is false.
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
        self.done: dict[str, dict[str, Any]] = self._resume()
        self._stream: TextIO = self.part.open("a", encoding="utf-8")
        if self.part.stat().st_size == 0:
            self._write({"settings": self.settings})

    def add(self, name: str, poses: Poses) -> None:
        """Keep a photo's poses; they are on disk when this returns."""
        self.done[name] = {"image": name, **poses.to_dict()}
        self._write(self.done[name])

    def finish(self, names: Sequence[str]) -> None:
        """Write the output, in the order of ``names``, at once, and drop the part file."""
        rows = [self.done[name] for name in names if name in self.done]
        scratch = self.file.with_name(self.file.name + ".writing")
        with scratch.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            _WRITERS[self.file.suffix.lower()](rows, stream)
        os.replace(scratch, self.file)
        self._stream.close()
        self.part.unlink()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def _write(self, row: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(row) + "\n")
        self._stream.flush()

    def _resume(self) -> dict[str, dict[str, Any]]:
        if not self.part.exists():
            return {}
        whole = self.part.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]  # a line cut short by the interruption is done again
        rows = []
        for line in whole.splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                rows.append(None)
        needed = [{"settings"}] + [{"image", "people"}] * len(rows)
        if not all(isinstance(row, dict) and keys <= set(row) for row, keys in zip(rows, needed, strict=False)):
            raise ValueError(f"{self.part} is damaged; delete it to start again.")
        if rows and rows[0] != json.loads(json.dumps({"settings": self.settings})):
            raise ValueError(
                f"{self.part} is of an interrupted run with other settings ({json.dumps(rows[0])}). "
                "Repeat that command to finish it, or delete the file to start again."
            )
        self.part.write_bytes(whole)
        return {row["image"]: row for row in rows[1:]}


def process(
    photos: Sequence[Photo],
    predict: Callable[[Any, Boxes | None], Poses],
    *,
    boxes: Mapping[str, Boxes] | None = None,
    results: Results | None = None,
    pictures: Mapping[str, Path] | None = None,
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
        The photo, its poses or None, and what went wrong or None.

    Raises:
        OSError: If results or pictures cannot be written.
    """
    base_names = Counter(photo.path.name for photo in photos)
    for photo in photos:
        path = None if pictures is None else pictures[photo.name]
        if results is not None and photo.name in results.done and (path is None or path.exists()):
            continue
        try:
            image = open_image(photo.path)
            if path is not None and max(image.size) > _JPEG_LIMIT:
                raise ValueError(f"{photo.path}: its picture would be larger than JPEG's {_JPEG_LIMIT} pixels.")
            poses = predict(image, _boxes_of(photo, boxes, by_base_name=base_names[photo.path.name] == 1))
            picture = None if path is None else poses.draw(image)
        except (OSError, ValueError) as error:
            yield photo, None, str(error)
            continue
        if path is not None and picture is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_name(path.name + ".part")
            picture.save(scratch, format="JPEG", quality=92)
            os.replace(scratch, path)
        if results is not None:
            results.add(photo.name, poses)
        yield photo, poses, None


def _boxes_of(photo: Photo, boxes: Mapping[str, Boxes] | None, *, by_base_name: bool) -> Boxes | None:
    if boxes is None:
        return None
    for key in (photo.name, str(photo.path), *([photo.path.name] if by_base_name else [])):
        if key in boxes:
            return boxes[key]
    raise ValueError(f"{photo.path}: the boxes file has no entry {photo.name!r}; in JSON, [] says nobody is in it.")


def _write_json(rows: Sequence[Mapping[str, Any]], stream: TextIO) -> None:
    json.dump(rows, stream, indent=1)
    stream.write("\n")


def _write_jsonl(rows: Sequence[Mapping[str, Any]], stream: TextIO) -> None:
    stream.writelines(json.dumps(row) + "\n" for row in rows)


def _write_csv(rows: Sequence[Mapping[str, Any]], stream: TextIO) -> None:
    table = csv.writer(stream)
    table.writerow(("image", "person", "keypoint", "x", "y", "score"))
    for row in rows:
        for index, person in enumerate(row["people"]):
            for name, point, score in zip(row["keypoint_names"], person["keypoints"], person["scores"], strict=True):
                table.writerow((row["image"], index, name, *point, score))


_WRITERS = {".json": _write_json, ".jsonl": _write_jsonl, ".csv": _write_csv}
