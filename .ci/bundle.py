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
    checkpoint = find_checkpoint(folder)
    assert checkpoint.config is not None
    digest = file_digest(checkpoint.file)
    card = model_card(checkpoint.config, read_record(folder / TRAINING_FILE), name, digest)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    return digest


def main(folder: Path, tag: str) -> None:
    config = find_checkpoint(folder).config
    if config is None:
        raise SystemExit(f"{folder} carries no config.")
    get_entry(config.name)
    target = BUNDLED / f"{config.name}.{tag}"
    if folder.resolve() == target.resolve() or not (folder / TRAINING_FILE).is_file():
        raise SystemExit(f"{folder} is no run's model: it is the bundle itself, or has no {TRAINING_FILE}.")
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(folder, target)
    digest = write_card(target, target.name)
    index = json.loads((BUNDLED / "index.json").read_text(encoding="utf-8"))
    row = {"model": config.name, "tag": tag, "sha256": digest, "bundled": True}
    places = [i for i, old in enumerate(index) if (old["model"], old["tag"]) == (config.name, tag)]
    at = places[0] if places else len(index)
    index[at : at + 1] = [row]
    (BUNDLED / "index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    print(f"Bundled {target.name}, sha256 {digest}. Now run: make tables")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
