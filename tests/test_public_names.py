"""The names that ``softgate_pose`` offers, which load nothing heavy before they are used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import softgate_pose


def test_every_public_name_is_there():
    names = set(softgate_pose.__all__)
    assert {"create_model", "predict", "Skeleton", "__version__"} <= names <= set(dir(softgate_pose))
    for name in softgate_pose.__all__:
        assert getattr(softgate_pose, name) is getattr(softgate_pose, name)
    with pytest.raises(AttributeError, match="'create_modle'"):
        softgate_pose.create_modle  # noqa: B018


def test_type_checkers_see_the_same_names_of_the_same_modules():
    tree = ast.parse(Path(softgate_pose.__file__).read_text("utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names if alias.asname == alias.name}
    assert seen == {name: f"softgate_pose.{module}" for name, module in softgate_pose._MODULES.items()}


@pytest.mark.parametrize(
    "code",
    [
        "import softgate_pose; softgate_pose.list_models('*_2s'); softgate_pose.list_pretrained(); softgate_pose.COCO",
        "from softgate_pose import PoseConfig; PoseConfig(width=12)",
        "from softgate_pose.weights.record import read_config, read_training; from softgate_pose import zoo; "
        "[(read_config(entry), read_training(entry)) for entry in zoo.pretrained_entries()]",
    ],
)
def test_what_needs_no_torch_loads_none(code):
    code += "; import sys; print(*{'torch', 'timm', 'huggingface_hub', 'accelerate', 'scipy'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("\n", "")
