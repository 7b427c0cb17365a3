"""The boundary to the outside: files are written whole, locked, read and checked here. Imports no torch."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import reprlib
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Any, get_type_hints

from PIL.Image import Image

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = [
    "check_fields",
    "checked",
    "locked",
    "read_json",
    "require_outputs",
    "short",
    "write_picture",
    "written_whole",
]


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """A scratch path beside ``file``, to write to; it takes the file's place when the block ends.

    If the block raises, the scratch file is deleted, and ``file`` keeps what it held. A link stays a link: the file
    that it leads to is replaced. What is not a regular file, such as /dev/stdout, is written to directly.
    """
    if file.exists() and not file.is_file():
        yield file
        return
    file = Path(os.path.realpath(file))
    # short, since the file's own name may have the largest length already
    scratch = file.with_name(f".{zlib.crc32(os.fsencode(file.name)):08x}.new")
    try:
        yield scratch
        os.replace(scratch, file)
    finally:
        scratch.unlink(missing_ok=True)


def write_picture(picture: Image, file: Path, picture_format: str, **settings: Any) -> None:
    """Write a picture whole or not at all; ``settings`` are those of Pillow's ``save``."""
    encoded = io.BytesIO()  # writing to a file directly, Pillow does not notice a full disk
    picture.save(encoded, picture_format, **settings)
    with written_whole(file) as scratch:
        scratch.write_bytes(encoded.getvalue())


@contextmanager
def locked(file: Path, message: str) -> Iterator[None]:
    """Hold a lock file, which has no other use; a process that dies lets go of it.

    Raises:
        BlockingIOError: With the message, if another process holds it.
    """
    from filelock import FileLock, Timeout  # takes a tenth of a second to load

    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(message) from None
    try:
        yield
    finally:
        lock.release()


def read_json(file: Path, *, allow_nan: bool = True) -> Any:
    """What a JSON file in UTF-8 holds; ``allow_nan`` takes NaN and Infinity, too, which many tools write."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number in JSON; null says that a value is missing")

    try:
        return json.loads(file.read_text(encoding="utf-8-sig"), parse_constant=None if allow_nan else refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from None


def checked(type_: Any, value: Any, subject: str) -> Any:
    """``value``, checked against a type that pydantic understands. Nothing is converted, except int to float.

    A validator in the type raises ValueError with what follows the field's name, such as "must be even".

    Raises:
        ValueError: Naming the first wrong field, as in ``SUBJECT: annotations[3].bbox must be a list, got 7.``, and how
            many more are wrong.
    """
    from pydantic import ValidationError  # loads more than the rest of this module

    try:
        return _adapter(type_).validate_python(value, strict=True)
    except ValidationError as error:
        problem = _first_problem(error.errors(include_url=False), value)
        if subject and not problem.startswith(" "):
            subject += ": "
        raise ValueError(subject + problem) from None


def check_fields(instance: Any) -> None:
    """Check a dataclass's fields against their types, as ``checked`` does; errors begin with the field's name."""
    for name, type_ in _field_types(instance.__class__).items():
        checked(type_, {name: getattr(instance, name)}, "")


@cache
def _adapter(type_: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(type_)


@cache
def _field_types(class_: Any) -> dict[str, Any]:
    """For each field, the type of a dictionary that holds it alone, so that an error names the field."""
    hints = get_type_hints(class_, include_extras=True)
    return {field.name: GenericAlias(dict, (str, hints[field.name])) for field in dataclasses.fields(class_)}


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if abs(x) < 10**40 else f"a number of {x.bit_length()} bits"  # Python prints no very long ones


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = 60


def short(value: object) -> str:
    """As ``repr``, but of at most 200 characters, whatever the value."""
    text = _SHORT.repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _first_problem(errors: Sequence[Mapping[str, Any]], value: Any) -> str:
    """What is wrong with the first field, and how many more are wrong."""
    problems: dict[str, list[str]] = {}  # field to what was expected: more than one where it may be of several types
    got: list[Any] = []
    for error in errors:
        path, at = "", value
        for part in error["loc"]:
            try:
                at = at[part]
            except (KeyError, IndexError, TypeError):
                if error["type"] != "missing":  # the name of one of the types that a field may have
                    continue
            path += f".{part}" if isinstance(part, str) and part.isidentifier() else f"[{short(part)}]"
        problems.setdefault(path.removeprefix("."), []).append(_expected(error))
        got.append(error["ctx"]["actual_length"] if error["type"] in ("too_short", "too_long") else at)
    path, expected = next(iter(problems.items()))
    wanted = " or ".join([expected[0], *(text.removeprefix("must be ") for text in expected[1:])])
    wanted += f", got {short(got[0])}" if wanted.startswith("must") else ""
    more = f" (the first of {len(problems)} mistakes)" if len(problems) > 1 else ""
    return f"{path} {wanted}{more}."


def _expected(error: Mapping[str, Any]) -> str:
    """Pydantic's message, worded to follow the field's name."""
    if error["type"] in _SENTENCES:
        return _SENTENCES[error["type"]]
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    text = re.sub(r"^\w+ should ", "must ", re.sub(r",? (not \d+|or instance of \w+)$", "", error["msg"]))
    for words, ours in _WORDS.items():
        text = text.replace(words, ours)
    return text


_SENTENCES = {"missing": "is missing", "extra_forbidden": "is not a known field"}
_WORDS = {
    "a valid integer": "a whole number",
    "a valid dictionary": "an object",
    "a valid ": "a ",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "above",
    "less than": "below",
    " after validation": "",
}


def require_outputs(
    outputs: Mapping[str, Path | None],
    inputs: Iterable[Path],
    *,
    folders: Collection[str] = (),
    makes_parents: bool = False,
) -> None:
    """Raise ValueError unless each output can be written, and replaces no input and no other output.

    Args:
        outputs: The file or folder of each option, if any, by the option's name in errors.
        inputs: All files and folders that are read.
        folders: The options that name folders. Such a folder may neither be an input nor hold one.
        makes_parents: Whether a file's missing folder is created; an output folder always is.
    """
    wanted = {option: path for option, path in outputs.items() if path is not None}
    inputs = set(inputs) if wanted else set()
    above = {folder for parent in {path.absolute().parent for path in inputs} for folder in (parent, *parent.parents)}
    uses = dict.fromkeys(map(_identity, above), "holds what this command reads")
    uses |= dict.fromkeys(map(_identity, inputs), "is read by this command")
    for option, path in wanted.items():
        is_folder, identity = option in folders, _identity(path)
        _require_writable(f"{option} {path}", path, is_folder=is_folder, makes_parents=makes_parents or is_folder)
        kind = "folder" if is_folder else "file"
        if identity in uses:
            raise ValueError(f"{option} {path}: this {kind} {uses[identity]}; choose another name.")
        uses[identity] = f"is that of {option}"


def _require_writable(subject: str, path: Path, *, is_folder: bool, makes_parents: bool) -> None:
    if path.exists() and path.is_dir() != is_folder:
        raise ValueError(f"{subject}: is {'a file, expected a folder' if is_folder else 'a folder, expected a file'}.")
    place = Path(os.path.realpath(path))
    if not place.exists() or place.is_file():  # anything else, such as a device, is written to directly
        place = place.parent
    if makes_parents:
        place = next(folder for folder in (place, *place.parents) if folder.exists())
    if not place.exists():
        raise ValueError(f"{subject}: there is no folder {place}.")
    if not os.access(place, os.W_OK):
        raise ValueError(f"{subject}: {place} cannot be written to.")


def _identity(path: Path) -> tuple[int, int] | str:
    """The same for all names of one file: through links, and where case is ignored."""
    try:
        status = os.stat(path)  # noqa: PTH116 (a path's own method raises on names that no file can have)
    except OSError:
        return os.path.realpath(path)
    except ValueError:
        return str(path)
    return status.st_dev, status.st_ino
