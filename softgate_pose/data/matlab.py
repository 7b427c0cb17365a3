"""Variables of MATLAB files, read by SciPy in a process of its own: a damaged file can take SciPy's reader down."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["load_matlab", "matlab_array"]

_SECONDS = 300  # far more than MPII's release takes; some damaged files take days
_MEMORY = 4 << 30  # bytes, where a process can be limited: a small file may unpack to any size


def matlab_array(file: Path, name: str, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    """A variable that must be numbers of this shape, None for any side; the last axis is that of people."""
    array = load_matlab(file, name)
    got = f"{array.dtype} {array.shape}"
    if array.ndim == len(shape) - 1:
        array = array[..., None]  # MATLAB drops a last axis of one person
    if not _fits(array.shape, shape) or array.dtype.kind not in "biuf":
        expected = ", ".join("N" if side is None else str(side) for side in shape)
        hint = ""
        for other, kind, sides in (("LSP", "lsp", (3, 14, None)), ("LSP-extended", "lspet", (14, 3, None))):
            if name == "joints" and sides != shape and _fits(array.shape, sides):
                hint = f"; this looks like {other} (kind {kind})"
        raise ValueError(f"{file}: {name} must be numbers of shape ({expected}), got {got}{hint}.")
    return np.asarray(array, dtype=np.float64)


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(e in (None, side) for side, e in zip(shape, expected, strict=True))


def load_matlab(file: Path, name: str, *, structs: bool = False) -> Any:
    """A variable of a MATLAB file of version 5 to 7.2.

    Without ``structs`` an array of numbers or texts; with it what JSON can hold: dictionaries for structs, lists for
    arrays of them and of numbers, however small their axes are.

    Raises:
        ValueError: If the file is of another version, is damaged, or does not hold the variable.
    """
    kind, content = b"E", b"it is not of MATLAB's versions 5 to 7.2"
    with file.open("rb") as stream:
        header = stream.read(128)
    if header[124:] in (b"\0\1IM", b"\1\0MI"):
        output = _ask_child(file, name, structs)
        kind, content = output[:1], output[1:]
    if kind == b"J":
        return json.loads(content)
    if kind == b"N":
        return np.load(io.BytesIO(content), allow_pickle=False)
    raise ValueError(f"{file} holds no MATLAB variable {name!r} that can be read: {content.decode(errors='replace')}.")


def _ask_child(file: Path, name: str, structs: bool) -> bytes:
    """What ``answer`` gives in a new process."""
    # the child imports this package from where it lies, and nothing from the working directory
    command = [sys.executable, "-m", "softgate_pose.data.matlab"]
    command += [str(file.absolute()), name, "structs" if structs else "", str(_MEMORY)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # whose threads would count as memory
    try:
        child = subprocess.run(
            command, capture_output=True, timeout=_SECONDS, cwd=Path(__file__).parents[2], env=environment
        )
    except subprocess.TimeoutExpired:
        return f"Ereading it takes longer than {_SECONDS} s".encode()
    return child.stdout if child.returncode == 0 else f"ESciPy ended with status {child.returncode}".encode()


def answer(file: Path, name: str, structs: bool) -> bytes:
    """A letter and a variable: E and an error's message, J and JSON, or N and NumPy's format."""
    from scipy.io import loadmat, whosmat

    try:
        variables = loadmat(file, variable_names=[name], simplify_cells=structs, appendmat=False)
        if name not in variables:
            names = [repr(other) for other, *_ in whosmat(file, appendmat=False)]
            return f"Eit holds {', '.join(names[:8]) or 'nothing'}".encode()
        if structs:
            return b"J" + json.dumps(variables[name], default=_plain).encode()
        array = np.asarray(variables[name])
        if array.dtype.hasobject:
            return b"Eit is not an array of numbers"
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        return b"N" + stream.getvalue()
    except MemoryError:
        return b"Eit is too large"
    except Exception as error:  # SciPy's reader raises many types
        return f"E{type(error).__name__}: {error}".encode(errors="replace")


def _plain(value: Any) -> Any:
    """An array as lists; what JSON does not have, such as a complex number, as text."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else repr(value)


if __name__ == "__main__":
    with suppress(ImportError, OSError, ValueError):  # Windows, or a lower limit is already set
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[4]),) * 2)
    sys.stdout.buffer.write(answer(Path(sys.argv[1]), sys.argv[2], bool(sys.argv[3])))
