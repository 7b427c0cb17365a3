"""Break the code in small ways and see whether the tests notice: python .ci/mutants.py [--seed N] [--list].

Each mutant is one change of one line of the modules below, drawn by the seed and made in a copy of the package. A
mutant that the module's tests pass has survived. The status is 1 if fewer than 90 % are caught, or a survivor is
not explained in `EXPLAINED`.
"""

from __future__ import annotations

import argparse
import ast
import copy
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIMIT = 240  # seconds a mutant may take; one that runs longer is caught

# module -> mutants drawn, and the tests that are to catch them; slow ones that catch nothing more are left out
MODULES = {
    "pose/geometry.py": (24, ["test_geometry.py", "test_prediction.py"]),
    "pose/heatmaps.py": (24, ["test_heatmaps.py", "-k", "not export"]),
    "pose/metrics.py": (16, ["test_metrics.py"]),
    "model/adapting.py": (8, ["test_weights.py", "-k", "skeleton or kept or channels or heads"]),
    "weights.py": (16, ["test_weights.py", "test_hub.py", "test_hub_faults.py", "-k", "not process and not offline"]),
    "hub.py": (8, ["test_hub.py", "test_hub_faults.py", "-k", "not process and not offline"]),
}

# survivors that no test can or should catch: module, line and change -> why
_CORNERS = (
    "corners = torch.tensor([[-0.5, -0.5], [width - 0.5, -0.5], [-0.5, height - 0.5], [width - 0.5, height - 0.5]])"
)
_HIGH = "high = torch.minimum((seen.amax(dim=0) + margin).ceil().clamp_min(0), limit)"
_LOW = "low = torch.minimum((seen.amin(dim=0) - margin).floor().clamp_min(0), limit)"
_MARGIN = "the margin of 2 pixels and 2 crop pixels is wider than what is sampled by more than this takes away"
_SCALE = "the value only scales the window, and the log's parabola does not feel a scale"
EXPLAINED: dict[tuple[str, str, str], str] = {
    ("pose/geometry.py", "height, width = images.shape[-2:]", "-2  ->  2"): "the same two of four sizes",
    ("pose/geometry.py", "block = max(1, math.floor(shrink / 2))", "math.floor  ->  math.ceil"): (
        "larger blocks with fewer samples in each: another split of the same average"
    ),
    (
        "pose/geometry.py",
        "crops[i] = F.avg_pool2d(sampled, samples)[0] if samples > 1 else sampled[0]",
        "samples > 1  ->  samples >= 1",
    ): "the average over one pixel is that pixel",
    ("pose/geometry.py", _CORNERS, "-0.5  ->  0.5"): _MARGIN,
    ("pose/geometry.py", _LOW, "(seen.amin(dim=0) - margin).floor  ->  (seen.amin(dim=0) - margin).ceil"): _MARGIN,
    ("pose/geometry.py", _HIGH, "0  ->  -1"): "an upper end below 0 is no less empty",
    (
        "pose/metrics.py",
        "size = torch.linalg.vector_norm((keypoints[:, shoulder] - keypoints[:, hip]).double(), dim=-1)",
        "-1  ->  1",
    ): "the last of two dimensions",
    (
        "pose/heatmaps.py",
        "peak = window[..., 1 + _DARK_BLUR_RADIUS, 1 + _DARK_BLUR_RADIUS].unsqueeze(-1).unsqueeze(-1)",
        "1  ->  0",
    ): _SCALE,
}

COMPARE = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
BINARY = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
CALLS = (
    ("min", "max"),
    ("minimum", "maximum"),
    ("amin", "amax"),
    ("clamp_min", "clamp_max"),
    ("floor", "ceil"),
    ("cos", "sin"),
    ("any", "all"),
)
NAMES = (
    ("x", "y"),
    ("x0", "y0"),
    ("x1", "y1"),
    ("width", "height"),
    ("column", "row"),
    ("columns", "rows"),
    ("gx", "gy"),
    ("gxx", "gyy"),
    ("left", "right"),
    ("above", "below"),
    ("border_x", "border_y"),
    ("low", "high"),
    ("first", "second"),
    ("missing", "unknown"),
    ("new", "old"),
)
SWAP_CALL = {a: b for pair in CALLS for a, b in (pair, pair[::-1])}
SWAP = {a: b for pair in NAMES for a, b in (pair, pair[::-1])} | SWAP_CALL


@dataclass(frozen=True)
class Mutant:
    """One change of one line, and the module's whole source with it."""

    module: str
    line: int
    text: str
    kind: str
    change: str
    source: str


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """Every small change of one node."""

    def changed(edit: Callable[[ast.AST], None]) -> ast.AST:
        other = copy.deepcopy(node)
        edit(other)
        return other

    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for kind in COMPARE[type(op)]:
                yield changed(lambda n, i=i, kind=kind: n.ops.__setitem__(i, kind()))
    elif isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        yield changed(lambda n: setattr(n, "op", BINARY[type(node.op)]()))
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        yield ast.BinOp(node.right, node.op, node.left)
    elif isinstance(node, ast.BoolOp):
        yield changed(lambda n: setattr(n, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And()))
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield from (ast.Constant(node.value + step) for step in (1, -1))
    elif isinstance(node, ast.IfExp):
        yield changed(lambda n: (setattr(n, "body", node.orelse), setattr(n, "orelse", node.body)))
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in SWAP:
        yield changed(lambda n: setattr(n, "id", SWAP[node.id]))
    elif isinstance(node, ast.Attribute) and node.attr in SWAP_CALL:
        yield changed(lambda n: setattr(n, "attr", SWAP_CALL[node.attr]))
    elif isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise) and not node.orelse:
        yield changed(lambda n: setattr(n, "test", ast.Constant(False)))
    elif isinstance(node, ast.Slice) and node.lower is not None and node.upper is None and node.step is None:
        yield ast.Slice(None, node.lower)
    elif isinstance(node, ast.Slice) and node.upper is not None and node.lower is None and node.step is None:
        yield ast.Slice(node.upper, None)


def _places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Parent, field and place in it of every node that may change; not types, texts and messages."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for i, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST) and not isinstance(child, (ast.JoinedStr, ast.Raise)):
                yield tree, field, i if isinstance(value, list) else None
                yield from _places(child)


def mutants_of(module: str) -> list[Mutant]:
    """All that could be made of a module, in the order of its lines."""
    text = (ROOT / "softgate_pose" / module).read_text(encoding="utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    found = []
    for parent, field, i in list(_places(tree)):
        holder = getattr(parent, field)
        node = holder if i is None else holder[i]
        for other in _changes(node):
            _put(parent, field, i, ast.fix_missing_locations(ast.copy_location(other, node)))
            line = getattr(node, "lineno", getattr(parent, "lineno", 0))
            change = f"{_short(node)}  ->  {_short(other)}"
            kind = type(node).__name__
            found.append(Mutant(module, line, lines[line - 1].strip(), kind, change, ast.unparse(tree)))
            _put(parent, field, i, node)
    return found


def _put(parent: ast.AST, field: str, i: int | None, node: ast.AST) -> None:
    if i is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[i] = node


def _short(node: ast.AST) -> str:
    return ast.unparse(node.test if isinstance(node, ast.If) else node)


def draw(seed: int) -> list[Mutant]:
    """The mutants of a seed: every kind of change is as likely, since most nodes are constants."""
    drawn = []
    for module, (count, _) in MODULES.items():
        rng = random.Random(f"{seed} {module}")
        left: dict[str, list[Mutant]] = {}
        for mutant in mutants_of(module):
            left.setdefault(mutant.kind, []).append(mutant)
        chosen = []
        while len(chosen) < count:
            kind = rng.choice(sorted(left))
            chosen.append(left[kind].pop(rng.randrange(len(left[kind]))))
            if not left[kind]:
                del left[kind]
        drawn += sorted(chosen, key=lambda mutant: (mutant.line, mutant.change))
    return drawn


def _run(folder: str, tests: list[str]) -> None:
    """In a process of its own: pytest on the copy, with the copy's package."""
    os.chdir(folder)
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = folder  # for the processes that tests start
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    import pytest

    import softgate_pose

    assert str(softgate_pose.__file__).startswith(folder)
    os.chdir("tests")
    os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests])))


def passes(module: str, source: str) -> bool:
    """Whether a module's tests pass with this source in its place."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        scratch = Path(folder).resolve()
        for part in ("softgate_pose", "tests", "examples"):
            shutil.copytree(ROOT / part, scratch / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", scratch)
        (scratch / "softgate_pose" / module).write_text(source, encoding="utf-8")
        process = multiprocessing.get_context("fork").Process(target=_run, args=(str(scratch), MODULES[module][1]))
        process.start()
        process.join(LIMIT)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--module", choices=MODULES, help="this one alone")
    parser.add_argument("--list", action="store_true", help="show the mutants, and run nothing")
    options = parser.parse_args()
    mutants = [mutant for mutant in draw(options.seed) if options.module in (None, mutant.module)]
    if options.list:
        for mutant in mutants:
            print(f"{mutant.module}:{mutant.line}: {mutant.change}")
        return 0

    os.environ["OMP_NUM_THREADS"] = "1"
    # loaded once, so that each mutant's process starts with them; nothing of the package, and no huggingface_hub,
    # which reads the test Hub's address when it is imported
    import click  # noqa: F401
    import pytest  # noqa: F401
    import safetensors.torch  # noqa: F401
    import scipy.io  # noqa: F401
    import torch

    torch.set_num_threads(1)
    for module in dict.fromkeys(mutant.module for mutant in mutants):
        source = ast.unparse(ast.parse((ROOT / "softgate_pose" / module).read_text(encoding="utf-8")))
        if not passes(module, source):
            raise SystemExit(f"The tests of {module} fail without any change: {' '.join(MODULES[module][1])}")
    caught, unexplained = 0, 0
    for mutant in mutants:
        survived = passes(mutant.module, mutant.source)
        why = EXPLAINED.get((mutant.module, mutant.text, mutant.change), "")
        caught += not survived
        unexplained += survived and not why
        word = "SURVIVED" if survived else "caught"
        print(f"{word:<9}softgate_pose/{mutant.module}:{mutant.line}  {mutant.change}", flush=True)
        if survived:
            print(f"         in: {mutant.text}\n         {why or 'not explained'}", flush=True)
    share = 100 * caught / len(mutants)
    print(f"{caught} of {len(mutants)} caught, {share:.1f} %; {unexplained} survivors not explained")
    return 0 if caught >= 0.9 * len(mutants) and not unexplained else 1


if __name__ == "__main__":
    sys.exit(main())
