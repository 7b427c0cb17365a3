"""Put trained weights into the package: python .ci/bundle.py RUN/model TAG.

The folder is one that `softgate-pose train` saved. It replaces weights of the same model and tag.
"""

import json
import shutil
import sys
from pathlib import Path

from softgate_pose.weights.card import model_card
from softgate_pose.weights.files import file_digest, find_checkpoint
from softgate_pose.weights.record import CARD_FILE, TRAINING_FILE, read_record
from softgate_pose.zoo import BUNDLED, get_entry


def write_card(folder: Path, name: str) -> str:
    """Write the card of bundled weights from what is stored beside them; their sha256."""
    found = find_checkpoint(folder)
    assert found.config is not None
    training = read_record(folder / TRAINING_FILE)
    digest = file_digest(found.file)
    (folder / CARD_FILE).write_text(model_card(found.config, training, name, digest), encoding="utf-8")
    return digest


def main(folder: Path, tag: str) -> None:
    found = find_checkpoint(folder)
    if found.config is None:
        raise SystemExit(f"{folder} carries no config.")
    model = found.config.name
    get_entry(model)
    target = BUNDLED / f"{model}.{tag}"
    if folder.resolve() == target.resolve() or not (folder / TRAINING_FILE).is_file():
        raise SystemExit(f"{folder} is no run's model: it is the bundle itself, or has no {TRAINING_FILE}.")
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(folder, target)
    index = json.loads((BUNDLED / "index.json").read_text(encoding="utf-8"))
    digest = write_card(target, f"{model}.{tag}")
    row = {"model": model, "tag": tag, "sha256": digest, "bundled": True}
    places = [i for i, old in enumerate(index) if (old["model"], old["tag"]) == (model, tag)]
    at = places[0] if places else len(index)
    index[at : at + 1] = [row]
    (BUNDLED / "index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    print(f"Bundled {target.name}, sha256 {digest}. Now run: make tables")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
