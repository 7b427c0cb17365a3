import csv
import json
import shutil
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from made_data import mpii_rect, write_coco, write_images, write_release
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import softgate_pose
from softgate_pose import LSP, create_model, list_models, list_pretrained, predict, save_pretrained, zoo
from softgate_pose.cli import main
from softgate_pose.cli import train as cli_train
from softgate_pose.cli.options import DECODERS
from softgate_pose.pose.heatmaps import DecodeMethod
from softgate_pose.weights.record import read_training


@pytest.fixture
def model_name(tiny_model, tmp_path):
    return f"local-dir:{save_pretrained(tiny_model, tmp_path / 'model')}"


@pytest.fixture
def photos(tmp_path, photo):
    """A folder with four good photos, one below another folder, and files that are no photos."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a.jpg", "b.png", "c.jpg", "more/a.jpg"):
        photo.save(folder / name)
    (folder / "notes.txt").write_text("not a photo")
    return folder


@pytest.fixture
def interrupted_third(monkeypatch):
    """Press Ctrl-C while the third photo is being predicted; the list grows with every photo."""
    original, calls = predict, []

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr("softgate_pose.folder.run.predict", counted)
    return calls


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def failing(*arguments):
    """Run what must end in an error message, never in a traceback."""
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.output


def test_list_prints_every_model_with_both_kinds_of_figures():
    output = run("list").output
    for name in list_models():
        entry = zoo.MODELS[name]
        (line,) = [line for line in output.splitlines() if line.startswith(name)]
        assert f"{entry.params / 1e6:.2f} M" in line
        assert f"{entry.macs / 1e9:.2f} G" in line
        assert (entry.paper_pckh or "-") in line
        for full in list_pretrained(name):
            assert full.split(".")[1] in line
    assert "reported in the paper" in output
    assert "never of ours" in output


def test_list_filters():
    lines = run("list", "*_4s").output.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("sgpose")] == ["sgpose_small_4s", "sgpose_wide_4s"]
    assert "'resnet*'" in failing("list", "resnet*")


@pytest.mark.parametrize("name", [*list_models(), *list_pretrained()])
def test_info_of_every_model(name):
    result = run("info", name)
    assert result.exit_code == 0
    assert "parameters" in result.output
    for full in list_pretrained(name):
        assert zoo.get_pretrained(full).sha256 in result.output


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m softgate_pose list | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert result.stderr == ""
    assert "counted here" in result.stdout


def test_info_of_unknown_models():
    assert "'sgpose_wide_4s'" in failing("info", "sgpose_wide_5s")
    assert "sgpose_0m5_1s.none" in failing("info", "sgpose_0m5_1s.none")


def test_help_of_every_command():
    for command in main.commands:
        result = run(command, "--help")
        assert result.exit_code == 0
        assert main.commands[command].help


def test_one_photo_is_printed(model_name, photos):
    result = run("predict", photos / "a.jpg", "--model", model_name)
    assert result.exit_code == 0
    assert "a.jpg, person 0" in result.output
    assert result.output.count("score") == 14


def read_output(file):
    if file.suffix == ".csv":
        with file.open() as stream:
            return {row["image"] for row in csv.DictReader(stream)}
    text = file.read_text()
    rows = json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    return {row["image"] for row in rows}


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv"])
def test_a_folder_goes_to_one_file_and_pictures(model_name, photos, tmp_path, suffix):
    out, pictures = tmp_path / "results" / f"poses.{suffix}", tmp_path / "pictures"
    result = run("predict", photos, "--model", model_name, "--out", out, "--pictures", pictures, "--flip-test")
    assert result.exit_code == 0, result.output
    assert read_output(out) == {"a.jpg", "b.png", "c.jpg", "more/a.jpg"}
    drawn = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.jpg"))
    assert drawn == ["a.jpg", "b.jpg", "c.jpg", "more/a.jpg"]
    with Image.open(pictures / "b.jpg") as picture:
        assert picture.size == (90, 70)
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name]  # nothing left over


def test_json_holds_the_library_call_s_poses(model_name, photos, tmp_path):
    from softgate_pose import create_model, predict

    run("predict", photos / "a.jpg", "--model", model_name, "--out", tmp_path / "p.json", "--decode", "quarter")
    (row,) = json.loads((tmp_path / "p.json").read_text())
    expected = predict(create_model(model_name, channels_last=True), photos / "a.jpg", decode="quarter").to_dict()
    assert row == {"image": "a.jpg", **expected}


def test_pictures_of_photos_that_differ_in_their_ending_only(model_name, photos, photo, tmp_path):
    photo.save(photos / "a.png")
    result = run("predict", photos, "--model", model_name, "--pictures", tmp_path / "pictures")
    assert result.exit_code == 0
    assert len(list((tmp_path / "pictures").rglob("*.jpg"))) == 5


def test_pictures_never_replace_photos(model_name, photos):
    before = {path: path.read_bytes() for path in photos.rglob("*.jpg")}
    assert f"{photos}" in failing("predict", photos, "--model", model_name, "--pictures", photos)
    one = next(iter(before))
    assert f"{one.parent}" in failing("predict", one, "--model", model_name, "--pictures", one.parent)
    boxes = photos.parent / "boxes.json"
    boxes.write_text(json.dumps({one.name: []}))
    command = ("predict", one, "--model", model_name, "--boxes", boxes)
    assert "boxes.json" in failing(*command, "--out", boxes, "--overwrite")
    assert json.loads(boxes.read_text()) == {one.name: []}
    assert {path: path.read_bytes() for path in photos.rglob("*.jpg")} == before


def test_pictures_that_are_missing_are_drawn_when_a_run_goes_on(model_name, photos, tmp_path, interrupted_third):
    command = ("predict", photos, "--model", model_name, "--out", tmp_path / "p.json")
    assert run(*command).exit_code == 130
    assert run(*command, "--pictures", tmp_path / "pictures").exit_code == 0
    assert len(list((tmp_path / "pictures").rglob("*.jpg"))) == 4
    assert [row["image"] for row in json.loads((tmp_path / "p.json").read_text())] == [
        "a.jpg", "b.png", "c.jpg", "more/a.jpg",
    ]  # fmt: skip


def test_bad_photos_are_passed_over_and_listed(model_name, photos, tmp_path):
    (photos / "empty.jpg").touch()
    (photos / "torn.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    (photos / "fake.png").write_text("no picture")
    result = run("predict", photos, "--model", model_name, "--out", tmp_path / "p.jsonl")
    assert result.exit_code == 1
    assert "3 of 7 photos failed" in result.output
    for name in ("empty.jpg", "torn.jpg", "fake.png"):
        assert name in result.output
    assert read_output(tmp_path / "p.jsonl") == {"a.jpg", "b.png", "c.jpg", "more/a.jpg"}


@pytest.mark.parametrize("suffix", ["json", "csv"])
@pytest.mark.parametrize("torn", [False, True])
def test_an_interrupted_run_goes_on(model_name, photos, tmp_path, interrupted_third, suffix, torn):
    whole, out = tmp_path / f"whole.{suffix}", tmp_path / f"poses.{suffix}"
    (photos / "c.jpg").rename(photos / "b.jpg")  # its picture and b.png's must not be one
    command = ("predict", photos, "--model", model_name, "--out", out, "--pictures", tmp_path / "pictures")
    first = run(*command)
    assert first.exit_code == 130
    assert "again" in first.output
    assert not out.exists()
    part = out.with_name(out.name + ".part")
    if torn:  # killed while writing the second photo's line
        part.write_bytes(part.read_bytes()[:-20])
    second = run(*command)
    assert second.exit_code == 0
    assert f"Going on: {1 if torn else 2} of 4 photos are done" in second.output
    assert len(interrupted_third) == 3 + (3 if torn else 2)  # what was done is not done again
    run("predict", photos, "--model", model_name, "--out", whole)
    assert out.read_bytes() == whole.read_bytes()
    assert not part.exists()
    assert len(list((tmp_path / "pictures").rglob("*.jpg"))) == 4


def test_a_run_with_other_settings_does_not_mix(model_name, photos, tmp_path):
    part = tmp_path / "p.json.part"
    part.write_text('{"settings": {"model": "another"}}\n')
    message = failing("predict", photos, "--model", model_name, "--out", tmp_path / "p.json")
    assert "other settings" in message
    assert part.exists()
    for content in ("garbage\n", "5\n", "null\n", "{}\n"):
        part.write_text(content)
        assert part.name in failing("predict", photos, "--model", model_name, "--out", tmp_path / "p.json")


def test_a_run_does_not_go_on_with_photos_of_another_folder(model_name, photos, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("softgate_pose.folder.run.predict", interrupted)
        assert run("predict", photos, "--model", model_name, "--out", tmp_path / "p.json").exit_code == 130
    message = failing("predict", photos / "more", "--model", model_name, "--out", tmp_path / "p.json")
    assert "other settings" in message


def test_a_run_does_not_go_on_with_other_weights_of_the_same_name(
    tiny_model, model_name, photos, tmp_path, interrupted_third
):
    command = ("predict", photos, "--model", model_name, "--out", tmp_path / "p.json")
    assert run(*command).exit_code == 130
    with torch.no_grad():
        next(tiny_model.parameters()).mul_(2)
    save_pretrained(tiny_model, tmp_path / "model")
    assert "other settings" in failing(*command)


def test_an_output_is_not_overwritten_unasked(model_name, photos, tmp_path):
    out = tmp_path / "p.json"
    out.write_text("precious")
    command = ("predict", photos / "a.jpg", "--model", model_name, "--out", out)
    assert f"{out}" in failing(*command)
    assert out.read_text() == "precious"
    assert run(*command, "--overwrite").exit_code == 0
    assert read_output(out) == {"a.jpg"}


def test_outputs_that_cannot_be_written(model_name, photos, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for option, value in (("--out", tmp_path / "file" / "p.json"), ("--pictures", tmp_path / "file" / "pictures")):
        assert "file" in failing("predict", photos, "--model", model_name, option, value)
    (tmp_path / "folder.json").mkdir()
    assert "folder.json" in failing(
        "predict", photos, "--model", model_name, "--out", tmp_path / "folder.json", "--overwrite"
    )
    assert ".json, .jsonl, .csv" in failing("predict", photos, "--model", model_name, "--out", tmp_path / "p.xml")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_boxes_from_a_file(model_name, photos, tmp_path, suffix):
    boxes = tmp_path / f"boxes.{suffix}"
    if suffix == "json":
        boxes.write_text(json.dumps({"a.jpg": [[0, 0, 40, 60], [30, 5, 80, 69]], "b.png": []}))
    else:
        boxes.write_text("image,x0,y0,x1,y1\na.jpg,0,0,40,60\na.jpg,30,5,80,69\nb.png,0,0,50,50\n")
    result = run(
        "predict",
        photos / "a.jpg",
        photos / "b.png",
        "--model",
        model_name,
        "--boxes",
        boxes,
        "--out",
        tmp_path / "p.json",
    )
    assert result.exit_code == 0, result.output
    rows = {row["image"]: row["people"] for row in json.loads((tmp_path / "p.json").read_text())}
    assert [person["box"] for person in rows["a.jpg"]] == [[0, 0, 40, 60], [30, 5, 80, 69]]
    assert len(rows["b.png"]) == (0 if suffix == "json" else 1)


def test_a_photo_that_the_boxes_file_lacks_or_has_wrong_fails_alone(model_name, photos, tmp_path):
    (tmp_path / "boxes.json").write_text(json.dumps({"a.jpg": [[0, 0, 40, 60]], "b.png": [[500, 500, 600, 600]]}))
    result = run(
        "predict", photos / "a.jpg", photos / "b.png", photos / "c.jpg",
        "--model", model_name, "--boxes", tmp_path / "boxes.json", "--out", tmp_path / "p.json",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "2 of 3 photos failed" in result.output
    assert "'c.jpg'" in result.output
    assert "b.png: Box 0" in result.output
    assert read_output(tmp_path / "p.json") == {"a.jpg"}


def test_a_bare_name_in_the_boxes_file_means_one_photo_only(model_name, photos, tmp_path):
    boxes, out = tmp_path / "boxes.json", tmp_path / "p.json"
    boxes.write_text(json.dumps({"a.jpg": [[1, 2, 30, 31]], "b.png": [], "c.jpg": []}))
    result = run("predict", photos, "--model", model_name, "--boxes", boxes, "--out", out)
    assert result.exit_code == 1
    assert "'more/a.jpg'" in result.output
    assert read_output(out) == {"a.jpg", "b.png", "c.jpg"}


def test_pictures_below_the_photos_are_no_photos(model_name, photos, tmp_path):
    command = ("predict", photos, "--model", model_name, "--pictures", photos / "drawn", "--overwrite")
    for name in ("p.json", "q.json"):
        assert run(*command, "--out", tmp_path / name).exit_code == 0
        assert read_output(tmp_path / name) == {"a.jpg", "b.png", "c.jpg", "more/a.jpg"}


def test_a_photo_too_long_for_a_picture_fails_alone(model_name, photos, tmp_path):
    Image.new("L", (66000, 10)).save(photos / "wide.png")
    result = run("predict", photos, "--model", model_name, "--pictures", tmp_path / "pictures")
    assert result.exit_code == 1
    assert "1 of 5 photos failed" in result.output
    assert "wide.png" in result.output


def test_a_folder_called_as_a_picture_would_be(model_name, photos, photo, tmp_path):
    (photos / "x.jpg").mkdir()
    photo.save(photos / "x.jpg" / "1.png")
    photo.save(photos / "x.png")
    assert run("predict", photos, "--model", model_name, "--pictures", tmp_path / "pictures").exit_code == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("boxes.json", '{"a.jpg": [[0, 0, ' + "9" * 400 + ", 1]]}"),
        ("boxes.json", "[1, 2]"),
        ("boxes.json", "{"),
        ("boxes.json", '{"a.jpg": 5}'),
        ("boxes.json", '{"a.jpg": [["x", 0, 1, 1]]}'),
        ("boxes.json", '{"a.jpg": [[0, 0, 1]]}'),
        ("boxes.csv", "image,left\na.jpg,3\n"),
        ("boxes.csv", "image,x0,y0,x1,y1\na.jpg,1,2,3\n"),
        ("boxes.json", b"\xff\xfe\x00"),
        ("boxes.json", "[" * 100_000),
    ],
)
def test_broken_boxes_files(model_name, photos, tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert name in failing("predict", photos, "--model", model_name, "--boxes", file)


def test_photos_and_folders_that_are_not_there(model_name, tmp_path, photos):
    assert "nothing.jpg" in failing("predict", tmp_path / "nothing.jpg", "--model", model_name)
    (tmp_path / "bare").mkdir()
    assert ".avif, .bmp" in failing("predict", tmp_path / "bare", "--model", model_name)
    twice = failing("predict", photos / "a.jpg", photos / "more" / "a.jpg", "--model", model_name)
    assert "'a.jpg'" in twice
    assert "no.json" in failing("predict", photos, "--model", model_name, "--boxes", tmp_path / "no.json")
    assert "PHOTOS" in failing("predict")


def test_models_and_devices_that_are_not_there(photos, model_name, tmp_path, unpublished):
    assert "'sgpose_huge'" in failing("predict", photos, "--model", "sgpose_huge")
    assert unpublished in failing("predict", photos, "--model", unpublished)
    assert "--checkpoint needs --model" in failing("predict", photos, "--checkpoint", tmp_path / "x.safetensors")
    assert "x.safetensors" in failing(
        "predict", photos, "--model", "sgpose_0m5_1s", "--checkpoint", tmp_path / "x.safetensors"
    )
    assert "--device tpu9" in failing("predict", photos, "--model", model_name, "--device", "tpu9")


@pytest.mark.skipif(not list_pretrained(), reason="no weights are bundled yet")
def test_the_default_model_is_the_first_with_weights(photos):
    result = run("predict", photos / "a.jpg")
    assert result.exit_code == 0, result.output
    assert result.output.count("score") == 16


def test_training_evaluating_and_using_the_result(tmp_path, photo, unpublished, monkeypatch):
    folder, row = tmp_path / "people", {"category_id": 1, "bbox": [5, 5, 55, 55]}
    points = np.insert(np.random.default_rng(0).uniform(5, 60, (6, 14, 2)), 2, 2, axis=2)
    data = {
        "categories": [{"id": 1, "keypoints": list(LSP.keypoints)}],
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(6)],
        "annotations": [row | {"image_id": i, "keypoints": person.ravel().tolist()} for i, person in enumerate(points)],
    }
    source = write_coco(folder, data)
    for i in range(6):
        photo.save(folder / "train" / f"{i}.jpg")
    out = tmp_path / "run"
    arguments = ["train", "sgpose_0m5_1s", "--data", source, "--out", str(out), "--size", "64", "--epochs", "1"]
    arguments += ["--batch-size", "2", "--hold-out", "0.2", "--test", source, "--licence", "CC0-1.0"]
    monkeypatch.setattr(sys, "argv", ["softgate-pose", *arguments])
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    training = json.loads((out / "model" / "training.json").read_text())
    assert training["data"] == ["people train, 4 people"]
    assert training["command"].startswith("softgate-pose train sgpose_0m5_1s --data")
    assert [row["flip_test"] for row in training["metrics"]] == [False, True]
    assert training["baseline"][0]["people"] == 6
    for how, row in zip(("without flip test", "with flip test"), training["metrics"], strict=True):
        assert (
            f"people train (4 of 6 people trained on), PCK@0.2 of 6 people, {how}:\n  head {row['head']:.1f}  "
            in result.output
        )
    assert f"the mean training pose:\n  head {training['baseline'][0]['head']:.1f}  " in result.output

    name = f"local-dir:{out / 'model'}"
    result = run("evaluate", "--model", name, "--data", source, "--json", tmp_path / "table.json")
    assert result.exit_code == 0, result.output
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["protocol"] == "PCK@0.2"
    assert table["people"] == 6
    assert table["mean"] == pytest.approx(training["metrics"][0]["mean"], abs=2)  # fp16 against fp32
    assert run("evaluate", "--data", source, "--mean-pose", source).exit_code == 0
    assert run("predict", folder / "train" / "1.jpg", "--model", name).exit_code == 0

    # what is trained further is another run, and does not replace what it starts from
    assert f"--out {out}: " in failing("train", name, *arguments[2:])
    shutil.copytree(out / "model", tmp_path / "copy")
    assert "start" in failing("train", f"local-dir:{tmp_path / 'copy'}", *arguments[2:])

    # go on from these weights, and be taught by them
    arguments[1], arguments[5] = name, str(tmp_path / "second")
    assert "--teacher-share" in failing(*arguments, "--teacher-share", "0.3")
    assert f"--teacher {unpublished}: " in failing(*arguments, "--teacher", unpublished)
    arguments += ["--teacher", name, "--teacher-share", "0.3"]
    arguments[arguments.index("--licence") + 1] = "CC-BY-4.0"
    monkeypatch.setattr(sys, "argv", ["softgate-pose", *arguments])
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    second = json.loads((tmp_path / "second" / "model" / "training.json").read_text())
    assert second["before"]["command"] == training["command"]
    assert second["data"] == ["people train, 4 people"]
    assert (second["teacher"]["name"], second["teacher"]["share"]) == (name, 0.3)
    with safe_open(tmp_path / "second" / "last.safetensors", framework="pt") as state:
        taught = json.loads(state.metadata()["run"])["teacher"]
    assert (taught["weights"], taught["share"]) == (second["teacher"]["weights"], 0.3)
    card = (tmp_path / "second" / "model" / "README.md").read_text()
    assert card.index(training["command"]) < card.index(second["command"])
    assert "whose share of a target is 0.3; it had learned from: people train, 4 people; " in card
    assert "its licence: CC0-1.0" in card
    assert "Weights: CC-BY-4.0." in card
    assert "The weights that training started from: CC0-1.0." in card

    # a larger model grows from them
    assert "--grow-from gives a model its first weights, but local-dir:" in failing(*arguments, "--grow-from", name)
    arguments[1], arguments[5] = "sgpose_1m0_2s", str(tmp_path / "grown")
    assert f"--grow-from {unpublished}: " in failing(*arguments, "--grow-from", unpublished)
    growing = [*arguments, "--grow-from", name]
    monkeypatch.setattr(sys, "argv", ["softgate-pose", *growing])
    result = run(*growing)
    assert result.exit_code == 0, result.output
    grown = json.loads((tmp_path / "grown" / "model" / "training.json").read_text())
    assert grown["before"]["command"] == training["command"]
    head = load_file(out / "model" / "model.safetensors")["heads.0.weight"]
    grown_head = load_file(tmp_path / "grown" / "model" / "model.safetensors")["heads.1.weight"]
    torch.testing.assert_close(grown_head, head, atol=0.02, rtol=0)  # after two steps

    # a bare name of bundled weights says as much of them as one with a tag
    arguments[1], arguments[5] = "sgpose_0m5_1s", str(tmp_path / "bundled")
    arguments[arguments.index("--teacher") + 1] = "sgpose_0m5_1s"
    result = run(*arguments, "--grow-from", "sgpose_0m5_1s")
    assert result.exit_code == 0, result.output
    training = json.loads((tmp_path / "bundled" / "model" / "training.json").read_text())
    known = read_training(zoo.get_pretrained("sgpose_0m5_1s"))
    assert training["before"]["data"] == known["data"]
    assert training["teacher"]["licence"] == known["licence"]
    assert training["teacher"]["data"]

    (tmp_path / "bare.safetensors").write_bytes((out / "model" / "model.safetensors").read_bytes())
    arguments[1], arguments[5] = "sgpose_0m5_1s", str(tmp_path / "third")  # from weights of unknown making
    assert run(*arguments, "--checkpoint", tmp_path / "bare.safetensors").exit_code == 0
    for content, problem in (
        ("{", "JSON"),
        ("[]", "[]"),
        ('{"data": null}', "data"),
    ):
        (tmp_path / "training.json").write_text(content)
        message = failing(*arguments, "--checkpoint", tmp_path / "bare.safetensors")
        assert f"{tmp_path / 'training.json'}" in message
        assert problem in message
    assert (
        "bare.safetensors, whose training is not recorded" in (tmp_path / "third" / "model" / "README.md").read_text()
    )
    assert "KIND:FOLDER:SPLIT" in failing("evaluate", "--model", name, "--data", "nonsense")
    twice = failing("evaluate", "--model", name, "--data", "lsp:a:test", "--data", "lsp:b:test")
    assert "lsp:a:test, lsp:b:test" in twice


@pytest.mark.parametrize("first", [True, False])
def test_of_several_processes_the_first_says_where_the_model_is(monkeypatch, first):
    monkeypatch.setattr("softgate_pose.training.run.train", lambda *arguments, **more: "FOLDER/model")
    monkeypatch.setattr("softgate_pose.training.run.is_main_process", lambda: first)
    result = run("train", "sgpose_0m5_1s", "--data", "lsp:data:train", "--out", "FOLDER")
    assert result.exit_code == 0, result.output
    assert ("Saved FOLDER/model" in result.output) == first


def test_training_that_is_interrupted_says_how_to_go_on_and_then_where(lsp_folder, tmp_path, monkeypatch):
    out = tmp_path / "run"
    arguments = ("--data", f"lsp:{lsp_folder[0]}:train", "--out", out, "--hold-out", "0", "--size", "64")
    arguments = ("train", "sgpose_0m5_1s", *arguments, "--epochs", "2", "--batch-size", "2")

    def interrupt(epoch):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cli_train, "_print_epoch", interrupt)
        result = run(*arguments)
    assert result.exit_code == 130
    assert f"Interrupted; {out} keeps" in result.output
    assert "again" in result.output
    again = run(*arguments)
    assert again.exit_code == 0, again.output
    assert "Going on after step 3 of 6." in again.output
    assert "epoch 1/2" not in again.output


def test_training_leaves_the_gates_of_weights_as_they_are(lsp_folder, tmp_path):
    model = create_model("sgpose_0m5_1s", gate="fixed", alpha_init=0.5, skeleton="lsp", input_size=(64, 64))
    name = f"local-dir:{save_pretrained(model, tmp_path / 'start')}"
    data = ("--data", f"lsp:{lsp_folder[0]}:train", "--out", str(tmp_path / "run"), "--hold-out", "0")
    result = run("train", name, *data, "--epochs", "1", "--batch-size", "2")
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert (config["gate"], config["alpha_init"]) == ("fixed", 0.5)  # the recipe's would be 1


def test_a_recipe_of_another_heatmap_goes_on_from_weights(lsp_folder, tmp_path):
    model = create_model("sgpose_0m5_1s", heatmap="softmax", skeleton="lsp", input_size=(64, 64))
    name = f"local-dir:{save_pretrained(model, tmp_path / 'start')}"
    settings = ("--size", "64", "--epochs", "2", "--batch-size", "2", "--set", "milestones=[1]", "--hold-out", "0")
    data = ("--recipe", "paper-lsp", "--data", f"lsp:{lsp_folder[0]}:train", *settings)
    result = run("train", name, *data, "--out", str(tmp_path / "run"))
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["heatmap"] == "softmax"
    asked = failing("train", name, *data, "--out", str(tmp_path / "other"), "--set", "heatmap=gaussian")
    assert "'softmax', not 'gaussian'" in asked
    bare = tmp_path / "bare.safetensors"  # tensors alone, of which the recipe has to say what they are
    save_file(load_file(tmp_path / "start" / "model.safetensors"), bare)
    result = run("train", "sgpose_0m5_1s", "--skeleton", "lsp", *data, "--checkpoint", bare, "--out", tmp_path / "bare")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "bare" / "model" / "config.json").read_text())["heatmap"] == "gaussian"


def test_the_installed_command_runs():
    result = subprocess.run([sys.executable, "-m", "softgate_pose", "--version"], capture_output=True, text=True)
    assert result.returncode == 0
    assert softgate_pose.__version__ in result.stdout


def test_what_computes_nothing_loads_no_torch():
    code = """
import sys, softgate_pose
from softgate_pose.cli import main
softgate_pose.list_models(), softgate_pose.list_pretrained(), softgate_pose.PoseConfig
for command in (["list"], ["info", "sgpose_0m5_1s.sports"], ["--help"], *([name, "--help"] for name in main.commands)):
    main(command, standalone_mode=False)
slow = ("torch", "timm", "torchvision", "scipy", "huggingface_hub", "matplotlib")
print([name for name in slow if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_decoders_to_choose_from_are_all_that_there_are():
    assert get_args(DecodeMethod) == DECODERS


def test_exporting_replaces_no_input(model_name, tmp_path):
    release = tmp_path / "mpii_human_pose_v1_u12_1.mat"
    write_release(release, ("a.jpg", mpii_rect()))
    write_images(tmp_path / "images", ["a.jpg"])
    (tmp_path / "link.onnx").symlink_to(release)
    before = release.read_bytes()
    command = ("export", model_name, tmp_path / "link.onnx", "--int8", f"mpii-mat:{tmp_path}:train")
    assert f"OUT {tmp_path / 'link.onnx'}: " in failing(*command)
    assert release.read_bytes() == before
