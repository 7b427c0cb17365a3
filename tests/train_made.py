"""Train a tiny network on a made data set; as a script, for tests that launch or kill processes.

python tests/train_made.py LSP_FOLDER RUN_FOLDER [--kill-after SECONDS ...]

It prints how many images it read, or how many processes were killed.
"""

import argparse
import multiprocessing
import signal
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


def killed(people, folder, moments):
    """How many processes that train were killed so many seconds after a state was replaced: within a step or a save."""
    state, kills = folder / LAST, 0
    for moment in moments:
        before = state.stat().st_mtime_ns if state.exists() else 0
        engine = Engine(progress=False, save_minutes=0)
        process = multiprocessing.get_context("fork").Process(target=trained, args=(people, folder, RECIPE, engine))
        process.start()
        while process.is_alive():
            if state.exists() and state.stat().st_mtime_ns != before:
                time.sleep(moment)
                process.kill()
                break
            time.sleep(0.001)
        process.join(120)
        kills += process.exitcode == -signal.SIGKILL
    return kills


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill-after", nargs="+", type=float)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    made = read_lsp(arguments.data, "train")
    if arguments.kill_after:
        sys.stdout.write(str(killed(made, arguments.folder, arguments.kill_after)))
    else:
        load, images = crops.load_image, []
        crops.load_image = lambda *given: images.append(given[0]) or load(*given)
        trained(made, arguments.folder, ALIKE)
        sys.stdout.write(str(len(images)))
