"""Train a tiny network on a made data set; as a script, for tests that launch or kill processes.

python tests/train_made.py LSP_FOLDER RUN_FOLDER [--save-minutes M] [--batch-size B]
"""

import argparse
import dataclasses
from pathlib import Path

import torch

from softgate_pose import LSP, PoseConfig
from softgate_pose.data.lsp import read_lsp
from softgate_pose.model.softgate import SoftGatePose
from softgate_pose.training.loop import Engine, fit
from softgate_pose.training.recipe import Recipe
from softgate_pose.training.task import KeypointTask

CONFIG = PoseConfig(name="tiny", num_stacks=2, width=8, depth=2, skeleton=LSP, input_size=(64, 64))
RECIPE = Recipe(epochs=3, batch_size=2)


class _EnoughError(Exception):
    pass


def trained(
    people, folder, recipe=RECIPE, config=CONFIG, engine=None, stop_after=None, validation=None, teacher=None, **more
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--save-minutes", type=float, default=10)
    parser.add_argument("--batch-size", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    made = Engine(progress=False, save_minutes=arguments.save_minutes)
    recipe = dataclasses.replace(RECIPE, batch_size=arguments.batch_size)
    trained(read_lsp(arguments.data, "train"), arguments.folder, recipe, engine=made)
