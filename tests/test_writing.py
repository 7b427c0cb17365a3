import pytest

from softgate_pose.writing import written_whole


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
