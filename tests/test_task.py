"""A second task for the training engine, which finds a disc on a whole made image by one centre heatmap."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from softgate_pose.pose import geometry
from softgate_pose.pose.heatmaps import decode_heatmaps, render_heatmaps
from softgate_pose.training.loop import fit
from softgate_pose.training.recipe import Augmentation, Engine, Recipe

SIDE, STRIDE = 32, 4
RECIPE = Recipe(epochs=20, batch_size=8, learning_rate=2e-2, ema_decay=0.8, augmentation=Augmentation(rotation=0.0))
QUIET = Engine(progress=False)


class Finder(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 8, 5, 2, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 5, 2, 2), nn.ReLU()
        self.layers = nn.Sequential(*layers, nn.Conv2d(8, 1, 5, padding=2))

    def outputs(self, images):
        return [self.layers(images)]


class Mirrored:
    def __init__(self, rows):
        self.rows = rows

    def part(self, rows):
        return Mirrored(self.rows[rows])


class FindDiscs:
    """It is the store of its samples, too."""

    unreadable = ()

    def __init__(self, count=16):
        self.model = Finder()
        self.centres = 8 + torch.rand(count, 1, 2, generator=torch.Generator().manual_seed(0)) * 16
        self.images = render_heatmaps(self.centres, (SIDE, SIDE), sigma=2.0)
        self.fingerprint = f"{count} discs"

    def __len__(self):
        return len(self.images)

    def identity(self):
        return {"model": "finder", "people": self.fingerprint}

    def check(self, recipe, parts):
        if recipe.augmentation.rotation:
            raise ValueError(f"rotation does nothing to a disc, got {recipe.augmentation.rotation}.")

    def prepare(self, accelerator, engine, folder):
        return self

    def batches(self, rows):
        return ((self.images[group], self.centres[group]) for group in rows)

    def draw(self, count, recipe, generator):
        return Mirrored(torch.rand(count, generator=generator) < recipe.augmentation.flip)

    def inputs(self, samples, changes):
        images, centres = samples
        centres = geometry.transform_points(geometry.mirror_crop(changes.rows, SIDE), centres)
        return torch.where(changes.rows[:, None, None, None], images.flip(-1), images), centres

    def loss(self, outputs, images, targets):
        places = geometry.input_to_heatmap(targets, STRIDE)
        return (outputs[-1] - render_heatmaps(places, (SIDE // STRIDE, SIDE // STRIDE))).square().mean()

    def validate(self, model, epoch, sheets):
        with torch.no_grad():
            places, _ = decode_heatmaps(model.eval().outputs(self.images)[-1])
        errors = (geometry.heatmap_to_input(places, STRIDE) - self.centres).norm(dim=-1)
        return SimpleNamespace(protocol="pixels", people=len(self), figures={"median": float(errors.median())})


def weights(task, folder, recipe=RECIPE, **more):
    return fit(task, recipe, folder, engine=QUIET, **more).state_dict()


def test_the_loop_trains_another_task_and_goes_on_with_it(tmp_path):
    epochs = []
    whole = weights(FindDiscs(), tmp_path / "whole", report=epochs.append)
    assert epochs[-1].row["pixels median"] < 1 < epochs[0].row["pixels median"]
    assert "pixels median" in (tmp_path / "whole" / "log.csv").read_text()

    def stop(epoch):
        if epoch.row["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights(FindDiscs(), tmp_path / "parts", report=stop)
    again = weights(FindDiscs(), tmp_path / "parts")
    assert all(torch.equal(again[key], value) for key, value in whole.items())
    with pytest.raises(ValueError, match="'16 discs' there, '24 discs' here"):
        weights(FindDiscs(24), tmp_path / "parts")


def test_a_task_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(ValueError, match=r"rotation .*60\.0"):
        weights(FindDiscs(), tmp_path / "run", dataclasses.replace(RECIPE, augmentation=Augmentation()))
    assert not (tmp_path / "run").exists()
