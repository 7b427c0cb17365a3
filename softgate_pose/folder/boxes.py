"""Where the boxes of a photo's people come from: a file, in JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import Field, InstanceOf

from softgate_pose._files import checked, short
from softgate_pose.folder.photos import Photo

__all__ = ["Boxes", "box_lookup", "read_boxes"]

Boxes = list[Annotated[list[float], Field(min_length=4, max_length=4)]]
"""Boxes of one photo's people, each (x0, y0, x1, y1) in pixels of the upright photo."""

_COLUMNS = ("image", "x0", "y0", "x1", "y1")


def box_lookup(boxes: Mapping[str, Boxes] | None, photos: Sequence[Photo]) -> Callable[[Photo], Boxes | None]:
    """A function from a photo to its boxes, or to None for the whole photo.

    A photo is looked up by its path as given, by its path below the folder, and by its file name, if no other photo has
    the same.
    """
    if boxes is None:
        return lambda photo: None
    counts = Counter(photo.name.rpartition("/")[2] for photo in photos)

    def look_up(photo: Photo) -> Boxes:
        file_name = photo.name.rpartition("/")[2]
        for key in (photo.path.as_posix(), photo.name, file_name):
            if key in boxes and (key != file_name or key == photo.name or counts[file_name] == 1):
                return boxes[key]
        raise ValueError(f"{photo.path}: the boxes file has no entry {photo.name!r}; in JSON, [] says nobody is in it.")

    return look_up


def read_boxes(file: Path) -> dict[str, Boxes]:
    """Photo name to boxes, from JSON ``{"photo.jpg": [[x0, y0, x1, y1], ...]}`` or CSV ``image,x0,y0,x1,y1``."""
    if not file.exists():
        raise FileNotFoundError(f"No boxes file {file}.")
    try:
        text = file.read_text(encoding="utf-8-sig")
        return _boxes_in_csv(text) if file.suffix.lower() == ".csv" else _boxes_in_json(text)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise ValueError(
            f"{file} is not a boxes file: {str(error).removesuffix('.')}. Expected JSON "
            '{"photo.jpg": [[x0, y0, x1, y1], ...]} or CSV with the columns image,x0,y0,x1,y1.'
        ) from None


def _boxes_in_csv(text: str) -> dict[str, Boxes]:
    table = csv.DictReader(io.StringIO(text))
    missing = [name for name in _COLUMNS if name not in (table.fieldnames or ())]
    if missing:
        raise ValueError(f"the first line does not name {', '.join(missing)}")
    boxes: dict[str, Boxes] = {}
    for row in table:
        name, *numbers = (row[column] for column in _COLUMNS)
        try:
            boxes.setdefault(_spelling(name), []).append([float(number) for number in numbers])
        except (TypeError, ValueError):  # None where a line is short
            raise ValueError(
                f"line {table.line_num} must have a name and four numbers, got {short([name, *numbers])}"
            ) from None
    return boxes


def _boxes_in_json(text: str) -> dict[str, Boxes]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, value in pairs:
            if _spelling(name) in values:
                raise ValueError(f"{name!r} is named twice; give one list with all people of a photo")
            values[_spelling(name)] = value
        return values

    # a name need not be text, which pydantic's own strings must
    boxes: dict[str, Boxes] = checked(dict[InstanceOf[str], Boxes], json.loads(text, object_pairs_hook=unique), "it")
    return boxes


def _spelling(name: str) -> str:
    """A photo's path in one spelling: ./a.jpg is a.jpg."""
    return PurePosixPath(name).as_posix()
