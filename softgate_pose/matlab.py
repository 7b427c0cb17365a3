"""Variables of MATLAB files, read by SciPy once what it trusts has been checked."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["load_matlab"]

_LARGEST = 1 << 30
"""Bytes that a variable may have, unpacked; a larger one would be no annotations."""

_DEEPEST = 32  # structs within structs

_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = range(6, 16)
_NUMBERS = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}  # kind of data: bytes of each
_TEXTS = {1: 1, 2: 1, 4: 2, 16: 1, 17: 2, 18: 4}


def load_matlab(file: Path, name: str, *, structs: bool = False) -> Any:
    """A variable of a MATLAB file (version 5 to 7.2).

    SciPy's reader believes every length, count and type in a file, and takes the process down where one
    is wrong. So it is given this variable alone, unpacked, after all of those were checked.

    Args:
        file: Ends in ``.mat``, as a rule.
        name: Of the variable.
        structs: Give dictionaries for structs, and lists for arrays of them.

    Raises:
        ValueError: If the file is none of those, is damaged, or does not hold the variable.
    """
    from scipy.io import loadmat  # slow to load, and only MATLAB files need it

    try:
        alone = _Variable(file.read_bytes(), name).alone
        return loadmat(io.BytesIO(alone), variable_names=[name], simplify_cells=structs)[name]
    except Exception as error:  # SciPy's reader raises many types
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise ValueError(f"{file} holds no MATLAB variable {name!r} that can be read: {reason}.") from None


class _Variable:
    """A file's bytes, of which ``alone`` is a file that holds one variable, checked and not compressed."""

    def __init__(self, file: bytes, name: str) -> None:
        order = {b"IM": "<", b"MI": ">"}.get(file[126:128])
        if order is None or file[124:126] not in (b"\0\1", b"\1\0"):
            raise ValueError("it is not of MATLAB's versions 5 to 7.2")
        self.pair, self.order = struct.Struct(order + "II"), order
        others = []
        for data in self._variables(file):
            self.data = data
            _, _, start, size, _ = self._head(8, len(data))
            if data[start : start + size] == name.encode():
                self._check(0, len(data), 0)
                self.alone = file[:128] + data
                return
            others.append(data[start : start + size].decode(errors="replace"))
        raise ValueError(f"it holds {', '.join(map(repr, others[:8])) or 'nothing'}")

    def _variables(self, file: bytes) -> Iterator[bytes]:
        """The bytes of each variable, unpacked."""
        at = 128
        while at < len(file):
            if at + 8 > len(file):
                raise ValueError("it is cut short")
            kind, size = self.pair.unpack_from(file, at)
            end = at + 8 + size
            if end > len(file):
                raise ValueError("it is cut short")
            if kind == _COMPRESSED:
                unpacker = zlib.decompressobj()
                data = unpacker.decompress(file[at + 8 : end], _LARGEST)
                if not unpacker.eof:
                    large = len(data) == _LARGEST
                    raise ValueError(f"a variable has more than {_LARGEST >> 20} MB" if large else "it is cut short")
                yield data
            else:
                yield file[at:end]
            at = end

    def _part(self, at: int, end: int) -> tuple[int, int, int, int]:
        """Kind of data, where they begin, their size, and where the next part begins."""
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
        return kind, start, size, following

    def _head(self, at: int, end: int) -> tuple[int, int, int, int, int]:
        """Of an array: its flags, how many elements it has, where its name begins, its size, and what follows."""
        kind, start, size, at = self._part(at, end)
        if (kind, size) != (6, 8):
            raise ValueError("an array has no flags")
        flags, _ = self.pair.unpack_from(self.data, start)
        kind, start, size, at = self._part(at, end)
        if kind != 5 or size % 4 or not 8 <= size <= 128:
            raise ValueError("an array has no shape")
        dims = struct.unpack_from(f"{self.order}{size // 4}i", self.data, start)
        if min(dims) < 0:
            raise ValueError(f"an array has the shape {dims}")
        kind, start, size, at = self._part(at, end)
        if kind not in (1, 16):
            raise ValueError("an array has no name")
        return flags, math.prod(dims), start, size, at

    def _check(self, at: int, end: int, depth: int) -> int:
        """Check the array that begins here, and all in it; where the next begins."""
        kind, start, size, following = self._part(at, end)
        if kind != _MATRIX or depth > _DEEPEST:
            raise ValueError("it is no array" if kind != _MATRIX else f"it is deeper than {_DEEPEST} arrays")
        if not size:  # an empty one, as MATLAB leaves fields that were never set
            return following
        end = start + size
        flags, count, _, _, at = self._head(start, end)
        kind = flags & 0xFF
        if kind in _NUMERIC or kind == _CHAR:
            for _ in range(2 if flags & 0x800 else 1):  # real, imaginary
                data, _, size, at = self._part(at, end)
                width = (_TEXTS if kind == _CHAR else _NUMBERS).get(data)
                if width is None or (size < count if kind == _CHAR else size != count * width):
                    raise ValueError(f"an array of {count} elements has {size} bytes of kind {data}")
            return following
        if kind == _STRUCT:
            count *= self._fields(at, end, count)
            for _ in range(2):
                *_, at = self._part(at, end)
        elif kind != _CELL:
            raise ValueError(f"it has an array of class {kind}, expected numbers, texts, cells and structs")
        if count * 8 > end - at:
            raise ValueError(f"{count} elements are said to be in {end - at} bytes")
        for _ in range(count):
            at = self._check(at, end, depth + 1)
        return following

    def _fields(self, at: int, end: int, count: int) -> int:
        """How many fields each struct of an array has."""
        kind, start, size, at = self._part(at, end)
        (length,) = struct.unpack_from(f"{self.order}i", self.data, start)
        if (kind, size) != (5, 4) or not 1 <= length <= 1024:
            raise ValueError("a struct has fields without names")
        kind, start, size, at = self._part(at, end)
        names = [self.data[i : i + length] for i in range(start, start + size, length)]
        if kind != 1 or size % length or any(b"\0" not in name for name in names) or not (names or count <= 1):
            raise ValueError("a struct has fields without names")
        return len(names)
