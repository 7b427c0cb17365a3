"""A larger network grown from a smaller one gives its heatmaps, and learns with all of its weights."""

import pytest
import torch

from softgate_pose import LSP, MPII, PoseConfig, Skeleton, deploy
from softgate_pose.model.registry import build
from softgate_pose.model.transfer import grow

SMALL = PoseConfig(name="small", num_stacks=2, width=16, depth=1, skeleton=LSP, input_size=(32, 32))


def network(seed=0, trained=False, **changes):
    """A network; a trained one is far from its initial values everywhere."""
    torch.manual_seed(seed)
    model = build(SMALL.replace(**changes)).eval()
    if trained:
        with torch.no_grad():
            for value in model.state_dict().values():
                if value.is_floating_point():
                    value.add_(torch.rand_like(value) / 2 + 0.1)
    return model


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    ("larger", "shared"),
    [
        ({"width": 24}, {}),
        ({"num_stacks": 3}, {}),
        ({"width": 28, "num_stacks": 4}, {}),
        ({"width": 32, "num_stacks": 2}, {"num_stacks": 1}),
        ({"width": 24}, {"depth": 2, "gate": "scalar", "merge": "sum"}),
        ({"width": 24}, {"gate": "identity", "merge": "concat_grouped", "skip": "conv"}),
        (
            {"width": 24},
            {"skeleton": Skeleton.unnamed(1), "in_chans": 1, "mean": (0.5,), "std": (0.2,), "heatmap": "gaussian"},
        ),
        ({"width": 64}, {"skeleton": Skeleton.unnamed(4)}),  # as many keypoints as a quarter has channels
        ({"width": 24, "num_stacks": 3}, {"architecture": "hourglass"}),
        ({"width": 24}, {"architecture": "cunet"}),
        ({}, {}),
    ],
)
def test_a_grown_network_gives_the_heatmaps_of_the_smaller_one(larger, shared, train):
    smaller, model = network(1, trained=True, **shared).double(), network(2, **{**shared, **larger}).double()
    before = {key: value.clone() for key, value in smaller.state_dict().items()}
    grow(model, smaller)
    assert all(torch.equal(value, before[key]) for key, value in smaller.state_dict().items())
    images = torch.rand(4, smaller.config.in_chans, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        found = model.train(train).outputs(images)
        expected = smaller.train(train).outputs(images)
    for i, output in enumerate(found):
        torch.testing.assert_close(output, expected[min(i, len(expected) - 1)])


def test_every_weight_of_a_grown_network_learns():
    model = network(2, width=24, num_stacks=3)
    grow(model, network(1))
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0)
    model.train()
    for _ in range(4):  # the new channels' outlets move first, then what is behind them
        optimizer.zero_grad()
        outputs = torch.stack(model.outputs(torch.randn(4, 3, 32, 32)))
        ((outputs - 0.5) ** 2).mean().backward()
        optimizer.step()
    still = {key: int((value == before[key]).sum()) for key, value in model.named_parameters()}
    assert {key: count for key, count in still.items() if count} == {}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"width": 8}, "width .*16, got 8"),
        ({"num_stacks": 1}, "num_stacks .*2, got 1"),
        ({"depth": 2}, "depth .*1, got 2"),
        ({"gate": "scalar"}, "gate .*'channel', got 'scalar'"),
        ({"alpha_init": 0.5}, "alpha_init .*0.0, got 0.5"),
        ({"heatmap": "gaussian"}, "heatmap .*'softmax', got 'gaussian'"),
        ({"in_chans": 1, "mean": (0.5,), "std": (0.2,)}, "in_chans .*3, got 1"),
        ({"skeleton": MPII}, "skeleton .*got .*pelvis"),
        ({"architecture": "cunet", "num_stacks": 3}, "num_stacks .*2, got 3"),
    ],
)
def test_networks_that_differ_in_more_than_size_do_not_grow(changes, match):
    shared = {"gate": "fixed"} if "alpha_init" in changes else {}
    shared |= {key: changes[key] for key in ("architecture",) if key in changes}
    model = network(**{**shared, **changes})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=match):
        grow(model, network(1, name="other", **shared))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_network_grows_from_a_model_alone():
    with pytest.raises(TypeError, match="got DeployedPose"):
        grow(network(width=24), deploy(network()))
