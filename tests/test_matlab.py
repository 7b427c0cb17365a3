"""What SciPy's reader would follow out of the file, or into a crash, is refused before it sees it."""

import struct
import zlib

import numpy as np
import pytest
from made_data import struct_array
from scipy.io import loadmat, savemat

from softgate_pose.data import matlab
from softgate_pose.data.matlab import load_matlab

ARRAY, STRUCTS = (
    np.arange(6.0).reshape(2, 3),
    {"x": 1.5, "y": struct_array({"name": "a.jpg"}, {"name": "b", "k": [1, 2]})},
)


@pytest.fixture(params=[False, True], ids=["plain", "compressed"])
def file(tmp_path, request):
    cells = np.array([["text", np.float32([[1, 2]])]], dtype=object)
    variables = {"first": ARRAY, "s": STRUCTS, "c": cells, "z": np.array([[1 + 2j]]), "e": np.zeros((0, 3)), "b": True}
    savemat(tmp_path / "file.mat", variables, do_compression=request.param)
    return tmp_path / "file.mat"


@pytest.mark.parametrize("name", ["first", "s", "c", "z", "e", "b"])
@pytest.mark.parametrize("structs", [False, True])
def test_a_variable_is_what_scipy_reads(file, name, structs):
    found, expected = load_matlab(file, name, structs=structs), loadmat(file, simplify_cells=structs)[name]
    assert type(found) is type(expected)
    assert repr(found) == repr(expected)


def test_variables_that_are_not_there(file):
    with pytest.raises(
        ValueError, match=r"file\.mat holds no MATLAB variable 'x' that can be read: it holds 'first', 's'"
    ):
        load_matlab(file, "x")


@pytest.mark.parametrize(
    "content", [b"", b"text", bytes(200), b"MATLAB 5.0".ljust(124) + b"\2\1IM", b"MATLAB 7.3".ljust(124) + b"\0\2IM"]
)
def test_files_of_another_kind(tmp_path, content):
    (tmp_path / "file.mat").write_bytes(content)
    with pytest.raises(ValueError, match=r"it is not of MATLAB's versions 5 to 7\.2"):
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

DAMAGED = {
    "a kind of data that SciPy looks up beyond its table": (
        array(6, (1, 1), part(65535, bytes(8)), name=b"x"),  # a crash
        "an array of 1 elements has 8 bytes of kind 65535",
    ),
    "fewer data than elements": (array(6, (4, 4), part(9, bytes(8)), name=b"x"), "16 elements has 8 bytes of kind 9"),
    "more elements than memory": (array(1, (2**31 - 1, 2**31 - 1), name=b"x"), "elements are said to be in 0 bytes"),
    "structs without fields": (
        array(2, (2**31 - 1, 9), part(5, struct.pack("<i", 4)), part(1, b""), name=b"x"),  # it would take days
        "fields without names",
    ),
    "names of no length": (array(2, (1, 1), part(5, struct.pack("<i", 0)), NAMES[1], name=b"x"), "without names"),
    "names without an end": (array(2, (1, 1), NAMES[0], part(1, b"abcd"), name=b"x"), "without names"),
    "a field that is not there": (array(2, (1, 1), *NAMES, name=b"x"), "1 elements are said to be in 0 bytes"),
    "a field that is no array": (array(2, (1, 1), *NAMES, part(9, bytes(8)), name=b"x"), "it is not an array"),
    "a negative side": (array(6, (-1, 1), part(9, bytes(8)), name=b"x"), r"the shape \(-1, 1\)"),
    "no flags": (part(14, part(5, bytes(8))), "an array has no flags"),
    "a class that nothing here has": (array(17, (1, 1), name=b"x"), "class 17, expected numbers, strings"),
    "nesting": (nested(40), "it is deeper than 32 arrays"),  # 100,000 deep, a crash
    "a part that is longer than what it is in": (
        part(14, part(6, struct.pack("<II", 6, 0)) + struct.pack("<II", 5, 2**32 - 1) + bytes(96)),
        "a part reaches past the end",
    ),
    "a size that is cut short": (array(6, (1, 1), part(9, bytes(8)), name=b"x")[:-8], "it is cut short"),
    "a tag that is cut short": (b"\x0e\0\0", "it is cut short"),
    "compressed data that are cut short": (part(15, zlib.compress(nested(0))[:-9])[:-3], "it is cut short"),
    "compressed data that are none": (part(15, b"x" * 16), "Error -3 while decompressing"),
}


@pytest.mark.parametrize(("content", "match"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_files(tmp_path, content, match):
    (tmp_path / "file.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\0\1IM" + content)
    with pytest.raises(ValueError, match=match):
        load_matlab(tmp_path / "file.mat", "x")


def test_the_parts_above_are_good_where_nothing_is_wrong_with_them(tmp_path):
    good = array(2, (1, 1), *NAMES, array(6, (1, 1), part(9, struct.pack("<d", 7))), name=b"x") + nested(3)
    (tmp_path / "file.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\0\1IM" + good)
    assert load_matlab(tmp_path / "file.mat", "x", structs=True) == {"ab": 7}


@pytest.mark.parametrize(
    "other",
    [
        part(14, part(6, struct.pack("<II", 17, 0)) + part(1, b"t") + part(1, b"table") + bytes(64)),  # of no shape
        compressed(zlib.compress(nested(0))[:-9] + bytes(9)),
        compressed(zlib.compress(array(6, (1, 9000), part(9, bytes(72000)), name=b"large"))),
    ],
    ids=["a table", "damaged", "large"],
)
def test_a_variable_beside_others_that_cannot_be_read(tmp_path, monkeypatch, other):
    monkeypatch.setattr(matlab, "_LARGEST", 1 << 16)
    good = array(6, (1, 1), part(9, struct.pack("<d", 7)), name=b"x")
    for content in (other + good, good + other):
        (tmp_path / "file.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\0\1IM" + content)
        assert load_matlab(tmp_path / "file.mat", "x").tolist() == [[7]]


def test_what_unpacks_to_more_than_it_should(tmp_path, monkeypatch):
    savemat(tmp_path / "file.mat", {"x": np.zeros(10_000)}, do_compression=True)
    assert (tmp_path / "file.mat").stat().st_size < 400
    monkeypatch.setattr(matlab, "_LARGEST", 1 << 16)
    with pytest.raises(ValueError, match="a variable has more than 0 MB"):
        load_matlab(tmp_path / "file.mat", "x")
