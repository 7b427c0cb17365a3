"""The models under timm's names and arguments."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import timm.optim
import torch

from softgate_pose import create_model, list_models, list_pretrained, save_pretrained
from softgate_pose.integrations.timm import register


@pytest.fixture(autouse=True)
def _registered():
    register()
    register()  # a second call does nothing, and warns of nothing


def test_timm_lists_our_models_and_weights():
    assert timm.list_models("sgpose_*") == list_models("sgpose_*")
    assert all(timm.is_model(name) for name in list_models())
    assert set(timm.list_pretrained("sgpose_*")) == set(list_pretrained())


@pytest.mark.parametrize("name", list_models())
def test_timm_builds_every_model(name):
    torch.manual_seed(0)
    model = timm.create_model(name, in_chans=1, num_classes=14, input_size=(64, 64)).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 1, 64, 64)).shape == (1, 14, 16, 16)
    assert model.num_classes == 14
    data = timm.data.resolve_model_data_config(model)
    assert (data["input_size"], data["mean"]) == ((1, 64, 64), model.config.mean)


@pytest.mark.parametrize("name", [*list_pretrained(), *sorted({name.partition(".")[0] for name in list_pretrained()})])
def test_timm_loads_our_weights(name):
    ours, timms = create_model(name, pretrained=True), timm.create_model(name, pretrained=True)
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in timms.state_dict().items())
    fresh = timm.create_model(name)
    assert not torch.equal(fresh.stem[0].weight, ours.stem[0].weight)
    grey = timm.create_model(name, pretrained=True, in_chans=1, num_classes=17)
    assert grey.config.skeleton.name == "coco"


def test_weights_of_ones_own_are_not_passed_over(tmp_path):
    own = create_model("sgpose_0m5_1s", pretrained=True)
    torch.nn.init.zeros_(own.heads[0].weight)
    file = save_pretrained(own, tmp_path) / "model.safetensors"
    for given in ({"pretrained_cfg_overlay": {"file": str(file)}}, {"pretrained_cfg": {"file": str(file)}}):
        assert not timm.create_model("sgpose_0m5_1s", pretrained=True, **given).heads[0].weight.any()
    published = timm.models.get_pretrained_cfg("sgpose_0m5_1s.sports")
    assert timm.create_model("sgpose_0m5_1s", pretrained=True, pretrained_cfg=published).heads[0].weight.any()
    with pytest.raises(ValueError, match=r"sgpose_0m5_1s .*checkpoint="):
        timm.create_model("sgpose_0m5_1s", pretrained=True, pretrained_cfg_overlay={"hf_hub_id": "some/body"})


def test_features_are_a_pyramid_of_the_last_hourglass():
    features = timm.create_model("sgpose_1m0_2s", features_only=True, input_size=(128, 64)).eval()
    assert features.feature_info.reduction() == [4, 8, 16, 32, 64]
    assert features.feature_info.channels() == [68] * 5
    images = torch.randn(2, 3, 128, 64)
    with torch.inference_mode():
        maps = features(images)
        assert [tuple(m.shape) for m in maps] == [(2, 68, 128 // r, 64 // r) for r in (4, 8, 16, 32, 64)]
        heatmaps = features.model.heads[1](features.model.necks[1](maps[0]))  # the finest is what the head sees
        torch.testing.assert_close(heatmaps, features.model.outputs(images)[1])
        chosen = timm.create_model("sgpose_1m0_2s", features_only=True, out_indices=(1, -1))
        assert chosen.feature_info.reduction() == [8, 64]
        assert [m.shape[-1] for m in chosen(torch.zeros(1, 3, 64, 64))] == [8, 1]
    assert not chosen.training  # as the model that it is made of
    assert timm.data.resolve_model_data_config(features)["input_size"] == (3, 128, 64)
    for wrong in ((7,), 2):
        with pytest.raises(ValueError, match=r"out_indices .*-5 to 4.* got (\(7,\)|2)"):
            timm.create_model("sgpose_1m0_2s", features_only=True, out_indices=wrong)


def test_features_are_of_softgate_networks_alone():
    with pytest.raises(ValueError, match=r"features_only .*got cunet_1m0_2s"):
        timm.create_model("cunet_1m0_2s", features_only=True, input_size=(64, 64))


def test_features_train_as_the_model_does():
    features = timm.create_model("sgpose_1m0_2s", features_only=True, input_size=(64, 64)).train()
    sum(level.square().mean() for level in features(torch.randn(2, 3, 64, 64))).backward()
    learning = {name for name, value in features.named_parameters() if value.requires_grad}
    assert {name for name, value in features.named_parameters() if value.grad is not None} == learning
    gates = {f"model.{name}" for name in features.model.no_weight_decay()}
    undecayed = timm.optim.create_optimizer_v2(features, "adamw", lr=1e-3, weight_decay=0.05).param_groups[0]
    assert undecayed["weight_decay"] == 0
    named = dict(features.named_parameters())
    assert all(any(named[gate] is value for value in undecayed["params"]) for gate in gates)


def test_features_are_those_of_each_call_s_own_images():
    features = timm.create_model("sgpose_0m5_1s", features_only=True, out_indices=(0, 4), input_size=(64, 64))
    images = torch.randn(8, 1, 3, 64, 64).unbind()
    with torch.no_grad():
        expected = [features(image) for image in images]

    def again(index):
        with torch.no_grad():
            return features(images[index])

    with ThreadPoolExecutor(4) as threads:
        for alone, among in zip(expected * 3, threads.map(again, [*range(8)] * 3), strict=True):
            torch.testing.assert_close(alone, among)


def test_importing_the_package_registers_nothing():
    code = "import softgate_pose, timm; print(timm.list_models('sgpose_*'))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
