"""Measure all weights of the package anew: python .ci/figures.py [DATA] [--write].

DATA is the folder that holds `lsp` and `mpii_sports`, and `lspet` for the mean poses; without it only the people of
the example photos are measured. Without --write nothing is changed, and a figure that is more than 0.2 from the one on
its card (rounding differs a little between machines) ends in status 1. With --write the cards get the new figures;
then run `make tables`.
"""

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bundle import write_card

from softgate_pose import create_model, zoo
from softgate_pose.cli.train import train_command
from softgate_pose.data.people import People, concatenate
from softgate_pose.data.sources import read_people
from softgate_pose.evaluation.pck import evaluate, mean_pose_keypoints, score_keypoints
from softgate_pose.weights.record import TRAINING_FILE

ROOT = Path(__file__).parent.parent
OURS = {"examples people": f"coco:{ROOT / 'examples'}:people"}
THEIRS = {"mpii_sports valid": "mpii:{}/mpii_sports:valid", "lsp test": "lsp:{}/lsp:test"}
TOLERANCE = 0.2


def main(data: Path | None, write: bool) -> int:
    tests = OURS if data is None else {**{name: text.format(data) for name, text in THEIRS.items()}, **OURS}
    differing = 0
    for entry in zoo.pretrained_entries():
        name, folder = entry.name, entry.folder
        if folder is None:
            continue
        training = json.loads((folder / TRAINING_FILE).read_text(encoding="utf-8"))
        for table, row in measured(name, training, tests, data):
            label = {key: row[key] for key in ("data", "flip_test") if key in row}
            there = next((old for old in training[table] if label.items() <= old.items()), {})
            off = [key for key in row if key not in there or _differ(row[key], there[key])]
            differing += len(off)
            difference = ", ".join(f"{key} {there.get(key)} on the card, {row[key]} now" for key in off)
            what = "" if table == "metrics" else "mean pose, "
            print(f"{name}, {what}{label}: {difference or 'as on the card'}", flush=True)
            if there:
                training[table][training[table].index(there)] = row
            else:
                training[table].append(row)
        if write:
            (folder / TRAINING_FILE).write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
            write_card(folder, name)
    return 0 if write or not differing else 1


def measured(
    name: str, training: dict[str, Any], tests: dict[str, str], data: Path | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of the card's tables `metrics` and, as DATA has the people whose mean pose it is, `baseline`."""
    model = create_model(name, channels_last=True)
    average = None if data is None else trained_on(training["command"], data)
    for label, source in tests.items():
        people = read_people(source)
        for flip_test in (False, True):
            result = evaluate(model, people, flip_test=flip_test, progress=True).to_dict()
            yield "metrics", {"data": label, "flip_test": flip_test, **result}
        if average is not None:
            mean_pose = mean_pose_keypoints(average.to_skeleton(people.skeleton), people)
            yield "baseline", {"data": label, **score_keypoints(mean_pose, people).to_dict()}


def trained_on(command: str, data: Path) -> People:
    """The people that a training command trained on."""
    options = train_command.make_context("train", shlex.split(command)[2:]).params
    sources = [source.replace(":data/", f":{data}/") for source in options["sources"]]
    model = zoo.MODELS["sgpose_0m5_1s"].config  # all bundled weights have MPII's keypoints
    return concatenate(
        [read_people(s).to_skeleton(model.skeleton).hold_out(options["hold_out"], options["seed"])[0] for s in sources]
    )


def _differ(now: object, stored: object) -> bool:
    if isinstance(now, float) and isinstance(stored, (int, float)):
        return abs(now - stored) > TOLERANCE
    return now != stored


if __name__ == "__main__":
    folders = [argument for argument in sys.argv[1:] if argument != "--write"]
    sys.exit(main(Path(folders[0]) if folders else None, "--write" in sys.argv[1:]))
