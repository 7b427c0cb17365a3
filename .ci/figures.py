"""Measure all weights of the package anew: python .ci/figures.py DATA [--write].

DATA is the folder that holds `lsp` and `mpii_sports`. Without --write nothing is changed, and a figure that is more
than 0.2 from the one on its card (rounding differs a little between machines) ends in status 1. With --write the
cards get the new figures; then run `make tables`.
"""

import json
import sys
from pathlib import Path

from softgate_pose import create_model, zoo
from softgate_pose.card import model_card
from softgate_pose.evaluation import evaluate
from softgate_pose.readers import read_people

KINDS = {"lsp": "lsp", "mpii_sports": "mpii"}
TOLERANCE = 0.2


def main(data: Path, write: bool) -> int:
    differing = 0
    for name in zoo.list_pretrained():
        folder = zoo.get_pretrained(name).folder
        if folder is None:
            continue
        file = folder / zoo.TRAINING_FILE
        training = json.loads(file.read_text(encoding="utf-8"))
        model = create_model(name, channels_last=True)
        for i, row in enumerate(training["metrics"]):
            place, split = row["data"].split()
            people = read_people(f"{KINDS[place]}:{data / place}:{split}")
            result = evaluate(model, people, flip_test=row["flip_test"], progress=True).to_dict()
            found = {"data": row["data"], "flip_test": row["flip_test"], **result}
            off = [key for key in found if key not in row or _differ(found[key], row[key])]
            differing += len(off)
            told = ", ".join(f"{key} {row.get(key)} on the card, {found[key]} now" for key in off)
            print(f"{name}, {row['data']}, flip test {row['flip_test']}: {told or 'as on the card'}", flush=True)
            training["metrics"][i] = found
        if write:
            file.write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
            card = model_card(model.config, training, name)
            (folder / "README.md").write_text(card, encoding="utf-8")
    return 0 if write or not differing else 1


def _differ(found: object, stored: object) -> bool:
    if isinstance(found, float) and isinstance(stored, (int, float)):
        return abs(found - stored) > TOLERANCE
    return found != stored


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "--write" in sys.argv[2:]))
