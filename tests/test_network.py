import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from softgate_pose import LSP, PoseConfig, Skeleton, create_model, list_models, save_pretrained
from softgate_pose.evaluation.run import evaluate_source
from softgate_pose.export import export_model, load_onnx
from softgate_pose.model.registry import NETWORKS, build
from softgate_pose.model.softgate import SoftGatedBlock, SoftGatePose
from softgate_pose.training.losses import heatmap_loss
from softgate_pose.training.recipe import Recipe
from softgate_pose.training.run import train
from softgate_pose.zoo import MODELS

# What the design counted, in millions of parameters and billions of MACs at 256×256; of others, what is published.
DESIGNED = {
    "sgpose_0m5_1s": (0.505, 0.77),
    "sgpose_1m0_2s": (0.976, 1.28),
    "sgpose_1m4_2s": (1.35, 1.73),
    "sgpose_1m9_2s": (1.93, 2.45),
    "sgpose_2m4_2s": (2.44, 3.06),
    "sgpose_2m9_2s": (3.0, 3.74),
    "sgpose_3m4_2s": (3.42, 4.24),
    "sgpose_small_4s": (8.52, 9.85),
    "sgpose_wide_4s": (26.8, 30.6),
    "cunet_1m0_2s": (1.0, 1.39),
    "cunet_2m9_2s": (2.9, 3.75),
    "cunet_3m4_2s": (3.4, 4.27),
    "cunet_4s": (4.0, 5.17),
    "cunet_8s": (10.1, 12.7),
    "hourglass_8s": (25.4, 27.4),
}
_TINY = PoseConfig(name="tiny", num_stacks=2, width=8, depth=2, skeleton=LSP, input_size=(64, 48))
TINY = {architecture: _TINY.replace(architecture=architecture) for architecture in NETWORKS}


@pytest.mark.parametrize("name", list_models())
def test_budgets_are_the_zoos_and_the_designs(name):
    entry = MODELS[name]
    with torch.device("meta"):
        model = build(entry.config).eval()
        images = torch.empty(1, 3, 256, 256)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        heatmaps = model(images)
    params, macs = sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 2
    assert heatmaps.shape == (1, 16, 64, 64)
    assert (params, macs) == (entry.params, entry.macs)
    tolerance = 0.05 if name.startswith("cunet") else 0.02
    assert params == pytest.approx(DESIGNED[name][0] * 1e6, rel=tolerance)
    assert macs == pytest.approx(DESIGNED[name][1] * 1e9, rel=tolerance)


def test_every_model_is_in_the_designs_table():
    assert list_models() == list(DESIGNED)
    assert {entry.config.architecture for entry in MODELS.values()} == set(NETWORKS)


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ValueError, match=r"architecture .*softgate, hourglass, cunet; got 'transformer'"):
        build(PoseConfig(architecture="transformer"))


@pytest.mark.parametrize("architecture", TINY)
def test_every_architecture_trains_loads_exports_and_evaluates(architecture, lsp_folder, tmp_path):
    config, source = TINY[architecture], f"lsp:{lsp_folder[0]}:train"
    run = train(build(config), [source], tmp_path / "run", recipe=Recipe(epochs=1, batch_size=4), hold_out=0)
    model = create_model(f"local-dir:{run}")
    assert (type(model), model.config) == (NETWORKS[architecture], config)
    images = torch.randn(3, 3, 64, 48)
    with torch.inference_mode():
        heatmaps, outputs = model(images), model.outputs(images)
        assert [output.shape for output in outputs] == [(3, 14, 16, 12)] * 2
        assert torch.equal(heatmaps.flatten(2).argmax(-1), outputs[-1].flatten(2).argmax(-1))
        torch.testing.assert_close(model.deploy()(images), heatmaps, atol=1e-4, rtol=0)
        exported = load_onnx(export_model(model, tmp_path / "model.onnx"), threads=1)
        torch.testing.assert_close(exported(images), heatmaps, atol=1e-4, rtol=0)
    assert evaluate_source(source, model=model).keypoints is not None


@pytest.mark.parametrize("architecture", TINY)
def test_every_architecture_keeps_the_heads_of_keypoints_it_knows(architecture, tmp_path):
    model = build(TINY[architecture]).eval()
    save_pretrained(model, tmp_path)
    names = ("nose", *LSP.keypoints[3:])
    adapted = create_model(f"local-dir:{tmp_path}", skeleton=names, in_chans=1)
    grey = torch.randn(1, 1, 64, 48)
    with torch.inference_mode():
        heatmaps, expected = adapted(grey), model(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(heatmaps[:, 1:], expected[:, 3:], atol=1e-5, rtol=1e-3)


VARIANTS = [
    {"gate": gate, "merge": merge, "skip": skip, "heatmap": heatmap}
    for gate, merge, skip, heatmap in itertools.product(
        ("channel", "scalar", "fixed", "identity"),
        ("concat", "concat_grouped", "sum"),
        ("block", "conv"),
        ("softmax", "gaussian"),
    )
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v.values()))
def test_every_variant_trains(tiny_config, variant):
    torch.manual_seed(0)
    config = tiny_config.replace(**variant, alpha_init=0.5)
    model = SoftGatePose(config).train()
    outputs = model.outputs(torch.randn(2, 3, 64, 48))
    assert [tuple(output.shape) for output in outputs] == [(2, 14, 16, 12)] * 2
    loss = heatmap_loss(outputs, torch.rand(2, 14, 2) * 40, torch.ones(2, 14, dtype=torch.bool), config)
    loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
    assert PoseConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("num_stacks", "width", "in_chans", "num_keypoints"), [(1, 4, 1, 1), (3, 12, 5, 30)])
def test_sizes_are_settings(depth, num_stacks, width, in_chans, num_keypoints):
    config = PoseConfig(
        num_stacks=num_stacks,
        width=width,
        depth=depth,
        in_chans=in_chans,
        mean=(0.5,) * in_chans,
        std=(0.2,) * in_chans,
        skeleton=Skeleton.unnamed(num_keypoints),
    )
    model = SoftGatePose(config).eval()
    step = 4 * 2**depth
    for height, width_px in ((step, 2 * step), (3 * step, step)):
        heatmaps = model(torch.randn(1, in_chans, height, width_px))
        assert heatmaps.shape == (1, num_keypoints, height // 4, width_px // 4)


def test_the_block_is_the_papers_equation():
    torch.manual_seed(0)
    block = SoftGatedBlock(8, 8, alpha_init=0.3).eval()
    x = torch.randn(1, 8, 6, 6)
    o1 = block.conv1(block.bn1(x).relu())
    o2 = block.conv2(block.bn2(o1).relu())
    o3 = block.conv3(block.bn3(o2).relu())
    assert (o1.shape[1], o2.shape[1], o3.shape[1]) == (4, 2, 2)
    torch.testing.assert_close(block(x), torch.cat((o1, o2, o3), 1) + 0.3 * x)
    assert block.alpha.shape == (1, 8, 1, 1)
    assert all(conv.bias is None for conv in (block.conv1, block.conv2, block.conv3))


@pytest.mark.parametrize(
    ("gate", "alpha_init", "learned", "value"),
    [("channel", 0.25, 8, 0.25), ("scalar", 0.25, 1, 0.25), ("fixed", 0.25, 0, 0.25), ("identity", 0.25, 0, 1.0)],
)
def test_gates(gate, alpha_init, learned, value):
    block = SoftGatedBlock(8, 8, gate=gate, alpha_init=alpha_init)
    parameters = dict(block.named_parameters())
    assert (parameters["alpha"].numel() if "alpha" in parameters else 0) == learned
    assert block.alpha.eq(value).all()


def test_a_gated_block_cannot_change_its_channels():
    with pytest.raises(ValueError, match="16 in and 8 out"):
        SoftGatedBlock(16, 8)


def test_no_identity_crosses_a_concatenation():
    model = SoftGatePose(PoseConfig(width=8, depth=2))
    assert model.hourglasses[0].merge.block.alpha is None
    assert SoftGatePose(PoseConfig(width=8, depth=2, merge="sum")).hourglasses[0].merge.block.alpha is not None
    grouped = SoftGatePose(PoseConfig(width=8, depth=2, merge="concat_grouped"))
    assert grouped.hourglasses[0].merge.block.conv1.groups == 2


def test_softmax_heatmaps_come_from_the_last_stacks_logits(tiny_model, tiny_config):
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        heatmaps, logits = tiny_model(images), tiny_model.outputs(images)[-1]
    total = heatmaps.sum(dim=(2, 3)) / (2 * torch.pi * tiny_config.sigma**2)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert torch.equal(heatmaps.flatten(2).argmax(-1), logits.flatten(2).argmax(-1))


def test_a_person_does_not_depend_on_the_batch(tiny_model):
    images = torch.randn(5, 3, 64, 48)
    with torch.no_grad():
        torch.testing.assert_close(tiny_model(images)[2:3], tiny_model(images[2:3]))


def test_the_network_exports_with_a_dynamic_batch(tiny_model):
    exported = torch.export.export(
        tiny_model, (torch.randn(2, 3, 64, 48),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},)
    )
    images = torch.randn(3, 3, 64, 48)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(images), tiny_model(images))


def test_an_empty_batch_gives_no_heatmaps(tiny_model):
    with torch.no_grad():
        assert tiny_model(torch.zeros(0, 3, 64, 48)).shape == (0, 14, 16, 12)


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (torch.zeros(3, 64, 48), r"\(B, 3, H, W\), got \(3, 64, 48\)"),
        (torch.zeros(1, 1, 64, 48), r"\(B, 3, H, W\)"),
        (torch.zeros(1, 3, 64, 48, dtype=torch.uint8), "floating point"),
        (torch.zeros(1, 3, 60, 50), r"multiples of 16.*\(64, 48\)"),
    ],
)
def test_wrong_images_are_refused(tiny_model, images, match):
    with pytest.raises(ValueError, match=match):
        tiny_model(images)
