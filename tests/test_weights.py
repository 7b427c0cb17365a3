import hashlib
import json
import pickle
import re

import numpy as np
import pytest
import torch
from hub_server import assert_same_weights
from safetensors.torch import load_file, save_file

from softgate_pose import (
    COCO,
    LSP,
    MPII,
    PoseConfig,
    Skeleton,
    create_model,
    list_models,
    list_pretrained,
    save_pretrained,
    zoo,
)
from softgate_pose.factory import find_training
from softgate_pose.model.registry import NETWORKS, build
from softgate_pose.model.softgate import SoftGatePose
from softgate_pose.weights.files import find_checkpoint
from softgate_pose.weights.record import WEIGHTS_FILE, read_training


@pytest.fixture
def folder(tiny_model, tmp_path):
    return save_pretrained(tiny_model, tmp_path / "tiny")


def test_saving_and_loading_round_trips(tiny_model, folder):
    model = create_model(f"local-dir:{folder}")
    assert model.config == tiny_model.config
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        assert torch.equal(model(images), tiny_model(images))
    files = ["README.md", "config.json", "model.safetensors", "training.json"]
    assert sorted(file.name for file in folder.iterdir()) == files
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert f"SHA-256 of `model.safetensors`: `{digest}`" in (folder / "README.md").read_text()


@pytest.mark.parametrize("architecture", NETWORKS)
def test_every_architecture_is_saved_and_loaded_as_itself(architecture, tmp_path):
    config = PoseConfig(name="tiny", architecture=architecture, num_stacks=2, width=8, depth=2, input_size=(64, 48))
    model = build(config).eval()
    folder = save_pretrained(model, tmp_path / "model")
    loaded = create_model(f"local-dir:{folder}")
    assert type(loaded) is NETWORKS[architecture]
    assert loaded.config == config
    assert_same_weights(loaded, model)
    assert "of width 8" in (folder / "README.md").read_text("utf-8")
    other = next(name for name, entry in zoo.MODELS.items() if entry.config.architecture != architecture)
    with pytest.raises(RuntimeError, match=rf"architecture.*'{architecture}'"):
        create_model(other, checkpoint=folder)


def test_saving_again_leaves_nothing_of_the_first(tiny_model, tmp_path):
    save_pretrained(tiny_model, tmp_path, training={"licence": "X"})
    save_pretrained(tiny_model, tmp_path)
    assert json.loads((tmp_path / "training.json").read_text()) == {}


def test_a_header_of_any_length_is_safetensors(tmp_path):
    """The first bytes are the header's length, and may look like a pickle's."""
    file = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, file, metadata={"x": "y" * 555})
    assert file.read_bytes()[:2] == b"\x80\x02"
    assert find_checkpoint(file).config is None


def test_half_precision_halves_the_tensors(tiny_model, tmp_path):
    half = save_pretrained(tiny_model, tmp_path / "half", dtype=torch.float16) / WEIGHTS_FILE
    stored = load_file(half)
    assert all(value.dtype == torch.float16 for value in stored.values() if value.is_floating_point())
    assert stored["heads.0.weight"].nbytes * 2 == tiny_model.heads[0].weight.nbytes
    model = create_model(f"local-dir:{half.parent}")
    assert next(model.parameters()).dtype == torch.float32
    images = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        torch.testing.assert_close(model.outputs(images), tiny_model.outputs(images), atol=1e-2, rtol=0)


def test_a_value_too_large_for_half_precision_is_refused(tiny_model, tmp_path):
    tiny_model.stem[1].running_var[2] = 1e6
    with pytest.raises(ValueError, match=r"stem\.1\.running_var .*torch\.float16"):
        save_pretrained(tiny_model, tmp_path / "half", dtype=torch.float16)
    assert not (tmp_path / "half").exists()


def test_saving_where_nothing_can_be_written(tiny_model, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="file"):
        save_pretrained(tiny_model, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_folder_given_as_the_name_of_a_model_without_weights(tiny_config, folder):
    model = create_model(f"local-dir:{folder}", pretrained=False)
    assert model.config == tiny_config


def test_weights_are_saved_in_floating_point(tiny_model, tmp_path):
    for dtype in (torch.int8, torch.float8_e5m2):
        with pytest.raises(ValueError, match=rf"torch\.float16.*dtype.*{dtype}"):
            save_pretrained(tiny_model, tmp_path / "model", dtype=dtype)
    with pytest.raises(ValueError, match=r"stem\.0\.weight .*torch\.float8_e5m2"):
        save_pretrained(tiny_model.to(torch.float8_e5m2), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_command_whose_name_of_a_file_is_no_text_is_kept(tiny_model, tmp_path):
    training = {"command": "softgate-pose train --data coco:caf\udce9:people"}
    folder = save_pretrained(tiny_model, tmp_path / "model", training=training)
    assert json.loads((folder / "training.json").read_text()) == training
    assert r"coco:caf\udce9:people" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_broken_config_beside_the_weights_is_named(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json"):
        create_model(f"local-dir:{folder}")


TEACHER = {"name": "large", "weights": "1f", "share": 0.5, "data": ["a"], "licence": None}


@pytest.mark.parametrize(
    ("training", "match"),
    [
        ({"data": "300 people"}, r"data .*'300 people'"),
        ({"data": None}, r"data .*None"),
        ({"metrics": [1]}, r"metrics\[0\] .*1"),
        ({"licence": {"name": "MIT"}}, r"licence .*\{'name': 'MIT'\}"),
        ({"teacher": "large"}, r"teacher .*'large'"),
        ({"teacher": {"name": "large"}}, r"teacher\.weights"),
        ({"teacher": {**TEACHER, "data": "a"}}, r"teacher\.data .*'a'"),
        ({"before": None}, r"before .*None"),
        ({"metrics": [{"PCKh": np.float32(1.25)}]}, r"metrics .*JSON.*float32"),
        ({"metrics": [{"PCKh": float("nan")}]}, r"metrics .*JSON"),
        ({"license": "MIT"}, r"license .*licence"),
        ({"before": {"license": "MIT"}}, r"license .*licence"),
        ({"before": {"before": {"held_out": 4}}}, r"before\.before\.held_out .*4"),
        (["data"], r"training .*\['data'\]"),
    ],
)
def test_what_is_said_of_the_training_is_checked(training, match, tiny_model, tmp_path):
    with pytest.raises(ValueError, match=match):
        save_pretrained(tiny_model, tmp_path / "model", training=training)
    assert not (tmp_path / "model").exists()
    save_pretrained(tiny_model, tmp_path / "model", training={"before": {"teacher": TEACHER, "licence": None}})


def test_device_dtype_and_layout():
    model = create_model("sgpose_0m5_1s", dtype=torch.bfloat16, channels_last=True)
    weight = model.stem[0].weight
    assert weight.dtype == torch.bfloat16
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not model.training
    assert create_model("sgpose_wide_4s", device="meta").stem[0].weight.device.type == "meta"


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("sgpose_smal_4s", r"'sgpose_smal_4s'.*'sgpose_small_4s'.*list_models\(\)"),
        ("resnet50", r"'resnet50'.*list_models\(\)"),
        ("", r"''.*list_models\(\)"),
        ("./runs/v1.2/model", r"'\./runs/v1\.2/model'.*local-dir:\./runs/v1\.2/model"),
        ("owner/repo", r"'owner/repo'.*hf-hub:"),
        ("pyproject.toml", r"local-dir:pyproject\.toml"),
        (None, "name.*None"),
        ("sgpose_0m5_1s.nobody", r"'sgpose_0m5_1s\.nobody'.*'sgpose_0m5_1s\.sports'"),
    ],
)
def test_unknown_names(name, match):
    with pytest.raises(ValueError, match=match):
        create_model(name)


def test_unknown_settings():
    with pytest.raises(TypeError, match=r"widht.*width"):
        create_model("sgpose_0m5_1s", widht=32)


def test_weights_that_nobody_published_are_an_error_that_lists_those_that_exist(unpublished):
    with pytest.raises(ValueError, match=unpublished) as caught:
        create_model(unpublished, pretrained=True)
    for existing in list_pretrained():
        assert existing in str(caught.value)


def test_pretrained_and_checkpoint_exclude_each_other(folder):
    with pytest.raises(ValueError, match=r"pretrained.*checkpoint"):
        create_model("sgpose_0m5_1s", pretrained=True, checkpoint=folder)


SETTINGS = {"num_stacks": 2, "width": 8, "depth": 2}


@pytest.mark.parametrize("as_file", [True, False])
def test_a_checkpoint_brings_its_input_size_and_skeleton(tiny_model, folder, as_file):
    checkpoint = folder / WEIGHTS_FILE if as_file else folder
    model = create_model("sgpose_0m5_1s", checkpoint=checkpoint, **SETTINGS)
    assert model.config == tiny_model.config


def test_a_lone_file_carries_its_config(tiny_model, folder, tmp_path):
    lone = tmp_path / "best.safetensors"
    lone.write_bytes((folder / WEIGHTS_FILE).read_bytes())
    assert create_model("sgpose_0m5_1s", checkpoint=lone, **SETTINGS).config == tiny_model.config


def test_a_checkpoint_of_another_network_is_named(folder):
    with pytest.raises(RuntimeError, match=r"sgpose_0m5_1s.*tiny.*num_stacks.*2.*1"):
        create_model("sgpose_0m5_1s", checkpoint=folder)
    with pytest.raises(RuntimeError, match=r"num_stacks=2.*gate.*'channel'.*'scalar'"):
        create_model("sgpose_0m5_1s", checkpoint=folder, gate="scalar", **SETTINGS)
    with pytest.raises(RuntimeError, match=r"width.*8.*12"):
        create_model(f"local-dir:{folder}", width=12)
    with pytest.raises(RuntimeError, match=r"heatmap.*'softmax'.*'gaussian'"):
        create_model(f"local-dir:{folder}", heatmap="gaussian")


def test_weights_say_what_their_heatmaps_are(tiny_config, tmp_path):
    gaussian = SoftGatePose(tiny_config.replace(heatmap="gaussian"))
    folder = save_pretrained(gaussian, tmp_path / "gaussian")
    assert create_model("sgpose_0m5_1s", checkpoint=folder, **SETTINGS).config.heatmap == "gaussian"


def test_a_training_state_is_not_a_model(tiny_model, tmp_path):
    save_file({"model.x": torch.zeros(1)}, tmp_path / "last.safetensors", metadata={"epoch": "1", "run": "[]"})
    with pytest.raises(ValueError, match=r"last\.safetensors.*training run.*model"):
        create_model("sgpose_0m5_1s", checkpoint=tmp_path / "last.safetensors")


def test_a_file_without_config_must_fit_and_says_how(tiny_model, tmp_path):
    bare = tmp_path / "best.safetensors"
    save_file(tiny_model.state_dict(), bare)
    with pytest.raises(RuntimeError) as caught:
        create_model("sgpose_0m5_1s", checkpoint=bare, **SETTINGS)
    message = str(caught.value)
    assert "best.safetensors does not fit sgpose_0m5_1s with num_stacks=2" in message
    assert "5 tensors" in message
    assert "heads.0.bias: file (14,), model (16,)" in message or "heads.0.weight: file (14, 8, 1, 1)" in message
    assert "num_keypoints=14." in message
    model = create_model("sgpose_0m5_1s", checkpoint=bare, num_keypoints=14, **SETTINGS)
    assert torch.equal(model.heads[1].weight, tiny_model.heads[1].weight)


@pytest.mark.parametrize("change", ["missing", "unknown", "nan"])
def test_broken_weights_are_named(tiny_model, tmp_path, change):
    tensors = dict(tiny_model.state_dict())
    if change == "missing":
        del tensors["necks.0.0.weight"]
        match = r"1 tensor .*missing.*\(necks\.0\.0\.weight\)"
    elif change == "unknown":
        tensors["extra"] = torch.zeros(2)
        match = r"1 tensor .*\(extra\)"
    else:
        tensors["heads.0.bias"] = torch.tensor([0.0] * 13 + [torch.nan])
        match = r"1 tensor .*NaN.*\(heads\.0\.bias\)"
    save_file(tensors, tmp_path / "w.safetensors", metadata={"config": json.dumps(tiny_model.config.to_dict())})
    with pytest.raises(RuntimeError, match=match):
        create_model("sgpose_0m5_1s", checkpoint=tmp_path / "w.safetensors", **SETTINGS)


@pytest.mark.parametrize("name", ["model.pth", "model.bin", "model.safetensors"])
def test_a_pickle_is_refused_unopened(tmp_path, name):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle ran",))

    for number, content in enumerate((pickle.dumps(Bomb()), _torch_save(tmp_path))):
        file = tmp_path / str(number) / name
        file.parent.mkdir()
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"pickle.*safetensors"):
            create_model("sgpose_0m5_1s", checkpoint=file)


def _torch_save(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "x")
    return (tmp_path / "x").read_bytes()


@pytest.mark.parametrize("content", [b"", b"\x00", b"not weights at all", b"\xff" * 64, b"\x08\0\0\0\0\0\0\0{}      "])
def test_files_that_are_not_safetensors(tmp_path, content):
    file = tmp_path / "w.safetensors"
    file.write_bytes(content)
    with pytest.raises((ValueError, RuntimeError), match=r"w\.safetensors"):
        create_model("sgpose_0m5_1s", checkpoint=file)


@pytest.mark.parametrize("keep", [10, 200, 5000])
def test_a_truncated_file(folder, keep):
    file = folder / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        find_checkpoint(folder)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        create_model("sgpose_0m5_1s", checkpoint=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        create_model(f"local-dir:{tmp_path}")


def test_a_bare_file_needs_the_models_name(tiny_model, tmp_path):
    save_file(tiny_model.state_dict(), tmp_path / WEIGHTS_FILE)
    with pytest.raises(ValueError, match=r"local-dir:.*config.*checkpoint="):
        create_model(f"local-dir:{tmp_path}")


def test_another_skeleton_keeps_what_both_name(tiny_model, folder, caplog):
    """LSP to COCO: the twelve limbs are kept, COCO's face is new, LSP's head is dropped."""
    model = create_model(f"local-dir:{folder}", skeleton="coco")
    assert model.config.skeleton is COCO
    kept = [name for name in COCO.keypoints if name in LSP.keypoints]
    assert len(kept) == 12
    for name in kept:
        i, j = COCO.keypoints.index(name), LSP.keypoints.index(name)
        for stack in range(2):
            assert torch.equal(model.heads[stack].weight[i], tiny_model.heads[stack].weight[j])
            assert torch.equal(model.heads[stack].bias[i], tiny_model.heads[stack].bias[j])
        assert torch.equal(model.heatmap_joins[0].weight[:, i], tiny_model.heatmap_joins[0].weight[:, j])
    assert model.heatmap_joins[0].weight[:, COCO.keypoints.index("nose")].eq(0).all()
    assert torch.equal(model.heatmap_joins[0].bias, tiny_model.heatmap_joins[0].bias)
    assert "heads kept for 12 of 17 keypoints" in caplog.text
    assert "new and untrained: nose, left_eye" in caplog.text


@pytest.mark.parametrize("skeleton", ["coco", ["left_wrist", "nose", "right_ankle"], list(reversed(LSP.keypoints))])
def test_kept_keypoints_stay_where_they_were(skeleton, tiny_model, folder):
    """Also those of the last stack, which had heard of the dropped ones from the stack before."""
    images = torch.rand(2, 3, 48, 64)
    model = create_model(f"local-dir:{folder}", skeleton=skeleton)
    kept = [name for name in model.config.skeleton.keypoints if name in LSP.keypoints]
    with torch.no_grad():
        for found, known in zip(model.outputs(images), tiny_model.outputs(images), strict=True):
            assert known.std() > 0.01
            torch.testing.assert_close(
                found[:, model.config.skeleton.indices(kept)], known[:, LSP.indices(kept)], rtol=1e-4, atol=1e-5
            )


def test_weights_without_any_name_kept_show_new_heads_the_same_features(tiny_model, folder):
    model = create_model(f"local-dir:{folder}", num_keypoints=5)
    images, features = torch.rand(1, 3, 48, 64), []
    for network in (tiny_model, model):
        network.necks[-1].register_forward_hook(lambda module, inputs, output: features.append(output))
        with torch.no_grad():
            network(images)
    torch.testing.assert_close(features[1], features[0], rtol=1e-4, atol=1e-5)


def test_another_input_size_is_warned_of(folder, caplog):
    """It loads, and predicts worse: nothing else would say so."""
    create_model(f"local-dir:{folder}")
    assert not caplog.text
    assert create_model(f"local-dir:{folder}", input_size=(128, 96)).config.input_size == (128, 96)
    assert "trained at 64x48 px; at 128x96 px people are of another size" in caplog.text


def test_the_folder_of_a_run_says_where_its_model_is(folder):
    run = folder.rename(folder.parent / "run-model")
    (folder.parent / "run").mkdir()
    run.rename(folder.parent / "run" / "model")
    with pytest.raises(FileNotFoundError, match=r"run .*model\.safetensors.*run/model"):
        create_model(f"local-dir:{folder.parent / 'run'}")


def test_a_kept_keypoint_is_predicted_as_before(tiny_model, folder):
    """One stack only: with more, new heatmaps change nothing either, since their join starts at 0."""
    model = create_model(f"local-dir:{folder}", skeleton=["left_knee", "tail", "neck"])
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        new, old = model.outputs(images)[0], tiny_model.outputs(images)[0]
    torch.testing.assert_close(new[:, 0], old[:, LSP.keypoints.index("left_knee")])
    torch.testing.assert_close(new[:, 2], old[:, LSP.keypoints.index("neck")])


def test_a_known_number_of_keypoints_means_that_skeleton(folder, caplog):
    model = create_model(f"local-dir:{folder}", num_keypoints=16)
    assert model.config.skeleton is MPII
    assert "heads kept for 14 of 16 keypoints" in caplog.text
    assert "new and untrained: pelvis, thorax" in caplog.text
    assert create_model(f"local-dir:{folder}", num_keypoints=17).config.skeleton is COCO


def test_nothing_is_kept_between_skeletons_without_names(folder, tmp_path, caplog):
    five = save_pretrained(create_model(f"local-dir:{folder}", num_keypoints=5), tmp_path / "five")
    caplog.clear()
    create_model(f"local-dir:{five}", num_keypoints=7)
    assert "heads kept for 0 of 7" in caplog.text


def test_another_number_of_keypoints_makes_all_heads_new(folder, caplog):
    model = create_model(f"local-dir:{folder}", num_keypoints=5)
    assert model.config.skeleton.keypoints[0] == "keypoint_0"
    assert "heads kept for 0 of 5 keypoints; new and untrained: keypoint_0" in caplog.text
    assert create_model(f"local-dir:{folder}", num_keypoints=14).config.skeleton == LSP
    with pytest.raises(ValueError, match=r"num_keypoints=5.*'mpii'.*16"):
        create_model("sgpose_0m5_1s", num_keypoints=5, skeleton=MPII)


@pytest.mark.parametrize("skeleton", [Skeleton("one", ("nose",)), "lsp"])
def test_a_named_config_takes_a_skeleton(skeleton):
    assert create_model("sgpose_0m5_1s", skeleton=skeleton).heads[0].out_channels in (1, 14)


def test_channels_and_normalisation_are_set_together():
    config = create_model("sgpose_0m5_1s", in_chans=1, mean=(0.5,), std=[0.2]).config
    assert (config.in_chans, config.mean, config.std) == (1, (0.5,), (0.2,))


@pytest.mark.parametrize("name", list_models())
def test_every_name_builds_its_network(name):
    model = create_model(name, device="meta")
    assert model.config == zoo.MODELS[name].config
    assert sum(p.numel() for p in model.parameters()) == zoo.MODELS[name].params


@pytest.mark.parametrize("in_chans", [1, 2, 3, 4, 6])
def test_another_number_of_channels_adapts_the_stem(tiny_model, folder, caplog, in_chans):
    model = create_model(f"local-dir:{folder}", in_chans=in_chans)
    assert len(model.config.mean) == in_chans
    old, new = tiny_model.stem[0].weight, model.stem[0].weight
    assert new.shape[1] == in_chans
    if in_chans % 3 == 0 or in_chans == 1:  # an image of equal channels gives the same activations
        torch.testing.assert_close(new.sum(dim=1), old.sum(dim=1))
    assert ("stem adapted from 3 to" in caplog.text) == (in_chans != 3)
    with torch.no_grad():
        assert model(torch.randn(1, in_chans, 64, 48)).isfinite().all()


@pytest.mark.parametrize("name", list_pretrained())
def test_published_weights_load_offline_and_are_what_they_say(name):
    entry = zoo.get_pretrained(name)
    assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    assert entry.folder is not None
    assert hashlib.sha256((entry.folder / WEIGHTS_FILE).read_bytes()).hexdigest() == entry.sha256
    assert {value.dtype for value in load_file(entry.folder / WEIGHTS_FILE).values()} <= {torch.float16, torch.int64}
    model = create_model(name)
    assert isinstance(model, SoftGatePose)
    assert model.config.name == entry.model
    card = read_training(entry)
    assert card["licence"]
    assert card["data"]
    assert card["command"]
    for row in card["metrics"]:
        (mean_pose,) = [other for other in card["baseline"] if other["data"] == row["data"]]
        assert row["limbs"] > 2 * mean_pose["limbs"]


def test_find_training(tmp_path, tiny_model, unpublished):
    bundled = zoo.get_pretrained("sgpose_0m5_1s")
    known = read_training(bundled)
    assert find_training("sgpose_0m5_1s", True) == find_training(bundled.name) == known
    for without in (find_training("sgpose_0m5_1s"), find_training(bundled.name, False), find_training(unpublished)):
        assert without is None

    told = {"data": ["two photos"], "licence": "mine"}
    folder = save_pretrained(tiny_model, tmp_path / "told", training=told)
    assert find_training(f"local-dir:{folder}") == find_training(unpublished, checkpoint=folder) == told
    assert find_training(f"local-dir:{folder}", False) is None
    silent = save_pretrained(tiny_model, tmp_path / "silent")
    assert find_training(unpublished, checkpoint=silent / "model.safetensors") == {
        "data": [f"weights {silent / 'model.safetensors'}, whose training is not recorded"]
    }
    with pytest.raises(FileNotFoundError, match="absent"):
        find_training(f"local-dir:{tmp_path / 'absent'}")


def test_a_fixed_gate_is_for_the_weights_to_say(tmp_path, tiny_config):
    fixed = SoftGatePose(tiny_config.replace(gate="fixed", alpha_init=0.5))
    folder = save_pretrained(fixed, tmp_path / "fixed")
    assert create_model(f"local-dir:{folder}").config.alpha_init == 0.5
    with pytest.raises(RuntimeError, match=r"alpha_init.*0\.5.*0\.3"):
        create_model(f"local-dir:{folder}", alpha_init=0.3)


def test_weights_that_diverged_are_not_saved(tmp_path, tiny_model):
    with torch.no_grad():
        tiny_model.stem[0].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"stem\.0\.weight.*NaN"):
        save_pretrained(tiny_model, tmp_path / "nan")
    assert not (tmp_path / "nan").exists()
