"""The output of a run over many photos: written in one piece, and resumable until then."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from softgate_pose._files import lock, written_whole
from softgate_pose.prediction.poses import Poses

__all__ = ["OUTPUT_SUFFIXES", "Results", "Stamp", "file_stamp"]

OUTPUT_SUFFIXES = (".json", ".jsonl", ".csv")

Stamp = tuple[int, int]
"""Size in bytes and time of change in nanoseconds, by which a file that was replaced is told from the one before."""

_SYNC_SECONDS = 1.0
"""How much work a power cut may cost; to wait for the disk after every photo would cost more."""


def file_stamp(file: Path) -> Stamp:
    """A file's stamp; (-1, -1) where there is none."""
    try:
        found = os.stat(file)  # noqa: PTH116 (a path's own method raises on names that no file can have)
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns


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
        done: Names of the photos that are kept, to the byte at which their line begins and the file's stamp.

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
        self.done: dict[str, tuple[int, Stamp]] = {}
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

    def holds(self, name: str, file: Path) -> bool:
        """Whether a photo's poses are kept, and it is still the file that they are of."""
        return name in self.done and self.done[name][1] == file_stamp(file)

    def add(self, name: str, poses: Poses, stamp: Stamp) -> None:
        """Keep a photo's poses.

        When this returns they outlive the process, however it is ended; a power cut costs about the last
        second's, which the next run does again.
        """
        start = self._end
        row = {"image": name, "file": stamp, **poses.to_dict()}
        self._write(json.dumps(row, allow_nan=False).encode() + b"\n")
        self.done[name] = start, stamp
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._stream.fileno())
            self._synced = time.monotonic()

    def finish(self, names: Sequence[str]) -> None:
        """Write the output at once, in the order of ``names`` and then of what else is kept, and drop the part file."""
        ordered = dict.fromkeys((*names, *self.done))
        with (
            written_whole(self.file) as scratch,
            self.part.open("rb") as part,
            scratch.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
        ):
            rows = (_read_row(part, self.done[name][0]) for name in ordered if name in self.done)
            _WRITERS[self.file.suffix.lower()](rows, stream)
            stream.flush()
            if scratch.is_file():  # a pipe cannot
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
                    self.done[row["image"]] = self._end, tuple(row["file"])
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
    del row["file"]
    return row


def _is_row(row: Any) -> bool:
    """Whether a line of a part file is what ``Results.add`` writes."""
    if not isinstance(row, dict) or set(row) != {"image", "file", "keypoint_names", "people"}:
        return False
    names, people = row["keypoint_names"], row["people"]
    return (
        isinstance(row["image"], str)
        and isinstance(row["file"], list)
        and [type(value) for value in row["file"]] == [int, int]
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
