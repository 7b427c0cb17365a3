"""The output of a run over many photos: written in one piece, and resumable until then."""

from __future__ import annotations

import csv
import io
import json
import os
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

from pydantic import BaseModel, Field, FiniteFloat, InstanceOf, model_validator

from softgate_pose._files import checked, locked, short, written_whole
from softgate_pose.prediction.poses import Poses

__all__ = ["OUTPUT_SUFFIXES", "Results", "Stamp", "file_stamp"]

OUTPUT_SUFFIXES = (".json", ".jsonl", ".csv")

Stamp = tuple[int, int]
"""Size in bytes and time of change in nanoseconds: another stamp means another file under the same name."""

_SYNC_SECONDS = 1.0
"""How much work a power cut may cost; waiting for the disk after every photo would cost more."""


def file_stamp(file: Path) -> Stamp:
    """A file's stamp; (-1, -1) where there is none."""
    try:
        status = os.stat(file)  # noqa: PTH116 (a path's own method raises on names that no file can have)
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns


class Results:
    """An output file that is whole or not there, and a ``.part`` file beside it until then.

    A context manager; ``finish`` makes the output whole, leaving without it keeps the part file. The part file has a
    line of JSON with the settings, and then one for each photo that is done; a run with the same settings resumes
    from it. Poses stay in the file: of each photo memory holds its name and where its line begins.

    ``done`` has the name of each photo that is done, the byte at which its line begins and the photo's stamp.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        if file.suffix.lower() not in OUTPUT_SUFFIXES:
            raise ValueError(f"{file}: the output must end in {', '.join(OUTPUT_SUFFIXES)}.")
        if file.exists() and not overwrite:
            raise FileExistsError(f"{file} exists; choose another name or replace it with --overwrite.")
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file, self.part = file, file.with_name(file.name + ".part")
        self.settings = json.loads(json.dumps(settings))  # as they are read back
        self.done: dict[str, tuple[int, Stamp]] = {}
        busy = f"{self.part} is being written by another process; wait for it to end, or choose another output."
        with ExitStack() as stack:
            # a name that no user's file has, since the lock is deleted
            lock = file.with_name(f".{zlib.crc32(os.fsencode(file.name)):08x}.lock")
            stack.enter_context(locked(lock, busy))
            stack.callback(_delete, lock)
            self._stream = stack.enter_context(self.part.open("ab"))
            self._resume()
            self._open = stack.pop_all()
        self._synced = time.monotonic()

    def holds(self, name: str, file: Path) -> bool:
        """Whether a photo's poses are here, and it is still the file that they are of."""
        return name in self.done and self.done[name][1] == file_stamp(file)

    def add(self, name: str, poses: Poses, stamp: Stamp) -> None:
        """Keep a photo's poses: they outlive the process, however it ends, but for a power cut's last second."""
        start = self._end
        row = {"image": name, "file": stamp, **poses.to_dict()}
        self._write(json.dumps(row, allow_nan=False).encode() + b"\n")
        self.done[name] = start, stamp
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._stream.fileno())
            self._synced = time.monotonic()

    def finish(self, names: Sequence[str]) -> None:
        """Write the output, in the order of ``names`` and then of other photos done, and delete the part file."""
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
        self._open.close()

    def _write(self, line: bytes) -> None:
        self._stream.write(line)
        self._stream.flush()
        self._end += len(line)

    def _resume(self) -> None:
        """Read the part file, and cut it after its last whole line; photos of damaged lines are done again."""
        self._end = 0
        first_line = json.dumps({"settings": self.settings}).encode() + b"\n"
        with self.part.open("rb") as part:
            for line in part:
                if not line.endswith(b"\n"):
                    if self._end == 0 and not first_line.startswith(line.rstrip(b"\0")):
                        self._refuse_damaged()  # it may be somebody's file
                    break
                row = _parse(line)
                if self._end == 0:
                    self._check_settings(row)
                elif _is_row(row):
                    self.done[row["image"]] = self._end, tuple(row["file"])
                self._end += len(line)
        self._stream.truncate(self._end)
        if self._end == 0:
            self._write(first_line)

    def _check_settings(self, row: Any) -> None:
        if not isinstance(row, dict) or not isinstance(row.get("settings"), dict):
            self._refuse_damaged()
        before = row["settings"]
        differences = [
            f"{name} {short(before.get(name))} there, {short(self.settings.get(name))} here"
            for name in before | self.settings
            if before.get(name) != self.settings.get(name)
        ]
        if differences:
            raise ValueError(
                f"{self.part} belongs to an interrupted run with other settings: {'; '.join(differences)}. "
                "Repeat that command to finish it, or delete the file to start again."
            )

    def _refuse_damaged(self) -> NoReturn:
        raise ValueError(f"{self.part} is damaged; delete it to start again.")


def _delete(lock: Path) -> None:
    with suppress(OSError):  # Windows deletes no open file
        lock.unlink()


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


class _Person(BaseModel, extra="forbid"):
    box: Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)]
    keypoints: list[Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]]
    scores: list[FiniteFloat]


class _Row(BaseModel, extra="forbid"):
    image: InstanceOf[str]  # a name need not be text, which pydantic's own strings must
    file: Annotated[list[int], Field(min_length=2, max_length=2)]
    keypoint_names: list[str]
    people: list[_Person]

    @model_validator(mode="after")
    def _as_many_as_names(self) -> _Row:
        counts = {len(values) for person in self.people for values in (person.keypoints, person.scores)}
        if counts - {len(self.keypoint_names)}:
            raise ValueError(f"must have {len(self.keypoint_names)} keypoints and scores a person")
        return self


def _is_row(row: Any) -> bool:
    try:
        checked(_Row, row, "")
    except ValueError:
        return False
    return True


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
