"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["written_whole"]


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """A scratch path beside ``file``, to write to; it takes the file's place when the block ends.

    If the block raises, the scratch file goes, and what ``file`` held before stays.
    """
    scratch = file.with_name(file.name + ".new")
    try:
        yield scratch
        os.replace(scratch, file)
    finally:
        scratch.unlink(missing_ok=True)
