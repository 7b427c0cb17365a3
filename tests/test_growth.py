"""A larger network grown from a smaller one gives its heatmaps, and learns with all of its weights."""

import re

import pytest
import torch

from softgate_pose import LSP, MPII, PoseConfig, Skeleton, deploy
from softgate_pose.model.softgate import SoftGatePose
from softgate_pose.model.transfer import grow

SMALL = PoseConfig(name="small", num_stacks=2, width=16, depth=1, skeleton=LSP, input_size=(32, 32))


def network(seed=0, trained=False, **changes):
    """A network; a trained one is far from its initial values everywhere."""
    torch.manual_seed(seed)
    model = SoftGatePose(SMALL.replace(**changes)).eval()
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
        found = model.train(train)(images, all_stacks=True)
        expected = smaller.train(train)(images, all_stacks=True)
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
        outputs = torch.stack(model(torch.randn(4, 3, 32, 32), all_stacks=True))
        ((outputs - 0.5) ** 2).mean().backward()
        optimizer.step()
    still = {key: int((value == before[key]).sum()) for key, value in model.named_parameters()}
    assert {key: count for key, count in still.items() if count} == {}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"width": 8}, "small cannot grow from other, which is larger: width 16, not at most 8."),
        ({"num_stacks": 1}, "small cannot grow from other, which is larger: num_stacks 2, not at most 1."),
        ({"depth": 2}, "small cannot grow from other: its depth is 2, that one's 1. They may differ in width"),
        ({"gate": "scalar"}, "its gate is 'scalar', that one's 'channel'."),
        ({"alpha_init": 0.5}, "its alpha_init is 0.5, that one's 0.0."),
        ({"heatmap": "gaussian"}, "its heatmap is 'gaussian', that one's 'softmax'."),
        ({"in_chans": 1, "mean": (0.5,), "std": (0.2,)}, "its in_chans is 1, that one's 3."),
        ({"skeleton": MPII}, "small predicts right_ankle"),
    ],
)
def test_networks_that_differ_in_more_than_size_do_not_grow(changes, match):
    shared = {"gate": "fixed"} if "alpha_init" in changes else {}
    model = network(**shared, **changes)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(match)):
        grow(model, network(1, name="other", **shared))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_network_grows_from_a_model_alone():
    with pytest.raises(TypeError, match="got DeployedPose"):
        grow(network(width=24), deploy(network()))
