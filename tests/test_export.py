"""Exported models give what the originals give."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from made_data import mpii_row, write_images

from softgate_pose import create_model, deploy, export, predict, save_pretrained
from softgate_pose.cli import main
from softgate_pose.export import export_model, load_onnx
from softgate_pose.pose.heatmaps import decode_heatmaps

PIXELS = 0.01  # of the input: how far exported keypoints may be from the original's


def images_for(model, count):
    return torch.randn(
        count, model.config.in_chans, *model.config.input_size, generator=torch.Generator().manual_seed(0)
    )


def run(file, images):
    import onnxruntime

    return [torch.from_numpy(out) for out in onnxruntime.InferenceSession(file).run(None, {"images": images.numpy()})]


@pytest.mark.parametrize("name", ["sgpose_0m5_1s", "sgpose_1m0_2s"])
def test_models_export_to_torch_export(name, tmp_path):
    torch.manual_seed(0)
    model = create_model(name, input_size=(64, 64))
    file = export_model(model, tmp_path / "model.pt2")
    images = images_for(model, 3)  # exported with two
    with torch.inference_mode():
        torch.testing.assert_close(torch.export.load(file).module()(images), model(images), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", ["sgpose_0m5_1s", "sgpose_1m0_2s"])
def test_models_export_to_onnx(name, tmp_path):
    torch.manual_seed(0)
    model = create_model(name, input_size=(64, 64))
    exported = load_onnx(export_model(model, tmp_path / "model.onnx"), threads=1)
    assert exported.config == model.config
    images = images_for(model, 3)
    with torch.inference_mode():
        expected = model(images)
    torch.testing.assert_close(exported(images), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("method", "heatmap"),
    [("dark", "gaussian"), *((method, "softmax") for method in ("dark", "argmax", "quarter", "soft", "mass"))],
)
def test_decoding_inside_gives_keypoints_in_input_pixels(tiny_config, method, heatmap, tmp_path):
    from softgate_pose.model.softgate import SoftGatePose

    torch.manual_seed(0)
    model = SoftGatePose(tiny_config.replace(heatmap=heatmap, num_stacks=1, depth=1)).eval()
    file = export_model(model, tmp_path / "model.onnx", decode=method)
    images = images_for(model, 5)
    keypoints, scores = run(file, images)
    with torch.inference_mode():
        expected, expected_scores = decode_heatmaps(model(images), method)
    torch.testing.assert_close(keypoints, expected * 4 + 1.5, atol=PIXELS, rtol=0)
    torch.testing.assert_close(scores, expected_scores.clamp(0, 1), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", ["sgpose_0m5_1s.sports", "sgpose_1m9_2s.sports"])
def test_predicting_a_photo_with_an_exported_file_is_the_same_call_and_result(name, tmp_path):
    model = create_model(name)
    exported = load_onnx(export_model(model, tmp_path / "model.onnx"))
    boxes = [(11, 164, 86, 357), (296, 133, 407, 337)]
    for flip_test in (False, True):
        original = predict(model, "examples/photo.jpg", boxes, flip_test=flip_test)
        found = predict(exported, "examples/photo.jpg", boxes, flip_test=flip_test)
        torch.testing.assert_close(found.keypoints, original.keypoints, atol=PIXELS, rtol=0)
        torch.testing.assert_close(found.scores, original.scores, atol=1e-4, rtol=0)
        assert found.skeleton == original.skeleton


def test_8_bit_integers_are_close_to_the_model(tiny_model, tmp_path):
    images = images_for(tiny_model, 9)
    file = export_model(deploy(tiny_model), tmp_path / "model.onnx", calibration=images)
    exported = load_onnx(file, threads=1)
    assert exported.config == tiny_model.config
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    with torch.inference_mode():
        expected = tiny_model(images)
    difference = (exported(images) - expected).abs().max()
    assert 0 < difference < 0.1 * expected.max()  # not the same: it is 8 bits that compute


@pytest.mark.parametrize(("count", "expected"), [(3, [0, 1, 2]), (100, [i * 100 // 64 for i in range(64)])])
def test_calibration_sees_people_from_all_over_a_table(count, expected, monkeypatch):
    def crop(people, indices, config):
        assert list(indices) == expected
        return torch.zeros(len(indices), 3, 64, 64), None

    monkeypatch.setattr(export, "crop_people", crop)
    config = create_model("sgpose_0m5_1s", input_size=(64, 64)).config
    assert len(export.calibration_images(range(count), config)) == len(expected)


def test_exporting_leaves_the_model_and_a_failed_export_the_file(tiny_model, tmp_path, monkeypatch):
    before = {key: value.clone() for key, value in tiny_model.state_dict().items()}
    tiny_model.train()
    file = export_model(tiny_model, tmp_path / "model.onnx")
    assert tiny_model.training
    assert all(torch.equal(value, before[key]) for key, value in tiny_model.state_dict().items())
    written = file.read_bytes()

    def fail(*_, **__):
        raise RuntimeError("no export")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(RuntimeError, match="no export"):
        export_model(tiny_model, file)
    assert file.read_bytes() == written
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_what_cannot_be_exported_or_loaded_says_why(tiny_model, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"\.onnx or \.pt2, got 'model\.pt'"):
        export_model(tiny_model, tmp_path / "model.pt")
    for wrong in ({"file": "model.pt2"}, {"decode": "dark"}):
        arguments = {"file": "model.onnx", "calibration": torch.zeros(1, 3, 64, 48), **wrong}
        with pytest.raises(ValueError, match=r"\.onnx .*decode=None.* got 'model.*', decode="):
            export_model(tiny_model, tmp_path / arguments.pop("file"), **arguments)
    with pytest.raises(FileNotFoundError, match="none"):
        export_model(tiny_model, tmp_path / "none" / "model.onnx")
    with pytest.raises(IsADirectoryError, match=r"folder\.onnx"):
        export_model(tiny_model, (tmp_path / "folder.onnx").mkdir() or tmp_path / "folder.onnx")
    with pytest.raises(TypeError, match="got Sequential"):
        export_model(torch.nn.Sequential(tiny_model), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"method .*argmax"):
        export_model(tiny_model, tmp_path / "model.onnx", decode="best")
    for wrong, got in (
        (torch.zeros(1, 3, 64, 64), r"\(1, 3, 64, 64\)"),
        (torch.zeros(3, 64, 48), r"\(3, 64, 48\)"),
        (torch.zeros(0, 3, 64, 48), r"\(0, 3, 64, 48\)"),
        (torch.tensor(0.0), r"\(\)"),
        (torch.zeros(1, 3, 64, 48, dtype=torch.uint8), "torch.uint8"),
        (torch.full((1, 3, 64, 48), float("nan")), "finite"),
        (np.zeros((1, 3, 64, 48)), "ndarray"),
        (5, "int"),
    ):
        with pytest.raises(ValueError, match=rf"calibration .*\(N, 3, 64, 48\).*{got}"):
            export_model(tiny_model, tmp_path / "model.onnx", calibration=wrong)
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        load_onnx(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ValueError, match=r"text\.onnx"):
        load_onnx(tmp_path / "text.onnx")
    with pytest.raises(ValueError, match=r"keypoints and scores.*--decode"):
        load_onnx(export_model(tiny_model, tmp_path / "decoded.onnx", decode="dark"))
    exported = load_onnx(export_model(tiny_model, tmp_path / "model.onnx"))
    assert exported.deploy() is exported
    with pytest.raises(ValueError, match=r"\(B, 3, 64, 48\), got \(1, 3, 64, 64\)"):
        exported(torch.zeros(1, 3, 64, 64))
    with pytest.raises(TypeError, match="got OnnxPose"):
        export_model(exported, tmp_path / "again.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"softgate-pose\[export\]"):
        load_onnx(tmp_path / "model.onnx")


def test_the_command_exports_and_predict_takes_the_file(tiny_model, photo, tmp_path):
    save_pretrained(tiny_model, tmp_path / "model")
    photo.save(tmp_path / "photo.png")
    name, file = f"local-dir:{tmp_path / 'model'}", str(tmp_path / "model.onnx")
    runner = CliRunner()
    result = runner.invoke(main, ["export", name, file])
    assert result.exit_code == 0, result.output
    assert "images (B, 3, 64, 48)" in result.output
    outputs = [runner.invoke(main, ["predict", str(tmp_path / "photo.png"), "--model", m]) for m in (name, file)]
    assert [output.exit_code for output in outputs] == [0, 0]
    assert outputs[0].output == outputs[1].output
    rows = [mpii_row(), mpii_row(scale=0.3)]
    (tmp_path / "annot").mkdir()
    (tmp_path / "annot" / "train.json").write_text(json.dumps(rows))
    write_images(tmp_path / "images", ["a.jpg"])
    small = runner.invoke(main, ["export", name, str(tmp_path / "small.onnx"), "--int8", f"mpii:{tmp_path}:train"])
    assert small.exit_code == 0, small.output
    assert load_onnx(tmp_path / "small.onnx").config == tiny_model.config
    refused = runner.invoke(main, ["predict", str(tmp_path / "photo.png"), "--model", file, "--device", "cuda"])
    assert "runs as it is, on the CPU" in refused.output
    again = runner.invoke(main, ["export", file, str(tmp_path / "again.onnx")])
    assert isinstance(again.exception, SystemExit)
    assert "is an exported file; export the model" in again.output


def test_exporting_is_not_paid_for_by_those_who_do_not():
    code = "import sys, softgate_pose.export; print([name for name in sys.modules if name.startswith('onnx')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
