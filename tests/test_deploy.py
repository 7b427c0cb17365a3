"""The deployed form gives the model's heatmaps, from less work."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from softgate_pose import create_model, deploy, list_models, list_pretrained, predict, save_pretrained
from softgate_pose.export import export_model, load_onnx
from softgate_pose.model.deploy import _doubling_conv
from softgate_pose.model.softgate import SoftGatePose

TOLERANCE = 1e-5  # of the largest heatmap value, in float32
VARIANTS = list(
    itertools.product(
        ("channel", "scalar", "fixed", "identity"),
        ("concat", "concat_grouped", "sum"),
        ("block", "conv"),
        ("softmax", "gaussian"),
    )
)


def as_trained(model):
    """Gates and batch norms as training leaves them: some scales negative, some next to 0."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.uniform_(-0.5, 1.5)[::5] = 1e-6
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
    for name, parameter in model.named_parameters():
        if name.endswith("alpha"):
            parameter.data.normal_(0, 0.5)
    return model.eval()


def assert_same_heatmaps(model, other, images, tolerance=TOLERANCE):
    with torch.inference_mode():
        expected, found = model(images), other(images)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("name", list_models())
def test_every_model_deploys(name):
    torch.manual_seed(0)
    model = as_trained(create_model(name))
    assert_same_heatmaps(model, deploy(model), torch.randn(2, 3, 64, 128))


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_every_variant_deploys(tiny_config, variant):
    torch.manual_seed(0)
    gate, merge, skip, heatmap = variant
    config = tiny_config.replace(num_stacks=3, gate=gate, merge=merge, skip=skip, heatmap=heatmap, alpha_init=0.5)
    model = as_trained(SoftGatePose(config))
    assert_same_heatmaps(model, deploy(model), torch.randn(2, 3, 64, 48))


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (4, 6)])
def test_doubling_and_a_convolution_are_one_transposed_convolution(size):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 6, *size), torch.randn(4, 6, 3, 3)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, padding=1)
    torch.testing.assert_close(_doubling_conv(weight)(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "saved"), [("sgpose_0m5_1s", 0.08), ("sgpose_small_4s", 0.12)])
def test_deploying_saves_multiply_adds(name, saved):
    counts = []
    for form in (lambda model: model, deploy):
        with torch.device("meta"):
            model = form(create_model(name, device="meta"))
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                model(torch.empty(1, 3, 256, 256))
        counts.append(counter.get_total_flops())
    assert counts[1] == pytest.approx((1 - saved) * counts[0], rel=0.005)


@pytest.mark.parametrize("name", list_pretrained())
def test_predicting_with_it_is_the_same_call_and_result(name):
    model = create_model(name)
    boxes = [(11, 164, 86, 357), (296, 133, 407, 337)]
    original, found = (predict(form, "examples/photo.jpg", boxes, flip_test=True) for form in (model, deploy(model)))
    torch.testing.assert_close(found.keypoints, original.keypoints, atol=0.01, rtol=0)
    torch.testing.assert_close(found.scores, original.scores, atol=1e-4, rtol=0)
    assert found.skeleton == original.skeleton


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_it_exports(tiny_model, suffix, tmp_path):
    model, images = as_trained(tiny_model), torch.randn(3, 3, 64, 48)
    file = export_model(deploy(model), tmp_path / f"model{suffix}")
    exported = load_onnx(file, threads=1) if suffix == ".onnx" else torch.export.load(file).module()
    assert_same_heatmaps(model, exported, images, tolerance=1e-4)


def test_the_model_stays_as_it_is_and_the_form_keeps_dtype_and_layout(tiny_model):
    before = {key: value.clone() for key, value in tiny_model.state_dict().items()}
    model = tiny_model.to(torch.float64).train()
    images = torch.randn(1, 3, 64, 48, dtype=torch.float64)
    deployed = deploy(model)
    assert model.training
    assert not deployed.training
    assert deployed(images).dtype == torch.float64
    assert not any(parameter.requires_grad for parameter in deployed.parameters())
    assert deployed.head.weight.is_contiguous(memory_format=torch.channels_last)
    assert_same_heatmaps(model.eval(), deployed, images, tolerance=1e-12)
    assert all(torch.equal(value.to(before[key].dtype), before[key]) for key, value in model.state_dict().items())


def test_what_it_cannot_do_says_so(tiny_model, tmp_path):
    deployed = deploy(tiny_model)
    with pytest.raises(TypeError, match="got Sequential"):
        deploy(nn.Sequential(tiny_model))
    with pytest.raises(TypeError, match="got DeployedPose"):
        save_pretrained(deployed, tmp_path)
    with pytest.raises(NotImplementedError, match="DeployedPose"):
        deployed.outputs(torch.zeros(1, 3, 64, 48))
    with pytest.raises(ValueError, match=r"\(60, 50\).*\(64, 48\)"):
        deployed(torch.zeros(1, 3, 60, 50))


def test_deploying_again_changes_nothing(tiny_model):
    deployed = deploy(tiny_model)
    assert_same_heatmaps(deployed, deploy(deployed), torch.randn(2, 3, 64, 48), tolerance=0)
