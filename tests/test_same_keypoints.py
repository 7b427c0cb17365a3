"""The bundled weights find the keypoints that they have always found."""

import json
from pathlib import Path

import pytest
import torch

from softgate_pose import create_model, predict

ROOT = Path(__file__).parent.parent
STORED = json.loads((ROOT / "tests" / "keypoints.json").read_text("utf-8"))
BOXES = json.loads((ROOT / "examples" / "boxes.json").read_text("utf-8"))["photo.jpg"]


@pytest.mark.parametrize("name", STORED)
def test_bundled_weights_find_the_stored_keypoints(name):
    model = create_model(name, dtype=torch.float64)  # whose rounding is the same on every processor
    poses = predict(model, ROOT / "examples" / "photo.jpg", BOXES)
    stored = torch.tensor(STORED[name], dtype=torch.float64)
    assert (poses.keypoints - stored).abs().max() < 1e-4
