"""What CONTRIBUTING.md tells to write works when it is put where it tells to put it."""

import ast
import dataclasses
import re
import runpy
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
from click.testing import CliRunner
from made_data import write_images
from torch.utils.flop_counter import FlopCounterMode

import softgate_pose
from softgate_pose import create_model, decode_heatmaps, deploy, get_preset, list_models, predict, render_heatmaps, zoo
from softgate_pose.cli import main
from softgate_pose.data.sources import READERS, read_people
from softgate_pose.model.registry import NETWORKS
from softgate_pose.pose import heatmaps
from softgate_pose.training.loop import fit

ROOT = Path(__file__).parent.parent
PHOTO = ROOT / "examples" / "photo.jpg"
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def section(title):
    """The text below a heading, up to the next."""
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    return text


def run_block(title):
    """What the section's one Python block defines."""
    (block,) = re.findall(r"^```python\n(.*?)^```", section(title), re.DOTALL | re.MULTILINE)
    names = {"__name__": "block"}
    exec(compile(block, title, "exec"), names)
    return names


def run(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_model_is_a_line(monkeypatch, capsys):
    counted = run_block("Add a model")
    (line,) = re.findall(r"^ *(_entry\(.*\)),$", section("Add a model"), re.MULTILINE)
    name, entry = eval(line, {"_entry": zoo._entry})
    assert entry.config == counted["config"]
    assert capsys.readouterr().out == f"{entry.params} {entry.macs}\n"

    monkeypatch.setitem(zoo.MODELS, name, entry)
    assert name in list_models("sgpose_*_1s")
    model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) == entry.params
    (row,) = [line for line in run("list").splitlines() if line.startswith(name)]
    assert row.split()[-5:] == ["-", "-", "-", "none", "yet"]
    assert "(paper: not given)" in run("info", name)

    tables = runpy.run_path(str(ROOT / ".ci" / "tables.py"))
    assert f"| [`{name}`](models/{name}.md) | 0.12 M | 0.21 G | none yet | – | – | – |" in tables["models"](
        ROOT / "docs" / "models.md"
    )
    assert "| parameters | 115,664 | – |" in tables["card"](ROOT / "docs" / "models" / f"{name}.md")


def test_a_network_is_a_class(monkeypatch, tmp_path, lsp_folder):
    plain = run_block("Add a network")["PlainPose"]
    (name,) = re.findall(r"`\"(\w+)\": PlainPose`", section("Add a network"))
    monkeypatch.setitem(NETWORKS, name, plain)
    (line,) = re.findall(r"^ *(_entry\(.*\)),$", section("Add a network"), re.MULTILINE)
    model_name, entry = eval(line, {"_entry": zoo._entry})
    monkeypatch.setitem(zoo.MODELS, model_name, entry)
    with torch.device("meta"):
        model = plain(entry.config).eval()
        images = torch.empty(1, 3, 256, 256)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    assert (sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2) == (entry.params, entry.macs)

    run(
        "train", model_name, "--data", f"lsp:{lsp_folder[0]}:train", "--size", 64, "--epochs", 1, "--batch-size", 2,
        "--set", "width=8", "--hold-out", 0, "--out", tmp_path / "run",
    )  # fmt: skip
    trained = create_model(f"local-dir:{tmp_path / 'run' / 'model'}")
    assert isinstance(trained, plain)
    poses = [predict(network, PHOTO) for network in (trained, deploy(trained))]
    torch.testing.assert_close(poses[0].keypoints, poses[1].keypoints, atol=0.01, rtol=0)
    with pytest.raises(ValueError, match="keypoints"):
        create_model(f"local-dir:{tmp_path / 'run' / 'model'}", num_keypoints=17)


def test_a_task_is_what_the_loop_does_not_know(monkeypatch, tmp_path, lsp_folder):
    task = run_block("Add a task")["MiddleTask"]
    people = read_people(f"lsp:{lsp_folder[0]}:train")
    torch.manual_seed(0)
    model = create_model("sgpose_0m5_1s", width=8, depth=1, input_size=(32, 32), num_keypoints=1)
    recipe = dataclasses.replace(get_preset("fast").recipe, epochs=2, batch_size=2)
    losses = []
    fit(task(model, people), recipe, tmp_path / "run", report=lambda epoch: losses.append(epoch.row["loss"]))
    assert len(losses) == 2
    assert losses[1] < losses[0]


def test_a_data_set_is_a_function(monkeypatch, tmp_path):
    read_sticks = run_block("Add a data set")["read_sticks"]
    (kind,) = re.findall(r"`\"(\w+)\": read_sticks`", section("Add a data set"))
    monkeypatch.setitem(READERS, kind, read_sticks)

    folder = tmp_path / "sticks"
    with pytest.raises(FileNotFoundError, match=r"expected .*train\.csv"):
        read_people(f"{kind}:{folder}:train")
    write_images(folder / "images", ["a.jpg", "b.jpg"])
    rows = ["image,x0,y0,x1,y1,lx,ly,rx,ry", "a.jpg,5,5,45,45,10,12.5,40,40", "b.jpg,5,5,45,45,20,30,,"]
    (folder / "train.csv").write_text("\n".join(rows))

    people = read_people(f"{kind}:{folder}:train")
    assert people.keypoints.tolist() == [[[10, 12.5], [40, 40]], [[20, 30], [0, 0]]]
    assert people.labelled.tolist() == [[True, True], [True, False]]
    assert people.files == (folder / "train.csv",)
    assert people.skeleton.mirror == (1, 0)
    assert people.keypoints.dtype == people.boxes.dtype == people.head_boxes.dtype == torch.float64
    assert all(image.is_file() for image in people.images)

    data = f"{kind}:{folder}:train"
    assert "2 scored, 0 left out" in run("evaluate", "--data", data, "--mean-pose", data)
    command = ["evaluate", "--data", data, "--mean-pose", data, "--json", str(people.files[0])]
    assert CliRunner().invoke(main, command).exit_code != 0
    assert people.files[0].read_text() == "\n".join(rows)
    run(
        "train", "sgpose_0m5_1s", "--skeleton", "data", "--data", data, "--size", 64, "--epochs", 1,
        "--batch-size", 2, "--hold-out", 0, "--out", tmp_path / "run",
    )  # fmt: skip
    assert create_model(f"local-dir:{tmp_path / 'run' / 'model'}").config.skeleton == people.skeleton


@pytest.fixture
def parabola(monkeypatch):
    """The decoder of the text, put in place for a test."""
    step = run_block("Add a decoder")["_parabola_step"]
    monkeypatch.setattr(heatmaps, "DecodeMethod", Literal[(*get_args(heatmaps.DecodeMethod), "parabola")])
    monkeypatch.setitem(heatmaps._SUBPIXEL_STEPS, "parabola", step)
    return "parabola"


def test_a_decoder_is_a_step(parabola):
    torch.manual_seed(0)
    places = torch.rand(50, 3, 2) * 10 + 10
    keypoints, scores = decode_heatmaps(render_heatmaps(places, (32, 32)), parabola)
    highest, _ = decode_heatmaps(render_heatmaps(places, (32, 32)), "argmax")
    assert (keypoints - places).abs().max() < 0.1  # a Gaussian's tip is nearly a parabola
    assert (highest - places).abs().max() > 0.4
    assert scores.shape == (50, 3)


@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_a_decoder_of_the_text_stands_borders_and_empty_maps(parabola, value):
    maps = torch.full((1, 2, 8, 9), value)
    maps[0, 1] = render_heatmaps(torch.tensor([0.0, 4.3]), (8, 9))
    keypoints, _ = decode_heatmaps(maps, parabola)
    assert keypoints[0, 0].tolist() == [4, 3.5]
    assert keypoints[0, 1].tolist() == pytest.approx([0, 4.3], abs=0.1)


PACKAGE = Path(softgate_pose.__file__).parent
MODULES = [
    path.relative_to(PACKAGE).with_suffix("")
    for path in sorted(PACKAGE.rglob("*.py"))
    if not path.name.startswith("__")
]


def imports_of(module):
    """The modules of the package that a module imports, by their path below it."""
    for node in ast.walk(ast.parse((PACKAGE / module).with_suffix(".py").read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "softgate_pose":
            for alias in node.names:
                home = PUBLIC.get(alias.name, node.module) if node.module == "softgate_pose" else node.module
                path = Path(*home.split(".")[1:])
                if (PACKAGE / path / alias.name).with_suffix(".py").is_file():
                    path /= alias.name
                if path != Path():  # the package itself, for its version
                    yield path
        assert not (isinstance(node, ast.Import) and any(alias.name == "softgate_pose" for alias in node.names)), (
            f"{module}: import names from softgate_pose, so that this test can see where they are from"
        )


PUBLIC = {
    alias.name: node.module
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text("utf-8")))
    if isinstance(node, ast.ImportFrom) and node.module.startswith("softgate_pose.")
    for alias in node.names
}
"""Where the names that the package itself offers are from."""


def test_dependencies_point_down():
    (block,) = re.findall(r"^```text\n(.*?)^```", section("How the code is laid out"), re.DOTALL | re.MULTILINE)
    heights = {name.rstrip("/"): -i for i, line in enumerate(block.splitlines()) for name in line.split(", ")}
    assert set(heights) == {module.parts[0] for module in MODULES}
    rooms = {name: set() for name in heights}
    for module in MODULES:
        for other in imports_of(module):
            assert heights[other.parts[0]] <= heights[module.parts[0]], f"{module} imports {other}"
            rooms[module.parts[0]].add(other.parts[0])
    TopologicalSorter({room: others - {room} for room, others in rooms.items()}).prepare()  # raises on a circle


def test_nothing_imports_the_demo_page_but_its_command():
    assert [module for module in MODULES if Path("demo") in imports_of(module)] == [Path("cli/demo")]
