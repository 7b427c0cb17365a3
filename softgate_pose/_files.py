"""Files that are written whole or not at all, and by one process at a time."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from PIL.Image import Image

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: there nothing keeps two runs from one output
    fcntl = None

__all__ = ["lock", "write_picture", "written_whole"]


def lock(stream: IO[bytes], message: str) -> None:
    """Lock an open file for this process. The lock ends when the file is closed or the process dies.

    Without effect on Windows and on file systems without locks.

    Raises:
        BlockingIOError: With the message, if another process holds the lock.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(message) from None
    except OSError:  # a file system without locks
        return


def write_picture(picture: Image, file: Path, picture_format: str, **settings: Any) -> None:
    """Write a picture whole or not at all; ``settings`` are those of Pillow's ``save``."""
    encoded = io.BytesIO()  # to a file Pillow writes by itself, and does not see that a full disk cut it short
    picture.save(encoded, picture_format, **settings)
    with written_whole(file) as scratch:
        scratch.write_bytes(encoded.getvalue())


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
