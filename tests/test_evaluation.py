import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from softgate_pose import LSP, MPII, predict
from softgate_pose.evaluation import evaluate, mean_pose_keypoints, predict_people, score_keypoints
from softgate_pose.people import People


def people_of(skeleton, count, folder=None, *, seed=0, **columns):
    """Random people, all labelled, each in an 80 x 60 image of its own if there is a folder for them."""
    generator = torch.Generator().manual_seed(seed)
    images = tuple((folder or Path()) / f"{i}.png" for i in range(count))
    for i, file in enumerate(images if folder else ()):
        pixels = np.random.default_rng(i).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    defaults = {
        "keypoints": 5 + 50 * torch.rand(count, len(skeleton), 2, generator=generator, dtype=torch.float64),
        "labelled": torch.ones(count, len(skeleton), dtype=torch.bool),
        "boxes": torch.tensor([[4.0, 4.0, 56.0, 56.0]], dtype=torch.float64).repeat(count, 1),
        "head_boxes": torch.full((count, 4), math.nan, dtype=torch.float64),
    }
    return People(skeleton, images, **{**defaults, **columns})


def head_boxes(*rows):
    return torch.tensor([row or [math.nan] * 4 for row in rows], dtype=torch.float64)


def test_perfect_predictions_score_full_marks():
    lsp = people_of(LSP, 6)
    result = score_keypoints(lsp.keypoints, lsp)
    assert (result.protocol, result.table["mean"], result.people) == ("PCK@0.2", 100, 6)
    mpii = people_of(MPII, 3, head_boxes=head_boxes([10, 10, 18, 16], None, [5, 5, 9, 9]))
    result = score_keypoints(mpii.keypoints, mpii)
    assert (result.protocol, result.table["mean"], result.mean_fine) == ("PCKh@0.5", 100, 100)
    assert (result.people, result.left_out) == (2, 1)  # one has no head box


def test_evaluating_predicts_in_image_pixels(tiny_model, tmp_path):
    people = people_of(LSP, 6, tmp_path)
    keypoints = predict_people(tiny_model, people, batch_size=4)
    assert keypoints.shape == (6, 14, 2)
    assert evaluate(tiny_model, people, flip_test=True).people == 6
    single = predict(tiny_model, people.images[3], people.boxes[3:4])
    torch.testing.assert_close(single.keypoints[0], keypoints[3], atol=1e-3, rtol=0)


def test_a_model_that_lacks_a_keypoint_cannot_be_scored(tiny_model):
    with pytest.raises(ValueError, match="does not predict pelvis, thorax"):
        evaluate(tiny_model, people_of(MPII, 1))


def test_the_mean_pose_fills_each_box():
    people = people_of(LSP, 6)
    people = people_of(LSP, 6, boxes=people.boxes * torch.linspace(0.5, 1, 6, dtype=torch.float64)[:, None])
    found = mean_pose_keypoints(people, people)
    sizes = people.boxes[:, 2:] - people.boxes[:, :2]
    relative = (people.keypoints - people.boxes[:, None, :2]) / sizes[:, None]
    torch.testing.assert_close(found, relative.mean(0) * sizes[:, None] + people.boxes[:, None, :2])
