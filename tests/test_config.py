import dataclasses
import json
import math
import subprocess
import sys

import pytest

from softgate_pose import COCO, LSP, MPII, PoseConfig, Skeleton, zoo
from softgate_pose.pose.skeleton import LIMBS, SKELETONS, get_skeleton

VARIANTS = [
    PoseConfig(),
    PoseConfig(name="another", num_stacks=3, width=32, depth=2, in_chans=1, mean=(0.5,), std=(0.25,)),
    PoseConfig(gate="scalar", alpha_init=0.5, merge="sum", skip="conv", heatmap="gaussian", sigma=2.0),
    PoseConfig(gate="fixed", merge="concat_grouped", skeleton=COCO, input_size=(256, 192)),
    PoseConfig(architecture="hourglass", width=256),
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
        ({"width": 70}, "^width .*multiple of 4, got 70"),
        ({"width": 2}, "^width .*got 2"),
        ({"width": True}, "^width .*got True"),
        ({"width": 10**400}, "^width .*4096, got a number of 1329 bits"),
        ({"num_stacks": 10**9}, "^num_stacks .*64, got 1000000000"),
        ({"num_stacks": 0}, "^num_stacks .*1, got 0"),
        ({"depth": 9}, "^depth .*8, got 9"),
        ({"in_chans": 1.5}, "^in_chans .*got 1.5"),
        ({"gate": "soft"}, "^gate .*'channel', 'scalar', 'fixed' or 'identity', got 'soft'"),
        ({"merge": "add"}, "^merge .*'concat', 'concat_grouped' or 'sum', got 'add'"),
        ({"skip": "none"}, "^skip .*'block' or 'conv', got 'none'"),
        ({"heatmap": "mse"}, "^heatmap .*'softmax' or 'gaussian', got 'mse'"),
        ({"alpha_init": math.nan}, "^alpha_init .*got nan"),
        ({"alpha_init": 10**400}, "^alpha_init .*got a number of 1329 bits"),
        ({"sigma": 0}, "^sigma .*above 0, got 0"),
        ({"sigma": "1"}, "^sigma .*got '1'"),
        ({"sigma": 1e200}, "^sigma .*got 1e"),
        ({"mean": (0.5,)}, r"^mean .*3 in_chans, got \(0.5,\)"),
        ({"mean": 0.5}, "^mean .*tuple, got 0.5"),
        ({"mean": (10**5000, 0, 0)}, r"^mean\[0\] .*got a number of 16610 bits"),
        ({"mean": (-0.1, 0.5, 0.5)}, r"^mean\[0\] .*from 0 to 1.*got -0.1"),
        ({"mean": (123.7, 116.3, 103.5)}, r"^mean\[0\] .*divide.*by 255.*got 123.7"),
        ({"std": (0.1, 0.0, 0.1)}, r"^std\[1\] .*above 0, got 0"),
        ({"std": (58.4, 57.1, 57.4)}, r"^std\[0\] .*divide.*by 255.*got 58.4"),
        ({"input_size": (256,)}, r"^input_size\[1\] is missing"),
        ({"input_size": (0, 64)}, r"^input_size\[0\] .*got 0"),
        ({"input_size": (10**400, 64)}, r"^input_size\[0\] .*got a number of 1329 bits"),
        ({"input_size": (256, 250)}, r"\(256, 250\).*multiples of 64.*\(256, 256\)"),
        ({"input_size": (95, 97)}, r"\(95, 97\).*multiples of 64.*\(64, 128\)"),
        ({"skeleton": "mpii"}, "^skeleton .*Skeleton, got 'mpii'"),
        ({"name": 3}, "^name .*string, got 3"),
        ({"architecture": None}, "^architecture .*string, got None"),
        ({"architecture": "hourglass", "gate": "scalar"}, "^gate .*hourglass.*got 'scalar'"),
    ],
)
def test_fields_out_of_range_are_named(changes, match):
    with pytest.raises(ValueError, match=match):
        PoseConfig().replace(**changes)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[" * 100_000, "JSON"),
        ("[]", r"object, got \[\]"),
        ('{"widht": 68}', r"widht\. .*name, architecture, num_stacks"),
        ('{"format_version": 2}', "format_version .*1, got 2.*Upgrade"),
        ('{"width": null}', "^width .*got None"),
        ('{"mean": "abc"}', "^mean .*got 'abc'"),
        ('{"gate": ["channel"]}', "^gate .*got"),
        ('{"skeleton": {"name": "x"}}', "^skeleton.*keypoints"),
        ('{"skeleton": ["nose"]}', "^skeleton.*got"),
        ('{"skeleton": {"keypoints": []}}', "no keypoints"),
        ('{"skeleton": {"keypoints": ["a", "a"]}}', "'a' twice"),
        ('{"skeleton": {"keypoints": [1]}}', r"^skeleton.*keypoints\[0\] .*got 1"),
        ('{"skeleton": {"keypoints": ["a"], "edges": [["a", "b"]]}}', "edge to 'b'"),
        ('{"skeleton": {"keypoints": ["a"], "edges": [["a"]]}}', r"^skeleton.*edges\[0\]"),
        ('{"skeleton": {"keypoints": ["a"], "sides": 2}}', "^skeleton.*sides"),
    ],
)
def test_broken_json_is_refused(text, match):
    with pytest.raises(ValueError, match=match):
        PoseConfig.from_json(text)


def test_configs_from_before_there_were_architectures_load():
    (first, *_) = sorted(zoo.BUNDLED.glob("*/config.json"))
    assert "architecture" not in json.loads(first.read_text())
    assert PoseConfig.from_json(first.read_text()).architecture == "softgate"


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PoseConfig().width = 4


def test_other_channels_adapt_the_normalisation():
    grey = PoseConfig().with_in_chans(1)
    assert grey.mean == pytest.approx((0.449,), abs=1e-3)
    assert PoseConfig().with_in_chans(5).mean == (0.485, 0.456, 0.406, 0.485, 0.456)
    assert PoseConfig().with_in_chans(3) == PoseConfig()
    with pytest.raises(ValueError, match=r"in_chans .*got 0"):
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
        with pytest.raises(TypeError, match=r"nose|\[1, 2\]|1"):
            Skeleton("wrong", names, edges)
    for other in (5, {"nose", "tail"}):  # a set has no order
        with pytest.raises(TypeError, match=r"(?i)skeleton .*got"):
            get_skeleton(other)
    for count in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match=f"num_keypoints .*got {count}"):
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
