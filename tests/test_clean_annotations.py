"""examples/clean_annotations.py: what a model's keypoints change in a table of people."""

import json
import math
import runpy
from pathlib import Path

import pytest
import torch

from softgate_pose import LSP
from softgate_pose.data.people import People
from softgate_pose.data.sources import read_people

EXAMPLE = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "clean_annotations.py"))
LEFT_ANKLE, HEAD = LSP.keypoints.index("left_ankle"), LSP.keypoints.index("head_top")


@pytest.fixture
def people(tmp_path):
    """Two people with a box of 100 pixels; the second has no left ankle."""
    places = torch.rand(2, len(LSP), 2, generator=torch.Generator().manual_seed(0)).double() * 80 + 10
    labelled = torch.ones(2, len(LSP), dtype=torch.bool)
    labelled[1, LEFT_ANKLE] = False
    places = torch.where(labelled[..., None], places, 0.0)
    boxes = torch.tensor([[0.0, 0.0, 100.0, 90.0]] * 2).double()
    images = (tmp_path / "images" / "a.jpg", tmp_path / "images" / "b.jpg")
    return People(LSP, images, places, labelled, boxes, torch.full((2, 4), math.nan).double(), ())


def clean(people, seen, score=0.9, **settings):
    scores = torch.full(seen.shape[:2], score)
    return EXAMPLE["clean"](people, seen, scores, **settings)


def test_a_model_that_agrees_changes_nothing(people):
    cleaned, changes = clean(people, people.keypoints)
    assert torch.equal(cleaned.labelled, people.labelled)
    torch.testing.assert_close(cleaned.keypoints, people.keypoints)
    assert not any(count for what, count in changes.items() if what != "labels moved")


def test_a_model_without_confidence_changes_nothing(people):
    cleaned, changes = clean(people, people.keypoints + 50, score=0.2)
    assert torch.equal(cleaned.keypoints, people.keypoints)
    assert set(changes.values()) == {0}


def test_left_and_right_change_places_with_their_labels(people):
    mirrored = people.keypoints[:, torch.tensor(LSP.mirror)]
    mirrored[1, LEFT_ANKLE] = people.keypoints[1, LSP.mirror[LEFT_ANKLE]]
    cleaned, changes = clean(people, mirrored)
    assert changes["people whose left and right changed places"] == 2
    torch.testing.assert_close(cleaned.keypoints[0], mirrored[0])
    assert cleaned.labelled[1, LEFT_ANKLE]
    assert not cleaned.labelled[1, LSP.mirror[LEFT_ANKLE]]


def test_far_labels_go_and_near_ones_move_half_way(people):
    seen = people.keypoints.clone()
    seen[0, HEAD, 0] += 20
    seen[0, LEFT_ANKLE, 1] += 10
    cleaned, changes = clean(people, seen)
    assert changes["labels taken away"] == 1
    assert not cleaned.labelled[0, HEAD]
    assert cleaned.keypoints[0, HEAD].tolist() == [0, 0]
    torch.testing.assert_close(cleaned.keypoints[0, LEFT_ANKLE], people.keypoints[0, LEFT_ANKLE] + torch.tensor([0, 5]))


def test_nobody_is_left_without_a_label(people):
    cleaned, changes = clean(people, people.keypoints + 1000)
    assert torch.equal(cleaned.labelled, people.labelled)
    assert changes["labels taken away"] == 0


def test_fill_adds_what_nobody_labelled(people):
    seen = people.keypoints.clone()
    seen[1, LEFT_ANKLE] = torch.tensor([30.0, 40.0])
    assert not clean(people, seen)[0].labelled[1, LEFT_ANKLE]
    cleaned, changes = clean(people, seen, fill=True)
    assert changes["labels added"] == 1
    assert cleaned.keypoints[1, LEFT_ANKLE].tolist() == [30, 40]


def test_the_file_is_read_as_the_people_that_were_written(people, tmp_path):
    (tmp_path / "images").mkdir()
    for image in people.images:
        image.touch()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "cleaned.json").write_text(json.dumps(EXAMPLE["to_coco"](people, tmp_path)))
    read = read_people(f"coco:{tmp_path}:cleaned")
    assert read.images == people.images
    assert read.skeleton.keypoints == LSP.keypoints
    assert read.skeleton.edges == LSP.edges
    assert torch.equal(read.labelled, people.labelled)
    torch.testing.assert_close(read.keypoints, people.keypoints, atol=0.01, rtol=0)
    torch.testing.assert_close(read.boxes, people.boxes)
