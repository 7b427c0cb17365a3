import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field

from softgate_pose._files import check_fields, checked, locked, read_json, require_outputs, short, written_whole


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("before")
    with written_whole(file) as scratch:
        scratch.write_text("after")
        assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert file.read_text() == "after"


def test_an_error_leaves_what_was_there_and_no_scratch_file(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("before")
    with pytest.raises(UnicodeEncodeError), written_whole(file) as scratch:
        scratch.write_text("afté", encoding="ascii")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert file.read_text() == "before"


def test_the_longest_name_that_a_file_may_have(tmp_path):
    file = tmp_path / f"{'a' * 251}.txt"
    with written_whole(file) as scratch:
        scratch.write_text("it")
    assert file.read_text() == "it"


def test_a_file_of_the_same_name_but_for_its_ending_is_no_scratch_file(tmp_path):
    (tmp_path / "a.txt.new").write_text("somebody's")
    with written_whole(tmp_path / "a.txt") as scratch:
        scratch.write_text("it")
    assert (tmp_path / "a.txt.new").read_text() == "somebody's"


def test_a_link_stays_one(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.txt").write_text("before")
    (tmp_path / "a.txt").symlink_to(tmp_path / "there" / "a.txt")
    with written_whole(tmp_path / "a.txt") as scratch:
        scratch.write_text("after")
    assert (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "there" / "a.txt").read_text() == "after"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a pipe with a name")
def test_what_is_no_file_is_written_to_and_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    with written_whole(tmp_path / "pipe") as scratch:
        scratch.write_text("it")
    reader.join(timeout=60)
    assert read == ["it"]
    assert (tmp_path / "pipe").is_fifo()


def test_a_lock_keeps_others_out_until_its_holder_ends_or_dies(tmp_path):
    file = tmp_path / "lock"
    hold = "from softgate_pose._files import locked; from pathlib import Path; import sys\n"
    hold += "with locked(Path(sys.argv[1]), 'x'): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match="somebody has it"), locked(file, "somebody has it"):
            pass
        other.kill()
        other.wait()
    with locked(file, "x"), pytest.raises(BlockingIOError), locked(file, "x"):
        pass
    with locked(file, "x"):
        pass


def test_json_with_and_without_numbers_that_it_does_not_have(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": [1, NaN]}')
    assert str(read_json(file)) == "{'a': [1, nan]}"
    with pytest.raises(ValueError, match=r"a\.json.*NaN"):
        read_json(file, allow_nan=False)
    for content in (b"", b"{", b"\xff", b"[" * 100_000, b"9" * 5000):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.json"):
            read_json(file)


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even")
    return value


class _Row(BaseModel):
    bbox: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(min_length=4, max_length=4)
    id: int | str | None = None
    kind: Literal["a", "b"] = "a"


BOX, NAN = [1, 2, 3, 4], float("nan")


@pytest.mark.parametrize(
    ("type_", "value", "message"),
    [
        (list[_Row], [{"bbox": BOX}, {"bbox": BOX[:3]}], "F: [1].bbox must have at least 4 items, got 3."),
        (list[_Row], {}, "F must be a list, got {}."),
        (_Row, 3, "F must be an object, got 3."),
        (dict[str, _Row], {"x": {"bbox": 7}}, "F: x.bbox must be a list, got 7."),
        (dict[str, _Row], {"a.jpg": {}}, "F: ['a.jpg'].bbox is missing."),
        (_Row, {"bbox": [1, 2, True, 4]}, "F: bbox[2] must be a number, got True."),
        (_Row, {"bbox": [1, NAN, 3, -1]}, "F: bbox[1] must be a finite number, got nan (the first of 2 mistakes)."),
        (_Row, {"bbox": BOX, "id": 1.5}, "F: id must be a whole number or a string, got 1.5."),
        (_Row, {"bbox": BOX, "kind": "c"}, "F: kind must be 'a' or 'b', got 'c'."),
        (Annotated[int, AfterValidator(_even)], 3, "F must be even, got 3."),
        (Annotated[int, Field(le=4)], 5, "F must be at most 4, got 5."),
        (Annotated[int, Field(gt=4)], 4, "F must be above 4, got 4."),
        (tuple[int, ...], [4], "F must be a tuple, got [4]."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_what_was_expected_and_what_came(type_, value, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        checked(type_, value, "F")


def test_what_is_right_comes_back():
    (row,) = checked(list[_Row], [{"bbox": BOX, "other": 1}], "F")
    assert row == _Row(bbox=[1.0, 2.0, 3.0, 4.0])


def test_a_dataclass_checks_its_fields():
    @dataclass(frozen=True)
    class Settings:
        width: Annotated[int, Field(ge=1), AfterValidator(_even)] = 4
        mean: tuple[float, ...] = (0.5,)

        def __post_init__(self) -> None:
            check_fields(self)

    globals()["Settings"] = Settings  # where its types are looked up
    assert Settings(width=2, mean=(1, 0.5)).width == 2
    for settings, message in (
        ({"width": 0}, "width must be at least 1, got 0."),
        ({"width": -(10**5000)}, "width must be at least 1, got a number of 16610 bits."),
        ({"width": 3}, "width must be even, got 3."),
        ({"width": 2.0}, "width must be a whole number, got 2.0."),
        ({"width": True}, "width must be a whole number, got True."),
        ({"mean": (0.5, "x")}, "mean[1] must be a number, got 'x'."),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            Settings(**settings)


def test_values_in_messages_are_short():
    for value in (
        10**5000,
        "x" * 5000,
        list(range(5000)),
        {i: i for i in range(5000)},
        [[["x" * 5000] * 99] * 99] * 99,
    ):
        assert len(short(value)) <= 200
    assert short([1.5, None, "a"]) == "[1.5, None, 'a']"


def refused(*args, **settings):
    with pytest.raises(ValueError, match="--") as caught:
        require_outputs(*args, **settings)
    return str(caught.value)


def test_outputs_replace_no_input_and_no_other_output(tmp_path):
    (tmp_path / "in").mkdir()
    file, other = tmp_path / "in" / "a.json", tmp_path / "b.json"
    file.touch()
    (tmp_path / "link.json").symlink_to(file)
    (tmp_path / "dead").symlink_to(tmp_path / "in" / "not there.json")
    require_outputs(
        {"--out": other, "--sheet": tmp_path / "in" / "s.png", "--json": None}, [file, Path("\0"), Path("x" * 5000)]
    )
    for same in (file, tmp_path / "link.json", tmp_path / "in" / ".." / "in" / "a.json"):
        assert f"--out {same}: this file is read" in refused({"--out": same}, [file])
        assert "--out" in refused({"--out": file}, [same])
    assert "is read" in refused({"--out": tmp_path / "dead"}, [tmp_path / "in" / "not there.json"])
    assert "--sheet" in refused({"--out": other, "--sheet": tmp_path / "in" / ".." / "b.json"}, [])


def test_an_output_folder_is_no_input_and_holds_none(tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    photo = tmp_path / "run" / "model" / "a.jpg"
    for reads in ([photo], [tmp_path / "run"], [tmp_path / "run" / "model"]):
        assert f"--out {tmp_path / 'run'}: this folder" in refused(
            {"--out": tmp_path / "run"}, reads, folders=["--out"]
        )
    require_outputs({"--out": tmp_path / "run" / "model" / "new" / "it"}, [photo], folders=["--out"])
    require_outputs({"--out": tmp_path / "other"}, [photo, tmp_path], folders=["--out"])
    photo.touch()
    assert "is a file" in refused({"--out": photo}, [], folders=["--out"])


def test_outputs_are_files_in_folders_that_can_be_written_to(tmp_path):
    assert "is a folder" in refused({"--out": tmp_path}, [])
    new = tmp_path / "no" / "a.json"
    assert f"there is no folder {new.parent}" in refused({"--out": new}, [])
    require_outputs({"--out": new}, [], makes_parents=True)
    require_outputs({"--out": Path(os.devnull)}, [])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    assert f"{tmp_path} cannot be written to" in refused({"--out": tmp_path / "a.json"}, [])
