"""Every Python block of README and docs, and every example, runs; the tables are those of the zoo."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_data import write_coco

from softgate_pose.readers import read_people

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    )
]


@pytest.fixture
def in_a_clone(tmp_path, monkeypatch):
    """A folder that holds the examples, as a clone does, where blocks may write."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", BLOCKS)
def test_block(block, in_a_clone, capsys):
    exec(compile(block, "block", "exec"), {"__name__": "__main__"})


ABLATIONS = shlex.split("--data lsp:lsp:train --size 64 --epochs 1 --batch-size 2 --hold-out 0.3 merges")
TESTED_ELSEWHERE = {"detect_people.py": "test_detectors.py", "predict_with_ray.py": "test_ray.py"}
"""Examples that need what is not here, and the test file that runs them nevertheless, and how."""

EXAMPLES = {path.name: [] for path in sorted((ROOT / "examples").glob("*.py")) if path.name not in TESTED_ELSEWHERE} | {
    "ablations.py": ABLATIONS
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


def test_the_annotations_that_training_shows_are_read(tmp_path):
    (block,) = re.findall(
        r"^```json\n(.*?)^```", (ROOT / "docs" / "training.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
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


def test_links_between_pages_and_files_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
            if not target.startswith(("http:", "https:")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
