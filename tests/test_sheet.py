import numpy as np
import pytest
import torch
from made_data import dotted_people
from PIL import Image

from softgate_pose.data.people import Predictions
from softgate_pose.evaluation.sheet import contact_sheet


@pytest.mark.parametrize(("count", "rows"), [(5, [4, 3, 2, 1, 0]), (2, [0, 4, 4, 3])])
def test_fixed_people_above_the_worst_or_all_of_them_once(tmp_path, monkeypatch, count, rows):
    people = dotted_people(tmp_path, 5)
    drawn = []
    cell = "softgate_pose.evaluation.sheet._cell"
    monkeypatch.setattr(cell, lambda people, predictions, errors, row: drawn.append(row) or _blank(row))
    predictions = Predictions(people.skeleton.keypoints, people.keypoints)
    sheet = contact_sheet(people, predictions, torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]), count=count)
    assert drawn == rows
    pixels = np.asarray(sheet)
    per_line = min(count, 5)
    assert pixels.shape[1] == per_line * 192
    for i, row in enumerate(rows):
        y, x = (i // per_line) * (192 + 14), (i % per_line) * 192
        assert (pixels[y : y + 206, x : x + 192] == 10 * row + 1).all()


def _blank(row):
    return Image.new("RGB", (192, 206), (10 * row + 1,) * 3)
