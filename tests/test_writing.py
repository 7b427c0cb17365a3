import os
import threading

import pytest

from softgate_pose._files import written_whole


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
