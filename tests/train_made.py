"""Train a tiny network on a made data set; as a script, in processes that are killed, and in several at once.

python tests/train_made.py LSP_FOLDER OUT

The runs are OUT/killed, which is not finished, and OUT/three.
"""

import importlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path

import torch

from softgate_pose import LSP, PoseConfig
from softgate_pose.data.lsp import read_lsp
from softgate_pose.model.softgate import SoftGatePose
from softgate_pose.training import crops
from softgate_pose.training.checkpoint import LAST
from softgate_pose.training.loop import Engine, fit
from softgate_pose.training.recipe import Recipe
from softgate_pose.training.task import KeypointTask

CONFIG = PoseConfig(name="tiny", num_stacks=1, width=8, depth=1, skeleton=LSP, input_size=(32, 32))
RECIPE = Recipe(epochs=3, batch_size=2)
ALIKE = Recipe(
    epochs=3, batch_size=3, optimizer="sgd", learning_rate=1e-2
)  # AdamW makes roundings of small gradients large


class _EnoughError(Exception):
    pass


def trained(
    people, folder, recipe=RECIPE, engine=None, config=CONFIG, stop_after=None, validation=None, teacher=None, **more
):
    """The weights that ``fit`` ends in, or None where it was stopped after so many epochs."""

    def stop(epoch):
        if epoch.row["epoch"] == stop_after:
            raise _EnoughError

    if stop_after is not None:
        more["report"] = stop
    torch.manual_seed(0)
    try:
        task = KeypointTask(SoftGatePose(config), people, validation=validation, teacher=teacher)
        return fit(task, recipe, folder, engine=engine or Engine(progress=False), **more).state_dict()
    except _EnoughError:
        return None


def started(target, *arguments, **environment):
    """A process of its own, in an environment of its own, that has imported what this one has."""

    def run():
        os.environ.update(environment)
        target(*arguments)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def killed(people, folder, moments):
    """How many processes that train were killed so many seconds after a state was replaced: within a step or a save."""
    state, kills = folder / LAST, 0
    for moment in moments:
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = started(trained, people, folder, RECIPE, Engine(progress=False, save_minutes=0))
        while process.is_alive():
            if state.exists() and state.stat().st_mtime_ns != before:
                time.sleep(moment)
                process.kill()
                break
            time.sleep(0.001)
        process.join(120)
        kills += process.exitcode == -signal.SIGKILL
    return kills


def on_two_machines(people, folder):
    """How many images each of three processes has read, of which the first two share a machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    count = multiprocessing.Array("i", 3)
    load = crops.load_image

    def counted(*given):
        count[int(os.environ["RANK"])] += 1
        return load(*given)

    crops.load_image = counted
    processes = [
        started(
            trained, people, folder, ALIKE, MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE="3",
            RANK=rank, LOCAL_RANK=place, LOCAL_WORLD_SIZE=size,
        )
        for rank, place, size in (("0", "0", "2"), ("1", "1", "2"), ("2", "0", "1"))
    ]  # fmt: skip
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    return list(count)


if __name__ == "__main__":
    for module in ("accelerate", "timm.optim", "timm.scheduler", "timm.utils", "torch.utils.tensorboard"):
        importlib.import_module(module)  # once, for all processes
    torch.set_num_threads(1)
    made, out = read_lsp(Path(sys.argv[1]), "train"), Path(sys.argv[2])
    kills = killed(made, out / "killed", (0.0, 0.003, 0.01))
    sys.stdout.write(json.dumps({"kills": kills, "images": on_two_machines(made, out / "three")}))
