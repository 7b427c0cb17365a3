import dataclasses
import json
import math
import subprocess
import sys

import pytest

from softgate_pose import COCO, LSP, MPII, PoseConfig, Skeleton
from softgate_pose.pose.skeleton import LIMBS, SKELETONS, get_skeleton

VARIANTS = [
    PoseConfig(),
    PoseConfig(name="another", num_stacks=3, width=32, depth=2, in_chans=1, mean=(0.5,), std=(0.25,)),
    PoseConfig(gate="scalar", alpha_init=0.5, merge="sum", skip="conv", heatmap="gaussian", sigma=2.0),
    PoseConfig(gate="fixed", merge="concat_grouped", skeleton=COCO, input_size=(256, 192)),
    PoseConfig(gate="identity", skeleton=Skeleton("five", ("a", "b", "left_c", "right_c", "d"), (("a", "b"),))),
]


@pytest.mark.parametrize("config", VARIANTS)
def test_json_comes_back_equal(config):
    assert PoseConfig.from_json(config.to_json()) == config
    assert json.loads(config.to_json())["format_version"] == 1


def test_fields_left_out_take_their_defaults():
    assert PoseConfig.from_dict({"width": 32}) == PoseConfig(width=32)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"width": 70}, "multiple of 4.*Use 68 or 72"),
        ({"width": 2}, "Use 4 or 4|Use 4"),
        ({"width": True}, "width must be a whole number"),
        ({"width": 10**400}, "width must be a whole number from 1 to 4096"),
        ({"num_stacks": 10**9}, "num_stacks must be a whole number from 1 to 64"),
        ({"sigma": 1e200}, "sigma"),
        ({"alpha_init": 10**400}, "alpha_init"),
        ({"mean": (10**5000, 0, 0)}, "mean"),
        ({"input_size": (10**400, 64)}, "input size"),
        ({"num_stacks": 0}, "num_stacks must be a whole number from 1"),
        ({"depth": 9}, "depth must be a whole number from 1 to 8"),
        ({"in_chans": 1.5}, "in_chans"),
        ({"gate": "soft"}, "channel, scalar, fixed, identity"),
        ({"merge": "add"}, "concat, concat_grouped, sum"),
        ({"skip": "none"}, "block, conv"),
        ({"heatmap": "mse"}, "softmax, gaussian"),
        ({"alpha_init": math.nan}, "alpha_init"),
        ({"sigma": 0}, "sigma"),
        ({"sigma": "1"}, "sigma"),
        ({"mean": (0.5,)}, "one value for each of the 3 in_chans"),
        ({"mean": 0.5}, "mean must be a tuple"),
        ({"std": (0.1, 0.0, 0.1)}, "std is above 0"),
        ({"mean": (123.7, 116.3, 103.5)}, "Divide what was computed from colours up to 255 by 255"),
        ({"std": (58.4, 57.1, 57.4)}, "Divide what was computed from colours up to 255 by 255"),
        ({"mean": (-0.1, 0.5, 0.5)}, "colours from 0 to 1"),
        ({"input_size": (256,)}, r"\(height, width\)"),
        ({"input_size": (256, 250)}, r"nearest size that works is \(256, 256\)"),
        ({"input_size": (95, 97)}, r"multiples of 64.*\(64, 128\)"),
        ({"input_size": (0, 64)}, "above 0"),
        ({"skeleton": "mpii"}, "skeleton must be a Skeleton"),
        ({"name": 3}, "name must be a string"),
    ],
)
def test_fields_out_of_range_are_named(changes, match):
    with pytest.raises(ValueError, match=match):
        PoseConfig().replace(**changes)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must be a JSON object"),
        ('{"widht": 68}', r"unknown fields: widht\. Known are name, num_stacks"),
        ('{"format_version": 2}', "Upgrade"),
        ('{"width": null}', "width"),
        ('{"mean": "abc"}', "mean must be a list"),
        ('{"gate": ["channel"]}', "gate"),
        ('{"skeleton": {"name": "x"}}', "skeleton must be an object"),
        ('{"skeleton": {"keypoints": []}}', "no keypoints"),
        ('{"skeleton": {"keypoints": ["a", "a"]}}', "twice"),
        ('{"skeleton": {"keypoints": [1]}}', "names only"),
        ('{"skeleton": {"keypoints": ["a"], "edges": [["a", "b"]]}}', "edge to 'b'"),
        ('{"skeleton": {"keypoints": ["a"], "edges": [["a"]]}}', "pairs of names"),
    ],
)
def test_broken_json_is_refused(text, match):
    with pytest.raises(ValueError, match=match):
        PoseConfig.from_json(text)


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PoseConfig().width = 4


def test_other_channels_adapt_the_normalisation():
    grey = PoseConfig().with_in_chans(1)
    assert grey.mean == pytest.approx((0.449,), abs=1e-3)
    assert PoseConfig().with_in_chans(5).mean == (0.485, 0.456, 0.406, 0.485, 0.456)
    assert PoseConfig().with_in_chans(3) == PoseConfig()
    with pytest.raises(ValueError, match="in_chans"):
        PoseConfig().with_in_chans(0)


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_skeletons_mirror_left_and_right_and_nothing_else(skeleton):
    for i, j in enumerate(skeleton.mirror):
        name, other = skeleton.keypoints[i], skeleton.keypoints[j]
        assert skeleton.mirror[j] == i
        assert (name != other) == name.startswith(("left_", "right_"))
        assert name.removeprefix("left_").removeprefix("right_") == other.removeprefix("left_").removeprefix("right_")
    assert all(limb in skeleton.keypoints for limb in LIMBS)
    assert {i for edge in skeleton.edge_indices for i in edge} == set(range(len(skeleton)))


def test_sides_that_mirroring_does_not_swap():
    names = ("left_eye", "right_eye", "wing_left", "wing_right", "left_horn", "leftFin", "Right ear", "bright_spot")
    assert Skeleton("x", names).unpaired == ("wing_left", "wing_right", "left_horn", "leftFin", "Right ear")
    assert not any(skeleton.unpaired for skeleton in SKELETONS.values())
    for pair in (
        ("l_wing", "r_wing"),
        ("L_wing", "R_wing"),
        ("wing.L", "wing.R"),
        ("LWing", "RWing"),
        ("wingL", "wingR"),
    ):
        assert Skeleton("x", ("nose", *pair, "tail")).unpaired == pair
    assert not Skeleton("x", ("l_wing", "tail_r", "roll", "lore", "wing_1", "wing_2")).unpaired  # nothing to mistake


def test_skeletons_by_name_list_and_object():
    assert get_skeleton("lsp") is LSP
    assert get_skeleton(MPII) is MPII
    assert get_skeleton(["nose", "tail"]).keypoints == ("nose", "tail")
    with pytest.raises(ValueError, match="mpii, lsp, coco"):
        get_skeleton("body25")
    skeleton = Skeleton("lists", ["nose", "tail"], [["nose", "tail"]])
    assert (skeleton.keypoints, skeleton.edges) == (("nose", "tail"), (("nose", "tail"),))
    for names, edges in (("nose", ()), ([1, 2], ()), (["nose", "tail"], [["nose", "tail", "nose"]])):
        with pytest.raises(TypeError, match=r"needs a list of keypoint names|must join two keypoints"):
            Skeleton("wrong", names, edges)
    for other in (5, {"nose", "tail"}):  # a set has no order
        with pytest.raises(TypeError, match="A skeleton is a name, a list of keypoint names or a Skeleton, got"):
            get_skeleton(other)
    for count in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="num_keypoints"):
            Skeleton.unnamed(count)


def test_config_and_zoo_import_no_torch():
    """They are what tools read that only want to know what there is."""
    code = (
        "import sys, types; package = types.ModuleType('softgate_pose'); package.__path__ = ['softgate_pose'];"
        "sys.modules['softgate_pose'] = package;"
        "import softgate_pose.config, softgate_pose.zoo; print('torch' in sys.modules)"
    )
    root = __file__.rsplit("/tests/", 1)[0]
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=root).strip() == "False"
