"""Write what lies between `<!-- table: NAME -->` and `<!-- end -->` from the zoo and the measured JSON.

Run `make tables` after bundling weights, after adding a model, whose page it begins, or after
`python -m benchmarks NAME ... --out docs/speed`; with --check it changes nothing and fails if a table is old.
"""

import ast
import json
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.report import Table
from softgate_pose import zoo
from softgate_pose.config import PoseConfig
from softgate_pose.weights.record import WEIGHTS_FILE, commands, data_lines, read_config, read_training

ROOT = Path(__file__).parent.parent
FILES = ("README.md", "CONTRIBUTING.md", "docs/models.md", "docs/speed.md")
PAGES = ROOT / "docs" / "models"
BENCHMARKS = ("speed", "profile", "limits", "decoding", "photos", "memory", "accuracy")
PARTS = ("head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "mean", "limbs", "mean@0.1")
SUMMARY = {
    ("mpii_sports valid", "PCKh@0.5"): ("mean", "limbs", "mean@0.1"),
    ("lsp test", "PCK@0.2"): ("mean", "limbs"),
}


def models(file: Path) -> list[str]:
    """Budgets: ours, counted, apart from the paper's, printed."""
    rows = [
        "| model | parameters | MACs at 256² | weights here "
        "| paper: parameters | paper: MACs | paper: PCKh@0.5, all of MPII |",
        "|---|---:|---:|---|---:|---:|---|",
    ]
    for name, entry in zoo.MODELS.items():
        tags = ", ".join(f"`.{weights.tag}`" for weights in zoo.pretrained_entries(name))
        rows.append(
            f"| [`{name}`]({_page(file, name)}) | {entry.params / 1e6:.2f} M | {entry.macs / 1e9:.2f} G "
            f"| {tags or 'none yet'} | {_millions(entry)} | {_billions(entry)} | {entry.paper_pckh or '–'} |"
        )
    return rows


def summary(file: Path) -> list[str]:
    """One row for each of our weights, smallest first, with flip test; all that they measure is in ``measured``."""
    columns = [f"{data}, {protocol}: {part}" for (data, protocol), parts in SUMMARY.items() for part in parts]
    rows = [
        "| weights | file, MB | px | MACs at that | " + " | ".join(columns) + " |",
        "|---|---:|---|---:|" + "---:|" * len(columns),
    ]
    for weights in (entry for name in zoo.MODELS for entry in zoo.pretrained_entries(name)):
        config = read_config(weights)
        cells = [f"[`{weights.name}`]({_page(file, weights.model)})", "–", _size(config), "–"]
        if weights.folder is not None and config is not None:
            height, width = config.input_size
            cells[1] = f"{(weights.folder / WEIGHTS_FILE).stat().st_size / 1e6:.1f}"
            cells[3] = f"{zoo.get_entry(weights.model).macs * width * height / 256**2 / 1e9:.2f} G"
        by_test = {
            (row["data"], row["protocol"]): row for row in read_training(weights).get("metrics", ()) if row["flip_test"]
        }
        for wanted, parts in SUMMARY.items():
            row = by_test.get(wanted, {})
            cells += [f"{row[part]:.1f}" if part in row else "–" for part in parts]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def measured(file: Path, pattern: str = "*") -> list[str]:
    """What our weights measure, part by part, and the mean training pose, which the first have beside them.

    Those of other weights were trained on nearly the same people; theirs differ by tenths, and are on their cards.
    """
    rows = [
        "| weights | people, protocol | flip test | " + " | ".join(PARTS) + " |",
        "|---|---|---|" + "---:|" * len(PARTS),
    ]
    for i, weights in enumerate(zoo.pretrained_entries(pattern)):
        training, size = read_training(weights), _size(read_config(weights))
        baselines = training.get("baseline", ()) if i == 0 else ()
        for label, entries in (
            (f"`{weights.name}`, {size} px", training.get("metrics", ())),
            (_MEAN_POSE, baselines),
        ):
            for row in entries:
                flip = {True: "yes", False: "no"}.get(row.get("flip_test"), "–")
                cells = [label, f"{row['people']} of {row['data']}, {row['protocol']}", flip]
                rows.append("| " + " | ".join(cells + [f"{row[p]:.1f}" if p in row else "–" for p in PARTS]) + " |")
    return rows


_MEAN_POSE = "always the mean training pose"


_STACKS = {
    "softgate": "[Soft-gated hourglasses](../network.md)",
    "hourglass": "[The hourglasses of Newell et al.](../models.md#networks-to-compare-with)",
    "cunet": "[The U-Nets of Tang et al.](../models.md#networks-to-compare-with)",
}


def card(file: Path) -> list[str]:
    """All that is known of one model, whose page this is."""
    name = file.stem
    entry, published = zoo.get_entry(name), zoo.pretrained_entries(name)
    config = entry.config
    lines = [
        f"{_STACKS[config.architecture]}, {config.num_stacks} of width {config.width} and depth {config.depth}. "
        f"Without weights it has {config.num_keypoints} keypoints ({config.skeleton.name}) and takes "
        f"{_px(config.input_size)} px; weights bring their own.",
        "",
        "| | counted here | reported in the paper |",
        "|---|---:|---:|",
        f"| parameters | {entry.params:,} | {_millions(entry)} |",
        f"| multiply-adds of a 256×256 image | {entry.macs / 1e9:.2f} G | {_billions(entry)} |",
        f"| PCKh@0.5 of the paper's weights on all of MPII | | {entry.paper_pckh or '–'} |",
        "",
        "```python",
        "import softgate_pose",
        "",
        f'model = softgate_pose.create_model("{name}"'
        + (", pretrained=True)" if published else ")  # with random weights: there are none yet"),
        "```",
        "",
        *(() if published else ("There are no weights of this model yet. [Training](../training.md) makes some.",)),
    ]
    for weights in published:
        lines += _weights_card(file, weights)
    return lines


def _weights_card(file: Path, weights: zoo.PretrainedEntry) -> list[str]:
    """One set of weights: what it takes, what it measures, how it came to be."""
    config, training = read_config(weights), read_training(weights)
    where = "in the package" if weights.folder is not None else f"`hf-hub:{weights.repo}@{weights.revision}`"
    lines = [f"## Weights `{weights.name}`", "", "| | |", "|---|---|", f"| where | {where} |"]
    if config is not None:
        skeleton = config.skeleton
        lines += [f"| input | {_size(config)} px |", f"| keypoints | {len(skeleton)} ({skeleton.name}) |"]
    lines += [f"| licence | {training.get('licence') or 'not stated'} |", f"| SHA-256 | `{weights.sha256}` |"]
    if training.get("metrics"):
        lines += ["", "Measured, in percent ([what the columns mean](../models.md#what-our-weights-measure)):", ""]
        lines += measured(file, weights.name)
    if data_lines(training):
        lines += ["", "Trained on:", "", *(f"- {line}" for line in data_lines(training))]
    if commands(training):
        lines += ["", "By:" if len(commands(training)) == 1 else "By, one after another:", ""]
        lines += ["```sh", *commands(training), "```"]
    return [*lines, ""]


def layout(file: Path) -> list[str]:
    """One line a module, its docstring's first."""
    rows = ["| module of `softgate_pose` | |", "|---|---|"]
    package = ROOT / "softgate_pose"
    for module in sorted(package.rglob("*.py"), key=lambda path: (len(path.parts), path)):
        tree = ast.parse(module.read_text(encoding="utf-8"))
        name = module.relative_to(package).as_posix()
        if name.endswith("/__init__.py") and any(isinstance(node, ast.FunctionDef) for node in tree.body):
            name = name.removesuffix("__init__.py")
        if "__" not in name:
            line = (ast.get_docstring(tree) or "").partition("\n")[0]
            rows.append(f"| `{name}` | {line.replace('``', '`')} |")
    return rows


def _page(file: Path, model: str) -> str:
    """The link from a file to a model's page."""
    return Path(os.path.relpath(PAGES / f"{model}.md", file.parent)).as_posix()


def _millions(entry: zoo.ModelEntry) -> str:
    return "–" if entry.paper_params is None else f"{entry.paper_params:.1f} M"


def _billions(entry: zoo.ModelEntry) -> str:
    return "–" if entry.paper_macs is None else f"{entry.paper_macs:.2f} G"


def _size(config: PoseConfig | None) -> str:
    return "unknown" if config is None else _px(config.input_size)


def _px(size: tuple[int, int]) -> str:
    return "×".join(map(str, size))


def benchmark(name: str, file: Path) -> list[str]:
    """What a command of `benchmarks` measured: the command, the machine, and its tables."""
    results = ROOT / "docs" / "speed" / f"{name}.json"
    if not results.exists():
        return [f"Not measured yet: `python -m benchmarks {name} --help`."]
    data = json.loads(results.read_text(encoding="utf-8"))
    machine = data["machine"]
    versions = ", ".join(f"{package} {version}" for package, version in machine.pop("versions").items())
    lines = ["```sh", data["command"], "```", "", ", ".join(f"{key} {value}" for key, value in machine.items()) + "."]
    lines += [f"Versions: {versions}."]
    for table in data["tables"]:
        shown = Table(table["title"], tuple(table["columns"]), [tuple(row) for row in table["rows"]])
        lines += ["", f"{shown.title}.", "", *shown.to_markdown()]
    if results.with_suffix(".png").exists():
        lines += ["", f"![{name}, drawn from the same run](speed/{name}.png)"]
    return lines


TABLES: dict[str, Callable[[Path], list[str]]] = {
    "models": models,
    "summary": summary,
    "measured": measured,
    "card": card,
    "layout": layout,
    **{name: partial(benchmark, name) for name in BENCHMARKS},
}


def main(check: bool) -> None:
    pages = [PAGES / f"{name}.md" for name in zoo.MODELS]
    for file in [ROOT / name for name in FILES] + pages:
        old = file.read_text(encoding="utf-8") if file.exists() else ""
        text = old or f"---\nhide: [toc]\n---\n\n# {file.stem}\n\n<!-- table: card -->\n<!-- end -->\n"

        def fill(match: re.Match[str], file: Path = file) -> str:
            table = "\n".join(TABLES[match[1]](file)).strip()
            return f"<!-- table: {match[1]} -->\n\n{table}\n\n<!-- end -->"

        new = re.sub(r"<!-- table: (\w+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)
        if new == old:
            continue
        shown = file.relative_to(ROOT).as_posix()
        if check:
            raise SystemExit(f"The tables of {shown} are old; run: make tables")
        file.write_text(new, encoding="utf-8")
        print(f"{shown}: tables written")
    gone = sorted(file.name for file in PAGES.glob("*.md") if file not in pages)
    if gone:
        raise SystemExit(f"docs/models has pages of no model: {', '.join(gone)}. Remove them, and from mkdocs.yml.")


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
