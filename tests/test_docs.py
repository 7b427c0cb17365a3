"""Every Python block of README and docs, and every example, runs; the tables are those of the zoo."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_example(example, in_a_clone, capsys):
    runpy.run_path(str(in_a_clone / "examples" / example.name), run_name="__main__")
    assert capsys.readouterr().out


def test_tables_are_those_of_the_zoo():
    subprocess.run([sys.executable, ROOT / ".ci" / "tables.py", "--check"], check=True)


def test_links_between_pages_and_files_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
            if not target.startswith(("http:", "https:")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
