"""Files of people's boxes, in JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
import reprlib
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = ["Boxes", "read_boxes"]

Boxes = list[list[float]]
"""Boxes of one photo's people, each (x0, y0, x1, y1) in pixels of the upright photo."""


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
        values = [row[key] for key in ("x0", "y0", "x1", "y1")]
        if row["image"] is None or None in values:
            raise ValueError(f"line {table.line_num} has fewer values than the first line has names")
        boxes.setdefault(_as_given(row["image"]), []).append([float(value) for value in values])
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
