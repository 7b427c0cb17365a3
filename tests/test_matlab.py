"""A MATLAB file gives what SciPy reads in it, or an error, whatever it does to SciPy."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from made_data import answer_in_fork, struct_array
from scipy.io import loadmat, savemat

from softgate_pose.data import matlab
from softgate_pose.data.matlab import load_matlab

ARRAY, STRUCTS = (
    np.arange(6.0).reshape(2, 3),
    {"x": 1.5, "y": struct_array({"name": "a.jpg"}, {"name": "b", "k": [1, 2]})},
)


@pytest.fixture
def quick(monkeypatch):
    """The process that reads a file is a copy of this one, which is there at once."""
    monkeypatch.setattr(matlab, "_ask_child", answer_in_fork)


@pytest.fixture(params=[False, True], ids=["plain", "compressed"])
def file(tmp_path, request):
    cells = np.array([["text", np.float32([[1, 2]])]], dtype=object)
    variables = {
        "first": ARRAY,
        "s": STRUCTS,
        "c": cells,
        "z": np.array([[1 + 2j]]),
        "e": np.zeros((0, 3)),
        "b": True,
        "t": "é",
    }
    savemat(tmp_path / "file.mat", variables, do_compression=request.param)
    return tmp_path / "file.mat"


@pytest.mark.parametrize("name", ["first", "z", "e", "b", "t"])
def test_an_array_is_what_scipy_reads(quick, file, name):
    array, expected = load_matlab(file, name), loadmat(file)[name]
    assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
    assert array.tolist() == expected.tolist()


def test_structs_are_what_json_can_hold(quick, file):
    y = [{"name": "a.jpg", "k": []}, {"name": "b", "k": [1, 2]}]
    assert load_matlab(file, "s", structs=True) == {"x": 1.5, "y": y}
    assert load_matlab(file, "first", structs=True) == ARRAY.tolist()
    assert load_matlab(file, "z", structs=True) == "(1+2j)"
    assert load_matlab(file, "b", structs=True) == 1
    assert load_matlab(file, "e", structs=True) == []


def test_the_process_that_reads_it_gives_the_same(file):
    assert load_matlab(file, "first").tolist() == ARRAY.tolist()
    assert load_matlab(file, "s", structs=True)["y"][1] == {"name": "b", "k": [1, 2]}


def test_variables_that_are_not_there_or_not_numbers(quick, file):
    with pytest.raises(ValueError, match=r"file\.mat .*'x'.* 'first', 's'"):
        load_matlab(file, "x")
    with pytest.raises(ValueError, match=r"file\.mat .*'c'.* numbers"):
        load_matlab(file, "c")


@pytest.mark.parametrize(
    "content", [b"", b"text", bytes(200), b"MATLAB 5.0".ljust(124) + b"\2\1IM", b"MATLAB 7.3".ljust(124) + b"\0\2IM"]
)
def test_files_of_another_kind(tmp_path, content):
    (tmp_path / "file.mat").write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.mat .*'x'.* 5 to 7\.2"):
        load_matlab(tmp_path / "file.mat", "x")


def part(kind, data):
    return struct.pack("<II", kind, len(data)) + data.ljust((len(data) + 7) // 8 * 8, b"\0")


def array(kind, dims, *parts, name=b""):
    head = part(6, struct.pack("<II", kind, 0)) + part(5, struct.pack(f"<{len(dims)}i", *dims)) + part(1, name)
    return part(14, head + b"".join(parts))


def nested(depth):
    inner = array(6, (1, 1), part(9, bytes(8)), name=b"" if depth else b"x")
    for level in range(depth):
        inner = array(1, (1, 1), inner, name=b"x" if level == depth - 1 else b"")
    return inner


def compressed(data):
    return struct.pack("<II", 15, len(data)) + data  # which is not padded


NAMES = part(5, struct.pack("<i", 4)), part(1, b"ab\0\0")

CRASH = array(6, (1, 1), part(65535, bytes(8)), name=b"x")  # a kind of data that SciPy looks up beyond its table

DAMAGED = {
    "a crash": CRASH,
    "fewer data than elements": array(6, (4, 4), part(9, bytes(8)), name=b"x"),
    "more elements than memory": array(1, (2**31 - 1, 2**31 - 1), name=b"x"),
    "structs without fields": array(2, (2**31 - 1, 9), part(5, struct.pack("<i", 4)), part(1, b""), name=b"x"),
    "names of no length": array(2, (1, 1), part(5, struct.pack("<i", 0)), NAMES[1], name=b"x"),
    "names without an end": array(2, (1, 1), NAMES[0], part(1, b"abcd"), name=b"x"),
    "a field that is not there": array(2, (1, 1), *NAMES, name=b"x"),
    "a field that is no array": array(2, (1, 1), *NAMES, part(9, bytes(8)), name=b"x"),
    "no flags": part(14, part(5, bytes(8))),
    "a class that nothing here has": array(17, (1, 1), name=b"x"),
    "a part that is longer than what it is in": part(
        14, part(6, struct.pack("<II", 6, 0)) + struct.pack("<II", 5, 2**32 - 1) + bytes(96)
    ),
    "a size that is cut short": array(6, (1, 1), part(9, bytes(8)), name=b"x")[:-8],
    "a tag that is cut short": b"\x0e\0\0",
    "compressed data that are cut short": part(15, zlib.compress(nested(0))[:-9])[:-3],
    "compressed data that are none": part(15, b"x" * 16),
}


def write(file, content):
    file.write_bytes(b"MATLAB 5.0".ljust(124) + b"\0\1IM" + content)
    return file


@pytest.mark.parametrize("structs", [False, True])
@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_files(quick, tmp_path, content, structs):
    with pytest.raises(ValueError, match=r"file\.mat .*'x' .*: ."):
        load_matlab(write(tmp_path / "file.mat", content), "x", structs=structs)


def test_numbers_deep_in_cells_and_of_a_negative_side_are_numbers_still(quick, tmp_path):
    """SciPy makes a negative side of what there is."""
    assert load_matlab(write(tmp_path / "deep.mat", nested(3000)), "x", structs=True) == 0
    content = array(6, (-1, 1), part(9, struct.pack("<d", 7)), name=b"x")
    assert load_matlab(write(tmp_path / "file.mat", content), "x").tolist() == [[7]]


def test_a_crash_is_an_error_that_names_the_file_and_the_variable(file, monkeypatch):
    run, abort = subprocess.run, [sys.executable, "-c", "import os; os.abort()"]
    monkeypatch.setattr(subprocess, "run", lambda command, **settings: run(abort, **settings))
    with pytest.raises(ValueError, match=r"file\.mat .*'first'.* status -?\d+"):
        load_matlab(file, "first")


def test_a_file_that_takes_scipy_down_or_not_is_an_error(tmp_path):
    """What SciPy reads beyond its table differs from run to run."""
    with pytest.raises(ValueError, match=r"file\.mat .*'x'"):
        load_matlab(write(tmp_path / "file.mat", CRASH), "x")


def test_a_file_that_takes_too_long(file, monkeypatch):
    monkeypatch.setattr(matlab, "_SECONDS", 0.01)
    with pytest.raises(ValueError, match=r"file\.mat .*'first'.* longer than 0\.01 s"):
        load_matlab(file, "first")


def test_the_parts_above_are_good_where_nothing_is_wrong_with_them(quick, tmp_path):
    good = array(2, (1, 1), *NAMES, array(6, (1, 1), part(9, struct.pack("<d", 7))), name=b"x") + nested(3)
    assert load_matlab(write(tmp_path / "file.mat", good), "x", structs=True) == {"ab": 7}


@pytest.mark.parametrize(
    "other",
    [
        part(14, part(6, struct.pack("<II", 17, 0)) + part(1, b"t") + part(1, b"table") + bytes(64)),  # of no shape
        compressed(zlib.compress(nested(0))[:-9] + bytes(9)),
        compressed(zlib.compress(array(6, (1, 9000), part(9, bytes(72000)), name=b"large"))),
    ],
    ids=["a table", "damaged", "large"],
)
def test_a_variable_beside_others(quick, tmp_path, other):
    """Where SciPy gets past what is damaged, the value is right."""
    good = array(6, (1, 1), part(9, struct.pack("<d", 7)), name=b"x")
    for content in (other + good, good + other):
        try:
            value = load_matlab(write(tmp_path / "file.mat", content), "x")
        except ValueError:
            continue
        assert value.tolist() == [[7]]


def test_what_unpacks_to_more_than_it_should(tmp_path):
    pytest.importorskip("resource", reason="processes cannot be limited there")
    bomb = array(6, (1, 2**29 - 1), struct.pack("<II", 9, 2**32 - 8), name=b"x")
    with pytest.raises(ValueError, match=r"file\.mat .*'x'.* too large"):
        load_matlab(write(tmp_path / "file.mat", compressed(zlib.compress(bomb))), "x")
