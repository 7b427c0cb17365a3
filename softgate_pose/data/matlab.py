"""Variables of MATLAB files, read by SciPy once what it trusts has been checked."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["load_matlab"]

_LARGEST = 1 << 30
"""Bytes that a variable may have, unpacked; a larger one would be no annotations."""

_MOST_BEFORE_DATA = 1024
"""Bytes that an array's flags, shape and name may have, unpacked."""

_DEEPEST = 32  # structs within structs

# kinds of data
_INT8, _UINT8, _INT16, _UINT16, _INT32, _UINT32, _SINGLE, _DOUBLE, _INT64, _UINT64 = 1, 2, 3, 4, 5, 6, 7, 9, 12, 13
_MATRIX, _COMPRESSED = 14, 15
_UTF8, _UTF16, _UTF32 = 16, 17, 18

# classes of arrays
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = range(6, 16)
_COMPLEX = 0x800  # a flag

_NUMBERS = {
    **dict.fromkeys((_INT8, _UINT8), 1),
    **dict.fromkeys((_INT16, _UINT16), 2),
    **dict.fromkeys((_INT32, _UINT32, _SINGLE), 4),
    **dict.fromkeys((_DOUBLE, _INT64, _UINT64), 8),
}
"""Kinds of data that an array of numbers may have, and the bytes of each number."""

_CHARACTERS = (_INT8, _UINT8, _UINT16, _UTF8, _UTF16, _UTF32)

_HEADER = 128  # bytes before the first variable


def load_matlab(file: Path, name: str, *, structs: bool = False) -> Any:
    """A variable of a MATLAB file (version 5 to 7.2).

    SciPy's reader believes every length, count and type in a file, and takes the process down where one
    is wrong. So it is given this variable alone, unpacked, after all of those were checked.

    Args:
        file: The file, whose name as a rule ends in ``.mat``.
        name: The variable's name.
        structs: Give dictionaries for structs, and lists for arrays of them.

    Raises:
        ValueError: If the file is of another version, is damaged, or does not hold the variable.
    """
    from scipy.io import loadmat  # slow to load, and only MATLAB files need it

    try:
        alone = _extract(file.read_bytes(), name)
        return loadmat(io.BytesIO(alone), variable_names=[name], simplify_cells=structs)[name]
    except Exception as error:  # SciPy's reader raises many types
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise ValueError(f"{file} holds no MATLAB variable {name!r} that can be read: {reason}.") from None


def _extract(file: bytes, name: str) -> bytes:
    """A file that holds one of a file's variables alone, checked and not compressed."""
    order = {b"IM": "<", b"MI": ">"}.get(file[126:128])
    if order is None or file[124:126] not in (b"\0\1", b"\1\0"):
        raise ValueError("it is not of MATLAB's versions 5 to 7.2")
    others, problems = [], []
    for kind, start, end in _variables(file, struct.Struct(order + "II")):
        try:
            found = _Checker(_unpacked(file, kind, start, end, _MOST_BEFORE_DATA), order).name()
        except (ValueError, zlib.error) as error:  # damaged, or of a class such as MATLAB's tables, which SciPy skips
            problems.append(str(error))
            continue
        if found == name.encode():
            data = _unpacked(file, kind, start, end, _LARGEST + 1)
            if len(data) > _LARGEST:
                raise ValueError(f"a variable has more than {_LARGEST >> 20} MB")
            _Checker(data, order).check()
            return file[:_HEADER] + data
        others.append(found.decode(errors="replace"))
    if problems:
        raise ValueError(problems[0])
    raise ValueError(f"it holds {', '.join(map(repr, others[:8])) or 'nothing'}")


def _variables(file: bytes, pair: struct.Struct) -> Iterator[tuple[int, int, int]]:
    """Of each variable the kind of its data, and where its bytes begin and end."""
    at = _HEADER
    while at < len(file):
        if at + 8 > len(file):
            raise ValueError("it is cut short")
        kind, size = pair.unpack_from(file, at)
        end = at + 8 + size
        if end > len(file):
            raise ValueError("it is cut short")
        yield kind, at, end
        at = end


def _unpacked(file: bytes, kind: int, start: int, end: int, most: int) -> bytes:
    """A variable's bytes, unpacked, or the first ``most`` of them."""
    if kind != _COMPRESSED:
        return file[start : min(end, start + most)]
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(file[start + 8 : end], most)
    if not unpacker.eof and len(data) < most:
        raise ValueError("it is cut short")
    return data


class _Part(NamedTuple):
    """A piece of a variable: its kind of data, where they begin and end, and where the next part begins."""

    kind: int
    start: int
    end: int
    following: int

    @property
    def size(self) -> int:
        return self.end - self.start


class _Head(NamedTuple):
    """What an array begins with: its flags, its number of elements, its name, and where its data begin."""

    flags: int
    elements: int
    name: bytes
    following: int


class _Checker:
    """Checks that the lengths, counts and types in one variable's bytes agree.

    Args:
        data: The variable, not compressed.
        order: The order of bytes, as ``struct`` writes it.
    """

    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.order, self.pair = data, order, struct.Struct(order + "II")

    def name(self) -> bytes:
        """The variable's name."""
        return self._head(8, len(self.data)).name

    def check(self) -> None:
        """Raise ValueError unless everything in the variable is as it is said to be."""
        self._check(0, len(self.data), 0)

    def _part(self, at: int, end: int) -> _Part:
        if at + 8 > end:
            raise ValueError("a part is missing")
        kind, size = self.pair.unpack_from(self.data, at)
        if kind >> 16:  # small data share the eight bytes
            kind, size, start, following = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if size > 4:
                raise ValueError(f"{size} bytes are said to be in 4")
        else:
            start = at + 8
            following = start + (size + 7) // 8 * 8
        if following > end:
            raise ValueError("a part reaches past the end")
        return _Part(kind, start, start + size, following)

    def _head(self, at: int, end: int) -> _Head:
        flags = self._part(at, end)
        if (flags.kind, flags.size) != (_UINT32, 8):
            raise ValueError("an array has no flags")
        shape = self._part(flags.following, end)
        if shape.kind != _INT32 or shape.size % 4 or not 8 <= shape.size <= 128:
            raise ValueError("an array has no shape")
        dims = struct.unpack_from(f"{self.order}{shape.size // 4}i", self.data, shape.start)
        if min(dims) < 0:
            raise ValueError(f"an array has the shape {dims}")
        name = self._part(shape.following, end)
        if name.kind not in (_INT8, _UTF8):
            raise ValueError("an array has no name")
        (value, _) = self.pair.unpack_from(self.data, flags.start)
        return _Head(value, math.prod(dims), self.data[name.start : name.end], name.following)

    def _check(self, at: int, end: int, depth: int) -> int:
        """Check the array that begins here, and all in it; where the next begins."""
        array = self._part(at, end)
        if array.kind != _MATRIX or depth > _DEEPEST:
            raise ValueError("it is not an array" if array.kind != _MATRIX else f"it is deeper than {_DEEPEST} arrays")
        if not array.size:  # an empty one, as MATLAB leaves fields that were never set
            return array.following
        head = self._head(array.start, array.end)
        array_class, count, at = head.flags & 0xFF, head.elements, head.following
        if array_class in _NUMERIC or array_class == _CHAR:
            for _ in range(2 if head.flags & _COMPLEX else 1):  # real, imaginary
                data = self._part(at, array.end)
                if array_class == _CHAR:  # a character may have several bytes
                    fits = data.kind in _CHARACTERS and data.size >= count
                else:
                    fits = data.kind in _NUMBERS and data.size == count * _NUMBERS[data.kind]
                if not fits:
                    raise ValueError(f"an array of {count} elements has {data.size} bytes of kind {data.kind}")
                at = data.following
            return array.following
        if array_class == _STRUCT:
            fields, at = self._fields(at, array.end, count)
            count *= fields
        elif array_class != _CELL:
            raise ValueError(f"it has an array of class {array_class}, expected numbers, strings, cells and structs")
        if count * 8 > array.end - at:
            raise ValueError(f"{count} elements are said to be in {array.end - at} bytes")
        for _ in range(count):
            at = self._check(at, array.end, depth + 1)
        return array.following

    def _fields(self, at: int, end: int, count: int) -> tuple[int, int]:
        """How many fields each struct of an array has, and where their values begin."""
        length_part = self._part(at, end)
        (length,) = struct.unpack_from(f"{self.order}i", self.data, length_part.start)
        if (length_part.kind, length_part.size) != (_INT32, 4) or not 1 <= length <= 1024:
            raise ValueError("a struct has fields without names")
        listed = self._part(length_part.following, end)
        names = [self.data[i : i + length] for i in range(listed.start, listed.end, length)]
        whole = listed.kind == _INT8 and listed.size % length == 0 and all(b"\0" in name for name in names)
        if not whole or not (names or count <= 1):
            raise ValueError("a struct has fields without names")
        return len(names), listed.following
