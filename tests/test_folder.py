"""Long runs: over awkward photos, killed at any moment, resumed, in flat memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from made_data import awkward_photos
from PIL import Image

from softgate_pose import LSP, Poses, predict, predict_folder, save_pretrained
from softgate_pose.cli import main
from softgate_pose.folder.boxes import read_boxes
from softgate_pose.folder.photos import Photo, find_photos, picture_paths
from softgate_pose.folder.results import OUTPUT_SUFFIXES, Results
from softgate_pose.folder.run import is_done, predict_photos


@pytest.fixture
def photos(tmp_path):
    good, bad = awkward_photos(tmp_path / "photos")
    return tmp_path / "photos", good, bad


@pytest.fixture
def model_name(tiny_model, tmp_path):
    return f"local-dir:{save_pretrained(tiny_model, tmp_path / 'model')}"


def poses_of(count=1, seed=0):
    numbers = torch.Generator().manual_seed(seed)
    points, scores = torch.rand(count, 14, 2, generator=numbers) * 90, torch.rand(count, 14, generator=numbers)
    return Poses(points, scores, torch.ones(count, 4), LSP)


def test_of_an_awkward_folder_all_good_ones_are_done_and_all_bad_ones_listed(photos, model_name, tmp_path):
    folder, good, bad = photos
    command = ["predict", str(folder), "--model", model_name, "--out", str(tmp_path / "p.json")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert [row["image"] for row in json.loads((tmp_path / "p.json").read_text())] == good
    assert f"{len(bad)} of {len(good) + len(bad)} photos failed" in result.output
    listed = result.output.split("photos failed:\n")[1].splitlines()
    assert len(listed) == len(bad)
    for line, name in zip(listed, bad, strict=True):
        assert str(folder / name) in line
    for reason in ("No image", "is empty (0 bytes)", "is refused: Image size (4294836225 pixels)", "is truncated"):
        assert reason in result.output


def test_names_that_are_no_text_are_printed(photos, model_name):
    folder, good, _ = photos
    if "latin-\udce9.jpg" not in good:
        pytest.skip("file names are Unicode here")
    result = CliRunner().invoke(main, ["predict", str(folder / "latin-\udce9.jpg"), "--model", model_name])
    assert result.exit_code == 0, result.output
    assert "latin-\ufffd.jpg, person 0" in result.output


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_run_that_is_killed_at_any_moment_leaves_nothing_half_and_goes_on(photos, model_name, tmp_path):
    folder, good, bad = photos
    for name in good[:4] + good[5:-4] + bad[1:]:  # a few will do
        (folder / name).unlink()
    script = [sys.executable, Path(__file__).parent / "kill_predict.py", model_name.partition(":")[2], folder]
    (tmp_path / "out").mkdir()
    result = subprocess.run([*script, tmp_path / "out", ".jsonl"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    runs = [json.loads(line) for line in result.stdout.splitlines()]
    assert sum(run["status"] == -9 for run in runs) > 20
    for run in runs:
        assert run["output"] in (None, run["whole"]), run["run"]
        assert run["status"] == -9 or run["output"] is not None, run["run"]
    rows = [json.loads(line)["image"] for line in runs[0]["whole"].splitlines()]
    assert rows == [good[4], *good[-4:]]


NAMES = ["a.jpg", "b/c.png", "é.jpg", "latin-\udce9.jpg", "d,\"'\n.gif"]


STAMP = (1, 2)  # of photos that are not there


def go_on(out):
    """A run over NAMES, from what is there."""
    with Results(out, {"model": "x"}) as results:
        before = list(results.done)
        for i, name in enumerate(NAMES):
            if name not in results.done:
                results.add(name, poses_of(i, seed=i), STAMP)
        results.finish(NAMES)
    return before, out.read_bytes()


@pytest.fixture
def part(tmp_path):
    """What the part file of a whole run holds, and the output of each kind."""
    whole = {suffix: go_on(tmp_path / f"whole{suffix}")[1] for suffix in OUTPUT_SUFFIXES}
    with Results(tmp_path / "first.json", {"model": "x"}) as results:
        for i, name in enumerate(NAMES):
            results.add(name, poses_of(i, seed=i), STAMP)
        return results.part.read_bytes(), whole


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_a_part_file_cut_anywhere_is_gone_on_from(part, tmp_path, suffix):
    data, whole = part
    ends = [i for i, byte in enumerate(data) if byte == 10]
    for at in sorted({*range(0, len(data), 97), *ends, *(end + 1 for end in ends)}):
        out = tmp_path / f"cut{at}{suffix}"
        out.with_name(out.name + ".part").write_bytes(data[:at])
        before, written = go_on(out)
        assert before == NAMES[: max(0, data[:at].count(b"\n") - 1)]
        assert written == whole[suffix]
        assert not out.with_name(out.name + ".part").exists()


@pytest.mark.parametrize(
    "line",
    [
        b"\0" * 5000,  # what a power cut leaves
        b"5", b"{}", b'{"image": "a.jpg", "people": []}', b'{"image": "a.jpg", "keypoint_names": [], "people": []}',
        b'{"image": "a.jpg", "file": [1, 2], "keypoint_names": [], "people": 5}',
        b'{"image": "a.jpg", "file": [1, "2"], "keypoint_names": [], "people": []}',
        b'{"image": "a.jpg", "file": [1, 2], "keypoint_names": ["x"], "people": [{"box": [1.0, 1.0, 2.0, 2.0], '
        b'"scores": [1.0], "keypoints": [[NaN, 1.0]]}]}',
        b'{"image": 5, "file": [1, 2], "keypoint_names": [], "people": []}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_line_is_done_again(part, tmp_path, line):
    data, whole = part
    lines = data.splitlines(keepends=True)
    for at in (1, 3, len(lines)):
        out = tmp_path / f"{at}.json"
        out.with_name(out.name + ".part").write_bytes(b"".join([*lines[:at], line + b"\n", *lines[at + 1 :]]))
        before, written = go_on(out)
        assert len(before) == 5 - (at < len(lines))
        assert written == whole[".json"]


@pytest.mark.parametrize("content", [b"somebody's notes", b'{"settings": {"model": "y', b"garbage\n", b"\0x"])
def test_a_part_file_that_is_none_stays_as_it_is(tmp_path, content):
    (tmp_path / "p.json.part").write_bytes(content)
    with pytest.raises(ValueError, match=r"p\.json\.part .*delete"):
        Results(tmp_path / "p.json", {"model": "x"})
    assert (tmp_path / "p.json.part").read_bytes() == content


def test_lines_that_stand_twice_count_once(part, tmp_path):
    data, whole = part
    lines = data.splitlines(keepends=True)
    (tmp_path / "p.jsonl.part").write_bytes(b"".join([*lines, *lines[1:]]))
    assert go_on(tmp_path / "p.jsonl") == (NAMES, whole[".jsonl"])


def test_no_photo_at_all_is_an_empty_list(tmp_path):
    for suffix, expected in ((".json", "[]\n"), (".jsonl", ""), (".csv", "image,person,keypoint,x,y,score\r\n")):
        with Results(tmp_path / f"p{suffix}", {}) as results:
            results.finish(["a.jpg"])
        assert (tmp_path / f"p{suffix}").read_bytes().decode() == expected


def test_json_is_what_python_writes_of_the_whole_list(part):
    rows = json.loads(part[1][".json"])
    assert part[1][".json"].decode() == json.dumps(rows, indent=1) + "\n"


def test_the_disk_has_what_was_added_before_the_next_photo(tmp_path):
    with Results(tmp_path / "p.json", {}) as results:
        results.add("a.jpg", poses_of(), STAMP)
        assert json.loads(results.part.read_bytes().splitlines()[-1])["image"] == "a.jpg"


def test_other_settings_are_refused_by_name(tmp_path):
    with Results(tmp_path / "p.json", {"model": "x", "decode": "dark"}) as results:
        results.add("a.jpg", poses_of(), STAMP)
    with pytest.raises(ValueError, match=r"p\.json\.part .*: model 'x' .* 'y' here\. "):
        Results(tmp_path / "p.json", {"model": "y", "decode": "dark"})
    with Results(tmp_path / "p.json", {"model": "x", "decode": "dark"}) as results:
        assert list(results.done) == ["a.jpg"]


def test_a_folder_is_one_call(tmp_path, photo, tiny_model):
    """Which resumes, whether a photo is gone or new meanwhile, and leaves nothing but the output."""
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        photo.save(tmp_path / "in" / name)
    boxes = {name: [[0.0, 0.0, 40.0, 60.0]] for name in ("a.png", "b.png", "d.png")}

    def start():
        return predict_folder(tiny_model.train(), str(tmp_path / "in"), boxes, out=tmp_path / "out" / "p.jsonl")

    run = start()
    assert (len(run.photos), run.done, run.gone, run.part) == (3, 0, 0, tmp_path / "out" / "p.jsonl.part")
    first = next(iter(run))
    expected = predict(tiny_model.eval(), photo, boxes["a.png"]).keypoints
    torch.testing.assert_close(first.poses.keypoints, expected, atol=1e-2, rtol=0)  # the deployed form
    with pytest.raises(BlockingIOError, match=r"p\.jsonl\.part"):
        start()
    del run, first
    (tmp_path / "in" / "a.png").rename(tmp_path / "in" / "d.png")
    run = start()
    assert (len(run.photos), run.done, run.gone) == (3, 0, 1)
    problems = {outcome.photo.name: outcome.problem for outcome in run}
    assert [name for name, problem in problems.items() if problem is None] == ["b.png", "d.png"]
    assert f"{tmp_path / 'in' / 'c.png'}" in problems["c.png"]
    rows = [json.loads(line)["image"] for line in (tmp_path / "out" / "p.jsonl").read_text().splitlines()]
    assert rows == ["b.png", "d.png", "a.png"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p.jsonl"]
    with pytest.raises(FileExistsError, match=r"p\.jsonl"):
        start()
    outcomes = predict_folder(tiny_model, [tmp_path / "in" / "b.png", tmp_path / "in" / "c.png"])
    assert (outcomes.part, [len(poses) for _, poses, _ in outcomes]) == (None, [1, 1])


def test_two_runs_do_not_share_an_output(tmp_path):
    pytest.importorskip("fcntl")
    with Results(tmp_path / "p.json", {}) as first:
        first.add("a.jpg", poses_of(), STAMP)
        with pytest.raises(BlockingIOError, match=r"p\.json\.part"):
            Results(tmp_path / "p.json", {})
        first.add("b.jpg", poses_of(), STAMP)
    with Results(tmp_path / "p.json", {}) as second:
        assert list(second.done) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError("9 GB"), "does not fit into memory: 9 GB"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "does not fit into memory",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB."), "does not fit into memory: CUDA"),
    ],
)
def test_a_photo_that_does_not_fit_into_memory_fails_alone(tmp_path, photo, error, reason):
    for name in ("a.jpg", "b.jpg"):
        photo.save(tmp_path / name)
    raised = [error]

    def predict(image, boxes):
        if raised:
            raise raised.pop()
        return poses_of()

    (_, none, problem), (_, poses, nothing) = predict_photos(find_photos([tmp_path]), predict)
    assert (none, nothing) == (None, None)
    assert f"{tmp_path / 'a.jpg'} {reason}" in problem
    assert len(poses) == 1


def test_an_error_that_every_photo_would_meet_ends_the_run(tmp_path, photo):
    photo.save(tmp_path / "a.jpg")

    def predict(image, boxes):
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side"):
        list(predict_photos(find_photos([tmp_path]), predict))


def test_keypoints_that_are_no_numbers_are_a_failure_and_not_in_the_output(tmp_path, photo):
    photo.save(tmp_path / "a.jpg")
    broken = Poses(torch.full((1, 14, 2), torch.nan), torch.ones(1, 14), torch.ones(1, 4), LSP)
    ((_, poses, problem),) = predict_photos(find_photos([tmp_path]), lambda image, boxes: broken)
    assert poses is None
    assert "a.jpg: the model's keypoints or scores are not finite numbers" in problem


def test_photos_are_found_in_order_without_following_links_to_folders(tmp_path, photo):
    names = [
        "a b.jpg",
        "a/b/c.JPG",
        "a/b.gif",
        "a.png",
        "a/é.webp",
        "b.tiff",
        "z/a.bmp",
        ".hidden/x.jpg",
        "a.jpg/1.png",
    ]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "o.jpg").touch()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "link.jpg").symlink_to(tmp_path / "out" / "o.jpg")
    (tmp_path / "in" / "dead.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "in" / "dotless").touch()
    os.mkfifo(tmp_path / "in" / "pipe.jpg")
    photos = find_photos([tmp_path / "in"])
    assert [photo.name for photo in photos] == [
        path.relative_to(tmp_path / "in").as_posix()
        for path in sorted(tmp_path / "in" / name for name in [*names, "link.jpg", "dead.jpg"])
    ]
    assert all(photo.path == tmp_path / "in" / photo.name for photo in photos)
    assert [photo.name for photo in find_photos([tmp_path / "in"], leave_out=tmp_path / "in" / "a")] == [
        photo.name for photo in photos if not photo.name.startswith("a/")
    ]
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match=r"/bare .*\.avif, \.bmp"):
        find_photos([tmp_path / "bare"])
    with pytest.raises(FileNotFoundError, match="x" * 5000):
        find_photos(["x" * 5000])


def test_files_that_macos_keeps_beside_photos_are_no_photos(tmp_path, photo):
    for name in ("a.jpg", "b.jfif", "c.jpe", "d.avif"):
        (tmp_path / name).touch()
        (tmp_path / f"._{name}").write_bytes(b"\0\5\x16\7")
    assert [one.name for one in find_photos([tmp_path])] == ["a.jpg", "b.jfif", "c.jpe", "d.avif"]


def test_boxes_are_those_of_the_path_that_was_given(tmp_path, photo, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    photo.save("sub/a.jpg")
    boxes = {"a.jpg": [[0.0, 0.0, 10.0, 10.0]], "sub/a.jpg": [[5.0, 5.0, 20.0, 20.0]]}
    received = []
    list(
        predict_photos(
            find_photos(["sub/a.jpg"]), lambda image, boxes: received.append(boxes) or poses_of(), boxes=boxes
        )
    )
    assert received == [boxes["sub/a.jpg"]]


def test_a_picture_whose_name_is_too_long_fails_alone(tmp_path, photo):
    """The longest name, of a photo beside one that differs in its ending, has no room for a second ending."""
    (tmp_path / "in").mkdir()
    for name in (f"{'a' * 251}.jpg", f"{'a' * 251}.png", "b.jpg"):
        photo.save(tmp_path / "in" / name)
    photos = find_photos([tmp_path / "in"])
    paths = picture_paths(photos, tmp_path / "drawn")
    problems = [problem for _, _, problem in predict_photos(photos, lambda image, boxes: poses_of(), pictures=paths)]
    assert [problem is None for problem in problems] == [True, False, True]
    assert "cannot be written: File name too long" in problems[1]
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [f"{'a' * 251}.jpg", "b.jpg"]


def test_folders_as_deep_as_a_system_allows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):  # deeper than Python recurses
        Path("d").mkdir()
        os.chdir("d")
    Path("a.jpg").touch()
    os.chdir(tmp_path)
    try:
        (only,) = find_photos(["d"])
        assert only.name == "d/" * 1199 + "a.jpg"
    finally:
        subprocess.run(["rm", "-r", "d"], check=True)  # pytest would do it by recursion


def test_pictures_never_replace_photos_however_those_are_reached(tmp_path, photo, tiny_model):
    (tmp_path / "real").mkdir()
    photo.save(tmp_path / "real" / "a.jpg")
    before = (tmp_path / "real" / "a.jpg").read_bytes()
    (tmp_path / "way").symlink_to("real")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.jpg").symlink_to("../real/a.jpg")
    for source, folder in (
        ("real", "way"), ("way", "real"), ("links", "real"), ("real", "real/../real"), ("real", "."),
        ("real/a.jpg", "real"), ("links/a.jpg", "real"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"pictures .*{folder}"):
            predict_folder(tiny_model, tmp_path / source, pictures=tmp_path / folder)
    with pytest.raises(ValueError, match=r"real/a\.jpg"):  # without the folder's check, too
        picture_paths([Photo(tmp_path / "links", "a.jpg")], tmp_path / "real")
    (tmp_path / "link.json").symlink_to("real/a.jpg")
    with pytest.raises(ValueError, match=r"out .*link\.json"):
        predict_folder(tiny_model, tmp_path / "real", out=tmp_path / "link.json", overwrite=True)
    assert (tmp_path / "real" / "a.jpg").read_bytes() == before


def test_an_image_cut_while_it_is_open_fails_alone(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (photo,) = find_photos([tmp_path / "a.png"])
    assert (photo.folder, photo.name) == (tmp_path, "a.png")
    (tmp_path / "a.png").unlink()
    ((_, poses, problem),) = predict_photos([photo], lambda image, boxes: poses_of())
    assert poses is None
    assert "No image" in problem


def test_every_photo_has_a_picture_of_its_own(tmp_path):
    names = ("a.png.bmp", "a.jpg", "a.png", "a.gif")
    paths = picture_paths([Photo(tmp_path, name) for name in names], tmp_path / "drawn")
    assert len(set(paths.values())) == len(names)


@pytest.mark.parametrize("name", ["boxes.json", "boxes.csv"])
def test_a_photo_s_path_in_a_boxes_file_may_be_spelt_otherwise(name, tmp_path):
    text = {"boxes.json": '{"./p//a.jpg": [[1, 2, 3, 4]]}', "boxes.csv": "image,x0,y0,x1,y1\n./p//a.jpg,1,2,3,4\n"}
    (tmp_path / name).write_text(text[name])
    assert read_boxes(tmp_path / name) == {"p/a.jpg": [[1, 2, 3, 4]]}


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.json", '{"a.jpg": [[1, 2, 3, 4]], "a.jpg": []}', "'a.jpg' .*twice"),
        ("a.json", '{"a.jpg": [], "./a.jpg": []}', r"'\./a.jpg' .*twice"),
        ("a.json", '{"a.jpg": {}}', r"\['a.jpg'\] .*list.* {}"),
        ("a.json", '{"a.jpg": ""}', r"\['a.jpg'\] .*list.* ''"),
        ("a.json", '{"a.jpg": ["1999"]}', r"\['a.jpg'\]\[0\] .*list.* '1999'"),
        ("a.json", '{"a.jpg": [["1", 9, 9, 9]]}', r"\['a.jpg'\]\[0\]\[0\] .*number.* '1'"),
        ("a.json", '{"a.jpg": [[true, 9, 9, 9]]}', r"\['a.jpg'\]\[0\]\[0\] .*number.* True"),
        ("a.json", '{"a.jpg": [[1, 2, 3]]}', r"\['a.jpg'\]\[0\] .* 4 "),
        ("a.json", '{"a.jpg": [[1, 2, 3, 4, 5]]}', r"\['a.jpg'\]\[0\] .* 4 "),
        ("a.csv", "a.jpg,1,2,3,4\n", "first line .*image, x0, y0, x1, y1"),
        ("a.csv", "", "first line .*image"),
        ("a.csv", "image,x0,y0,x1,y1\na.jpg,1,2,3,4\nb.jpg,1,2\n", "line 3 .*four.*'b.jpg'"),
        ("a.csv", "image,x0,y0,x1,y1\na.jpg,1,2,3,four\n", "line 2 .*four.*'four'"),
    ],
)
def test_mistakes_in_a_boxes_file_lose_nobody(name, text, match, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} .*{match}"):
        read_boxes(tmp_path / name)


def test_what_went_wrong_names_the_photo_s_path(tmp_path, photo):
    photo.save(tmp_path / "0.png")

    def predict(image, boxes):
        raise ValueError("Box 0.png lies outside.")

    ((_, _, problem),) = predict_photos(find_photos([tmp_path]), predict)
    assert problem == f"{tmp_path / '0.png'}: Box 0.png lies outside."


def test_a_picture_replaces_no_file_but_an_earlier_picture(tmp_path, photo, tiny_model):
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/a.jpg"):
        photo.save(tmp_path / "photos" / name)
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "a.jpg").write_bytes(before := (tmp_path / "photos" / "a.jpg").read_bytes())
    (tmp_path / "way").mkdir()
    (tmp_path / "way" / "a.jpg").symlink_to(tmp_path / "others" / "a.jpg")
    for folder in ("others", "way"):
        with pytest.raises(ValueError, match=rf"{folder}/a\.jpg"):
            predict_folder(tiny_model, tmp_path / "photos" / "sub", pictures=tmp_path / folder, overwrite=True)
    assert (tmp_path / "others" / "a.jpg").read_bytes() == before
    for _ in range(2):
        ((_, _, problem),) = predict_folder(
            tiny_model, tmp_path / "photos" / "sub", pictures=str(tmp_path / "drawn"), flip_test=True
        )
        assert problem is None
    drawn = (tmp_path / "drawn" / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").symlink_to(tmp_path / "drawn" / "a.jpg")
    for source in ("drawn/a.jpg", "a.jpg"):  # a photo that is one of these pictures
        with pytest.raises(ValueError, match=r"pictures .*drawn"):
            predict_folder(tiny_model, tmp_path / source, pictures=tmp_path / "drawn")
    assert (tmp_path / "drawn" / "a.jpg").read_bytes() == drawn
    with pytest.raises(ValueError, match=r"pictures .*a\.jpg.* folder"):
        predict_folder(tiny_model, tmp_path / "photos", pictures=tmp_path / "photos" / "a.jpg")


def test_a_photo_that_was_replaced_is_done_again(tmp_path, photo):
    """And one that fails now has no poses, though the file before it had."""
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        photo.save(tmp_path / name)
    photos = find_photos([tmp_path])
    out = tmp_path / "out" / "p.json"
    with Results(out, {}) as results:
        assert len(list(predict_photos(photos, lambda *arguments: poses_of(), results=results))) == 3
    photo.resize((99, 99)).save(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").write_text("no photo")
    with Results(out, {}) as results:
        assert [is_done(one, results, None) for one in photos] == [True, False, False]
        outcomes = list(predict_photos(photos, lambda *arguments: poses_of(), results=results))
        assert [(outcome.photo.name, outcome.problem is None) for outcome in outcomes] == [
            ("b.jpg", True), ("c.jpg", False)
        ]  # fmt: skip
        results.finish([one.name for one in photos])
    rows = json.loads(out.read_text())
    assert [row["image"] for row in rows] == ["a.jpg", "b.jpg"]
    assert set(rows[0]) == {"image", "keypoint_names", "people"}


def test_poses_of_photos_that_are_gone_stay_in_the_output(tmp_path):
    with Results(tmp_path / "p.jsonl", {}) as results:
        for name in ("gone.jpg", "here.jpg"):
            results.add(name, poses_of(), STAMP)
        results.finish(["here.jpg"])
    rows = [json.loads(line)["image"] for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert rows == ["here.jpg", "gone.jpg"]


def test_a_link_to_itself_counts_as_a_file_and_a_photo_named_twice_once(tmp_path, photo):
    photo.save(tmp_path / "a.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    assert [one.name for one in find_photos([tmp_path, tmp_path / "a.jpg"])] == ["a.jpg", "loop.jpg"]


def test_a_picture_that_the_disk_cuts_short_is_an_error(tmp_path, photo, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    photo.save(tmp_path / "a.jpg")
    photos = find_photos([tmp_path])
    paths = picture_paths(photos, tmp_path / "drawn")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        list(predict_photos(photos, lambda *arguments: poses_of(), pictures=paths))
    assert not list((tmp_path / "drawn").iterdir())
