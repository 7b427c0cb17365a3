"""What README and docs show is so: blocks and examples run, commands parse, figures are current, names exist."""

import ast
import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from made_data import write_coco
from PIL import Image
from safetensors import safe_open

import softgate_pose
from softgate_pose import zoo
from softgate_pose.cli import main
from softgate_pose.cli.train import _parse
from softgate_pose.data.sources import parse_source, read_people
from softgate_pose.training.recipe import get_preset
from softgate_pose.weights.record import commands, read_training

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples/README.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def fences(page, language):
    """The text of each block of a language; blocks in lists are indented, and lose that."""
    pattern = rf"^( *)```{language}\n(.*?)^\1```"
    matches = re.finditer(pattern, page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [(re.sub(rf"^{match[1]}", "", match[2], flags=re.MULTILINE), match.end()) for match in matches]


def block_and_output(page):
    """Python blocks, each with the output that is shown right below it, if there is one."""
    text = page.read_text("utf-8")
    for block, end in fences(page, "python"):
        shown = re.match(r"\n+```text\n(.*?)^```", text[end:], re.DOTALL | re.MULTILINE)
        yield block, shown and shown[1]


BLOCKS = [
    pytest.param(block, output, id=f"{page.name}-{number}")
    for page in PAGES
    for number, (block, output) in enumerate(block_and_output(page))
]


@pytest.fixture
def in_a_clone(tmp_path, monkeypatch):
    """A folder that holds the examples, as a clone does, where blocks may write."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("block", "output"), BLOCKS)
def test_block(block, output, in_a_clone, capsys):
    exec(compile(block, "block", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert output is None or printed == output


def commands_of(page):
    """Each command of the shell blocks as words; optional parts are taken, comments and continuations are not."""
    for block, _ in fences(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.split(r"&&|\|", line):
                words = shlex.split(
                    command.replace("[", "").replace("]", "") if " [--" in command else command, comments=True
                )
                if words:
                    yield words


COMMANDS = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)[:60]}") for page in PAGES for words in commands_of(page)
]


@pytest.mark.parametrize("words", COMMANDS)
def test_command(words):
    """What it names exists: a program's options, a target, a script, an extra."""
    program, *arguments = itertools.dropwhile(re.compile(r"\w+=").match, words)  # behind settings of the environment
    if "softgate_pose" in words:  # behind a launcher
        program, arguments = "softgate-pose", words[words.index("softgate_pose") + 1 :]
        if arguments[-1] == "...":
            assert arguments[0] in main.commands
            return
    if Path(program).name == "softgate-pose":
        check_softgate_pose(arguments)
    elif program == "make":
        assert {argument for argument in arguments if "=" not in argument} <= TARGETS
    elif Path(program).name in ("python", "pytest") and arguments[0] != "-m":
        assert (ROOT / arguments[0]).is_file()
    elif Path(program).name in ("pip", "uv"):
        extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        names = [name for word in arguments for name in re.findall(r"\[(.*)\]", word)]
        assert set(names) <= set(extras)
    else:
        assert Path(program).name in ("python", "git", "ray"), f"no check for {program}"


def check_softgate_pose(arguments):
    """The command parses, and the models, recipes, settings and sources that it names are right."""
    name, command, rest = main.resolve_command(click.Context(main), arguments)
    options = command.make_context(name, list(rest), parent=click.Context(main)).params
    for model in [options.get(key) for key in ("name", "model_name", "teacher", "grow_from")]:
        if model is not None and model.startswith("sgpose_"):
            assert zoo.get_pretrained(model) if "." in model else zoo.get_entry(model)
    if "recipe" in options:
        assert get_preset(options["recipe"]).change(_parse(options["settings"]))
    data = options.get("data") or ()
    for source in (data,) if isinstance(data, str) else data:
        assert parse_source(source)
    for source in (*options.get("sources", ()), *options.get("tests", ())):
        assert parse_source(source)


def test_a_command_that_does_not_parse_is_found():
    check_softgate_pose(["predict", "a.jpg", "--flip-test"])
    with pytest.raises(click.UsageError):
        check_softgate_pose(["predict", "a.jpg", "--flip"])
    with pytest.raises(ValueError, match="Unknown setting"):
        check_softgate_pose(["train", "sgpose_0m5_1s", "--data", "lsp:a:train", "--out", "b", "--set", "rotatoin=3"])


ABLATIONS = shlex.split("--data lsp:lsp:train --size 64 --epochs 1 --batch-size 2 --hold-out 0.3 merges")
TESTED_ELSEWHERE = {"detect_people.py": "test_detectors.py", "predict_with_ray.py": "test_ray.py"}
"""Examples that need what is not here, and the test file that runs them nevertheless, and how."""

EXAMPLES = {path.name: [] for path in sorted((ROOT / "examples").glob("*.py")) if path.name not in TESTED_ELSEWHERE} | {
    "ablations.py": ABLATIONS,
    "clean_annotations.py": ["lsp:lsp:train", "lsp/annotations/cleaned.json", "--fill"],
}
"""Each with the arguments that it needs; the data set is the fixture's."""


def run_example(name, arguments, monkeypatch):
    """Run it as a script; its exit status, 0 where it just ends."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    try:
        runpy.run_path(str(Path("examples") / name), run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.mark.parametrize(("name", "arguments"), EXAMPLES.items(), ids=EXAMPLES)
def test_example(name, arguments, in_a_clone, lsp_folder, monkeypatch, capsys):
    assert run_example(name, arguments, monkeypatch) == 0
    assert capsys.readouterr().out


def test_ablations_print_the_paper_s_figures_beside_ours_and_train_nothing_twice(
    in_a_clone, lsp_folder, monkeypatch, capsys
):
    assert run_example("ablations.py", ABLATIONS, monkeypatch) == 0
    first = capsys.readouterr().out
    header, _, *rows = [line for line in first.splitlines() if line.startswith("|")]
    assert header.startswith("| merges | the paper's PCKh@0.5 (its weights")
    assert "| ours: PCK@0.2 limbs | mean |" in header
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| sum", "87.5"],
        ["| concat_grouped", "87.8"],
        ["| concat", "88.0"],
    ]

    monkeypatch.setattr("softgate_pose.training.loop.fit", lambda *_, **__: pytest.fail("trained again"))
    assert run_example("ablations.py", ABLATIONS, monkeypatch) == 0
    assert capsys.readouterr().out == first


def test_ablations_may_have_a_teacher_and_hold_nobody_out_of_data_that_others_measure(
    in_a_clone, lsp_folder, monkeypatch, capsys
):
    arguments = "--data lsp:lsp:train --measure lsp:lsp:train --size 64 --epochs 1 --batch-size 2 --precision bf16 fast"
    arguments += " --teacher sgpose_0m5_1s.sports"
    assert run_example("ablations.py", arguments.split(), monkeypatch) == 0
    people = len(read_people("lsp:lsp:train"))
    printed = capsys.readouterr().out
    measured = f"measured on {people} people of lsp:lsp:train, taught by sgpose_0m5_1s.sports."
    assert f"of {people} people (lsp:lsp:train) in batches of 2; {measured}" in printed
    assert "| the recipe fast | " in printed
    with safe_open("ablations/the-recipe-fast/last.safetensors", framework="pt") as state:
        assert json.loads(state.metadata()["run"])["teacher"]["share"] == 0.5

    untaught = arguments.partition(" --teacher")[0]
    assert run_example("ablations.py", untaught.split(), monkeypatch) == 2
    assert "result.json is of sgpose_0m5_1s, 64 px, bf16, 1 epochs of" in capsys.readouterr().err


def test_cleaned_annotations_that_could_not_name_their_images_are_refused_at_once(
    in_a_clone, lsp_folder, monkeypatch, capsys
):
    assert run_example("clean_annotations.py", ["lsp:lsp:train", "other/annotations/cleaned.json"], monkeypatch) == 2
    assert "must lie beside the images" in capsys.readouterr().err
    assert not Path("other").exists()


def test_cleaned_annotations_replace_no_others_and_can_be_read(in_a_clone, lsp_folder, monkeypatch, capsys):
    for name in ("cleaned.json", "labels/cleaned.json", "annotations/cleaned.txt"):  # which no reader would look for
        assert run_example("clean_annotations.py", ["lsp:lsp:train", f"lsp/{name}"], monkeypatch) == 2
        assert "as FOLDER/annotations/NAME.json" in capsys.readouterr().err
    arguments = ["lsp:lsp:train", str(Path("lsp/annotations/cleaned.json").absolute())]
    read_people("lsp:lsp:train").images[1].write_bytes(b"no picture")
    assert run_example("clean_annotations.py", arguments, monkeypatch) == 0
    assert "Left out: " in capsys.readouterr().err
    cleaned = read_people("coco:lsp:cleaned")
    assert len(cleaned) == len(read_people("lsp:lsp:train")) - 1
    before = Path(arguments[1]).read_bytes()
    assert run_example("clean_annotations.py", arguments, monkeypatch) == 2
    assert "exists; choose another name" in capsys.readouterr().err
    assert Path(arguments[1]).read_bytes() == before


def test_ablations_leave_out_what_a_teacher_cannot_teach(in_a_clone, lsp_folder, monkeypatch, capsys):
    monkeypatch.setattr("softgate_pose.training.loop.fit", lambda task, *_, **__: task.model)
    arguments = (
        "--data lsp:lsp:train --size 64 --epochs 1 --batch-size 2 --hold-out 0.3 recipe --teacher sgpose_0m5_1s.sports"
    )
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: 0)
    assert run_example("ablations.py", arguments.split(), monkeypatch) == 0
    printed = capsys.readouterr()
    assert "Left out: squared error on Gaussians; its heatmaps are of another kind" in printed.err
    assert "squared error" not in printed.out
    assert "| the recipe fast |" in printed.out


def test_the_annotations_that_finetuning_shows_are_read(tmp_path):
    (block,) = re.findall(
        r"^```json\n(.*?)^```", (ROOT / "docs" / "finetune.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    source = write_coco(tmp_path, block)
    people = read_people(source)
    assert people.labelled.tolist() == [[True, True, True, True, False]]
    x0, y0, x1, y1 = people.boxes[0].tolist()
    for x, y in people.keypoints[people.labelled].tolist():
        assert x0 <= x <= x1
        assert y0 <= y <= y1


def test_tables_are_those_of_the_zoo():
    subprocess.run([sys.executable, ROOT / ".ci" / "tables.py", "--check"], check=True)


def test_figures_of_the_example_people_are_those_on_the_cards():
    """The part of `.ci/figures.py` that needs no data set: every bundled model, measured anew."""
    done = subprocess.run([sys.executable, ROOT / ".ci" / "figures.py"], check=True, capture_output=True, text=True)
    assert done.stdout.count("as on the card") == 2 * len(zoo.list_pretrained())


def test_the_outputs_of_examples_are_those_shown(in_a_clone, monkeypatch, capsys):
    shown = {
        script: output.strip()
        for page in PAGES
        for script, output in re.findall(r"<!-- output: (\S+) -->(.*?)<!-- end -->", page.read_text("utf-8"), re.DOTALL)
    }
    assert shown
    for script, output in shown.items():
        assert run_example(Path(script).name, [], monkeypatch) == 0
        assert capsys.readouterr().out.strip() == output


@pytest.mark.parametrize("script", sorted((ROOT / "docs" / "drawings").glob("*.py")), ids=lambda path: path.name)
def test_pictures_are_those_that_their_scripts_draw(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script.name, str(tmp_path)])
    runpy.run_path(str(script), run_name="__main__")
    (file,) = tmp_path.iterdir()
    with Image.open(file) as new, Image.open(ROOT / "docs" / "images" / file.name) as old:
        assert [abs(a - b) <= 4 for a, b in zip(new.size, old.size, strict=True)] == [True, True]  # fonts differ


def test_the_api_page_has_the_public_names_and_no_others():
    shown = re.findall(r"^::: softgate_pose\.(\S+)", (ROOT / "docs" / "api.md").read_text("utf-8"), re.MULTILINE)
    assert len(set(shown)) == len(shown)
    names = [name for name in shown if not name.startswith("integrations.")]
    assert sorted(names) == sorted(set(softgate_pose.__all__) - {"__version__"})


def test_what_the_paper_s_map_names_exists():
    """A row that names code and the file that it is in."""
    rows = re.findall(
        r"`(\w+)`(?: and `(\w+)`)? in `(softgate_pose/\S+\.py)`", (ROOT / "docs/paper.md").read_text("utf-8")
    )
    assert len(rows) > 8
    for *names, file in rows:
        tree = ast.parse((ROOT / file).read_text("utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
        targets = [
            target
            for node in tree.body
            if isinstance(node, (ast.Assign, ast.AnnAssign))
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        ]
        defined |= {target.id for target in targets if isinstance(target, ast.Name)}
        assert {name for name in names if name} <= defined, file


def test_the_site_fetches_nothing_from_elsewhere():
    fetched = runpy.run_path(str(ROOT / ".ci" / "site.py"))["fetched"]
    assert fetched('<script async src="https://example.org/a.js"></script>')
    assert fetched('<link rel="stylesheet" href="https://example.org/a.css">')
    assert fetched('<link href="//example.org/a.css" rel="stylesheet">')
    assert fetched('<img alt="a" src="//example.org/a.png">')
    assert not fetched('<a href="https://example.org"><img src="../a.png"></a><script src="a.js"></script>')
    assert not fetched('<link rel="canonical" href="https://example.org/">')


def test_templates_are_those_that_forges_read():
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    forms = [file for file in sorted(folder.glob("*.yml")) if file.name != "config.yml"]
    assert len(forms) == 2
    for file in forms:
        form = yaml.safe_load(file.read_text("utf-8"))
        assert {"name", "description", "body"} <= set(form)
        for field in form["body"]:
            assert field["type"] == "textarea"
            assert field["attributes"]["label"]
        assert len({field["id"] for field in form["body"]}) == len(form["body"])
    assert isinstance(yaml.safe_load((folder / "config.yml").read_text("utf-8"))["blank_issues_enabled"], bool)
    for command in re.findall(r"`make ([a-z ]+)`", (ROOT / ".github" / "pull_request_template.md").read_text("utf-8")):
        assert set(command.split()) <= TARGETS


def test_workflows_run_what_is_here():
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(file.read_text("utf-8"))["jobs"].values()
        lines = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
        assert ".ci/run" in lines
        for target in [line.split()[1] for line in lines if line.startswith("make ")]:
            assert target in TARGETS
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_hooks_before_a_commit_are_those_of_make():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert {hook["entry"].split()[0] for hook in repo["hooks"]} == {".venv/bin/ruff", ".venv/bin/mypy"}


def test_what_cites_the_project_names_it_as_the_package_does():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'license = "{citation["license"]}"' in text
    assert f'Repository = "{citation["repository-code"]}"' in text
    assert citation["preferred-citation"]["title"] in (ROOT / "README.md").read_text("utf-8")


def test_tables_hold_any_number_of_weights(tmp_path, monkeypatch):
    """Two of one model, and one of another that lies on the Hub alone."""
    first = zoo.get_pretrained(zoo.list_pretrained()[0])
    folder, record = first.folder, read_training(first)
    rows = [{"model": "sgpose_1m0_2s", "tag": tag, "sha256": tag * 64, "bundled": True} for tag in "ab"]
    rows.append({"model": "sgpose_small_4s", "tag": "far", "sha256": "c" * 64, "repo": "o/r", "revision": "d" * 40})
    (tmp_path / "index.json").write_text(json.dumps(rows))
    for tag in "ab":
        shutil.copytree(folder, tmp_path / f"sgpose_1m0_2s.{tag}", ignore=shutil.ignore_patterns("*.safetensors"))
        (tmp_path / f"sgpose_1m0_2s.{tag}" / "model.safetensors").write_bytes(bytes(2_460_000))
    monkeypatch.setattr(zoo, "BUNDLED", tmp_path)
    zoo._pretrained.cache_clear()
    try:
        tables = runpy.run_path(str(ROOT / ".ci" / "tables.py"))
        rows = tables["models"](ROOT / "README.md")
        near, far, none = (
            "\n".join(tables["card"](ROOT / "docs" / "models" / f"{name}.md"))
            for name in ("sgpose_1m0_2s", "sgpose_small_4s", "sgpose_wide_4s")
        )
        measured, summary = (tables[name](ROOT / "README.md") for name in ("measured", "summary"))
    finally:
        monkeypatch.undo()
        zoo._pretrained.cache_clear()
    assert [row for row in rows if "`.a`, `.b`" in row and "docs/models/sgpose_1m0_2s.md" in row]
    assert re.findall(r"^## Weights `(.*)`$", near, re.MULTILINE) == ["sgpose_1m0_2s.a", "sgpose_1m0_2s.b"]
    assert near.count("\nsoftgate-pose train ") == 2 * len(commands(record)) > 0
    assert f"`hf-hub:o/r@{'d' * 40}`" in far
    assert "not stated" in far
    assert "There are no weights of this model yet" in none
    labels = [row.split(" | ")[0] for row in measured[2:]]
    assert [sum(f".{tag}`" in label for label in labels) for tag in "ab"] == 2 * [len(record["metrics"])]
    assert sum("mean training pose" in label for label in labels) == len(record["baseline"])  # of the first alone
    flipped = {(row["data"], row["protocol"]): row for row in record["metrics"] if row["flip_test"]}
    cells = [cell.strip() for cell in summary[2].split("|")[1:-1]]
    assert cells[:4] == ["[`sgpose_1m0_2s.a`](docs/models/sgpose_1m0_2s.md)", "2.5", "192×192", "0.72 G"]
    assert cells[-1] == f"{flipped['lsp test', 'PCK@0.2']['limbs']:.1f}"
    assert len(summary) == 2 + 3
    assert summary[-1].count("–") == len(cells) - 2  # known by its name alone; measured nowhere
    assert "unknown" in summary[-1]


def test_links_between_pages_and_files_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
            if not target.startswith(("http:", "https:")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
