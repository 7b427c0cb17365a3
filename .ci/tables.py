"""Write the tables between `<!-- table: NAME -->` and `<!-- end -->` from the zoo and the measured JSON.

Run `make tables` after bundling weights, or after `python -m benchmarks NAME ... --out docs/speed`; with
--check it changes nothing and fails if a table is old.
"""

import json
import re
import sys
from functools import partial
from pathlib import Path

from benchmarks.report import Table
from softgate_pose import zoo
from softgate_pose.card import commands, data_lines

ROOT = Path(__file__).parent.parent
FILES = ("README.md", "docs/models.md", "docs/speed.md")
BENCHMARKS = ("speed", "profile", "limits", "decoding", "photos", "memory", "accuracy")
PARTS = ("head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "mean", "limbs", "mean@0.1")


def models() -> list[str]:
    """Budgets: ours, counted, apart from the paper's, printed."""
    rows = [
        "| model | parameters | MACs at 256² | weights here "
        "| paper: parameters | paper: MACs | paper: PCKh@0.5, all of MPII |",
        "|---|---:|---:|---|---:|---:|---|",
    ]
    for name, entry in zoo.MODELS.items():
        tags = ", ".join(f"`.{zoo.get_pretrained(full).tag}`" for full in zoo.list_pretrained(name))
        macs = f"{entry.paper_macs:.2f} G" if entry.paper_macs is not None else "–"
        rows.append(
            f"| `{name}` | {entry.params / 1e6:.2f} M | {entry.macs / 1e9:.2f} G | {tags or 'none yet'} "
            f"| {entry.paper_params:.1f} M | {macs} | {entry.paper_pckh or '–'} |"
        )
    return rows


def measured() -> list[str]:
    """What our weights measure, part by part, and the mean pose beside them."""
    rows = [
        "| weights | people, protocol | flip test | " + " | ".join(PARTS) + " |",
        "|---|---|---|" + "---:|" * len(PARTS),
    ]
    for full in zoo.list_pretrained():
        card = zoo.read_card(zoo.get_pretrained(full))
        size = "×".join(map(str, card["config"].input_size))
        for label, key in ((f"`{full}`, {size} px", "metrics"), ("always the mean training pose", "baseline")):
            for row in card.get(key, ()):
                flip = {True: "yes", False: "no"}.get(row.get("flip_test"), "–")
                cells = [label, f"{row['people']} of {row['data']}, {row['protocol']}", flip]
                rows.append("| " + " | ".join(cells + [f"{row[p]:.1f}" if p in row else "–" for p in PARTS]) + " |")
    return rows


def training() -> list[str]:
    """How each of our weights was trained."""
    lines: list[str] = []
    for full in zoo.list_pretrained():
        card = zoo.read_card(zoo.get_pretrained(full))
        lines += [f"### `{full}`", "", f"Licence: {card['licence']}.", "", "Trained on:", ""]
        lines += [*data_lines(card), "", "```sh", *commands(card), "```"]
    return lines


def benchmark(name: str) -> list[str]:
    """What a command of `benchmarks` measured: the command, the machine, and its tables."""
    file = ROOT / "docs" / "speed" / f"{name}.json"
    if not file.exists():
        return [f"Not measured yet: `python -m benchmarks {name} --help`."]
    data = json.loads(file.read_text(encoding="utf-8"))
    machine = data["machine"]
    versions = ", ".join(f"{package} {version}" for package, version in machine.pop("versions").items())
    lines = ["```sh", data["command"], "```", "", ", ".join(f"{key} {value}" for key, value in machine.items()) + "."]
    lines += [f"Versions: {versions}."]
    for table in data["tables"]:
        shown = Table(table["title"], tuple(table["columns"]), [tuple(row) for row in table["rows"]])
        lines += ["", f"{shown.title}.", "", *shown.to_markdown()]
    if file.with_suffix(".png").exists():
        lines += ["", f"![{name}, drawn from the same run](speed/{name}.png)"]
    return lines


TABLES = {"models": models, "measured": measured, "training": training}
TABLES |= {name: partial(benchmark, name) for name in BENCHMARKS}


def main(check: bool) -> None:
    for name in FILES:
        file = ROOT / name
        text = file.read_text(encoding="utf-8")

        def fill(match: re.Match[str]) -> str:
            return f"<!-- table: {match[1]} -->\n\n" + "\n".join(TABLES[match[1]]()) + "\n\n<!-- end -->"

        new = re.sub(r"<!-- table: (\w+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)
        if new == text:
            continue
        if check:
            raise SystemExit(f"The tables of {name} are old; run: make tables")
        file.write_text(new, encoding="utf-8")
        print(f"{name}: tables written")


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
