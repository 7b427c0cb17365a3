import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from softgate_pose import LSP, PoseConfig
from softgate_pose.evaluation import predict_people
from softgate_pose.model.network import SoftGatePose
from softgate_pose.pose import geometry
from softgate_pose.pose.heatmaps import render_heatmaps
from softgate_pose.readers import read_lsp, read_mpii_json
from softgate_pose.training.augment import Augmentation, Crops, augment, batches, crop_people
from softgate_pose.training.loop import Recipe, fit
from softgate_pose.training.losses import heatmap_loss

# --- augmentation ---------------------------------------------------------------------------------


CONFIG = PoseConfig(name="tiny", num_stacks=2, width=8, depth=2, skeleton=LSP, input_size=(64, 64))


@pytest.fixture
def dotted_crops():
    """Crops with a smooth bright dot at one labelled keypoint each."""
    generator = torch.Generator().manual_seed(0)
    places = 38 + torch.rand(8, 2, generator=generator) * 20
    images = (render_heatmaps(places, (96, 96), sigma=3.0) * 255).round().byte()[:, None].expand(-1, 3, -1, -1)
    keypoints = torch.zeros(8, 14, 2)
    labelled = torch.zeros(8, 14, dtype=torch.bool)
    keypoints[:, LSP.keypoints.index("left_knee")] = places
    labelled[:, LSP.keypoints.index("left_knee")] = True
    return Crops(images.contiguous(), keypoints, labelled)


def test_augmentation_moves_images_and_keypoints_together(dotted_crops):
    changes = Augmentation(brightness=0, contrast=0, tint=0)
    images, keypoints, labelled = augment(dotted_crops, CONFIG, changes, torch.Generator().manual_seed(1))
    assert images.shape == (8, 3, 64, 64)
    assert labelled.sum(1).tolist() == [1] * 8
    names = [LSP.keypoints[k] for k in labelled.nonzero()[:, 1]]
    assert set(names) == {"left_knee", "right_knee"}  # some were mirrored, and changed their side
    flat = images[:, 0].flatten(1)
    found = torch.stack((flat.argmax(1) % 64, flat.argmax(1) // 64), dim=-1)
    expected = keypoints[labelled]
    assert (found - expected).abs().amax() <= 1.0


def test_without_changes_augmentation_is_the_plain_crop(lsp_folder):
    people = read_lsp(lsp_folder[0], "train")
    crops = crop_people(people, CONFIG)
    still = Augmentation(rotation=0, zoom=1, shift=0, flip=0, brightness=0, contrast=0, tint=0)
    _, keypoints, _ = augment(crops, CONFIG, still, torch.Generator())
    plain = geometry.transform_points(geometry.box_to_crop(people.boxes, CONFIG.input_size, 1.25), people.keypoints)
    torch.testing.assert_close(keypoints.double(), plain, atol=1e-3, rtol=0)


def test_a_seed_repeats_an_epoch(dotted_crops):
    def epoch(seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.cat(
            [augment(b, CONFIG, Augmentation(), generator)[0] for b in batches(dotted_crops, 3, generator)]
        )

    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(1), epoch(2))
    assert len(epoch(1)) == 6  # the incomplete batch is left out


def test_keypoints_that_leave_the_input_are_not_labelled(dotted_crops):
    dotted_crops.keypoints[:, LSP.keypoints.index("left_knee")] = torch.tensor([300.0, 20.0])
    _, _, labelled = augment(dotted_crops, CONFIG, Augmentation(), torch.Generator().manual_seed(0))
    assert not labelled.any()


# --- losses ---------------------------------------------------------------------------------------


def test_a_perfect_network_has_no_loss():
    keypoints = torch.tensor([[[21.5, 33.5], [50.0, 10.0]]])
    labelled = torch.ones(1, 2, dtype=torch.bool)
    perfect = render_heatmaps(geometry.input_to_heatmap(keypoints, 4), (16, 16))
    two = CONFIG.replace(skeleton=LSP)
    assert heatmap_loss([perfect], keypoints, labelled, two.replace(heatmap="gaussian")) == 0
    logits = perfect.double().clamp_min(1e-30).log()
    assert heatmap_loss([logits, logits + 3], keypoints, labelled, two) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("heatmap", ["softmax", "gaussian"])
def test_unlabelled_keypoints_do_not_reach_the_loss(heatmap):
    config = CONFIG.replace(heatmap=heatmap)
    output = torch.randn(1, 2, 16, 16, requires_grad=True)
    keypoints = torch.tensor([[[20.0, 20.0], [1e9, -1e9]]])
    labelled = torch.tensor([[True, False]])
    heatmap_loss([output], keypoints, labelled, config).backward()
    assert output.grad[0, 0].abs().sum() > 0
    assert output.grad[0, 1].eq(0).all()
    none = heatmap_loss([output], keypoints, torch.zeros(1, 2, dtype=torch.bool), config)
    assert none == 0


def test_the_gaussian_loss_is_the_mean_squared_error_over_stacks():
    outputs = [torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)]
    keypoints = torch.rand(2, 3, 2) * 60
    target = render_heatmaps(geometry.input_to_heatmap(keypoints, 4), (16, 16))
    expected = sum(torch.nn.functional.mse_loss(output, target) for output in outputs) / 2
    found = heatmap_loss(outputs, keypoints, torch.ones(2, 3, dtype=torch.bool), CONFIG.replace(heatmap="gaussian"))
    torch.testing.assert_close(found, expected)


# --- the loop -------------------------------------------------------------------------------------

RECIPE = Recipe(epochs=2, batch_size=2)


def trained(people, folder, recipe=RECIPE, config=CONFIG):
    torch.manual_seed(0)
    return fit(SoftGatePose(config), people, recipe, folder, progress=False).state_dict()


def test_a_resumed_run_ends_in_the_same_weights(lsp_folder, tmp_path, monkeypatch):
    people = read_lsp(lsp_folder[0], "train")
    whole = trained(people, tmp_path / "whole")
    from softgate_pose.training import loop

    step, calls = loop._step, []

    def stopped(*args):
        calls.append(1)
        if len(calls) == 5:  # in the second epoch
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(loop, "_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        trained(people, tmp_path / "parts")
    monkeypatch.setattr(loop, "_step", step)
    resumed = trained(people, tmp_path / "parts")
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key
    log = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2]


def test_a_finished_run_is_returned_as_it_is(lsp_folder, tmp_path):
    people = read_lsp(lsp_folder[0], "train")
    first, second = trained(people, tmp_path / "run"), trained(people, tmp_path / "run")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_does_not_go_on_with_another_recipe(lsp_folder, tmp_path):
    people = read_lsp(lsp_folder[0], "train")
    trained(people, tmp_path / "run")
    with pytest.raises(ValueError, match="another recipe, model or number of people"):
        trained(people, tmp_path / "run", recipe=Recipe(epochs=3, batch_size=2))


def test_training_refuses_what_cannot_work(lsp_folder, mpii_folder, tmp_path):
    people = read_lsp(lsp_folder[0], "train")
    with pytest.raises(ValueError, match="6 people are fewer than one batch of 32"):
        trained(people, tmp_path / "run", recipe=Recipe())
    with pytest.raises(ValueError, match="skeleton 'mpii', the model 'lsp'"):
        trained(read_mpii_json(mpii_folder, "valid"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_learning_rate_rises_and_falls_to_nothing(lsp_folder, tmp_path, monkeypatch):
    from softgate_pose.training import loop

    step, rates = loop._step, []

    def watched(model, batch, recipe, optimizer, generator):
        rates.append(optimizer.param_groups[0]["lr"])
        return step(model, batch, recipe, optimizer, generator)

    monkeypatch.setattr(loop, "_step", watched)
    trained(read_lsp(lsp_folder[0], "train"), tmp_path / "run", recipe=Recipe(epochs=10, batch_size=2, warmup=0.2))
    assert rates.index(max(rates)) == 6  # of 30 steps
    assert max(rates) == 1e-3
    assert rates[-1] < 1e-5
    with pytest.raises(ValueError, match="optimizer must be one of adamw"):
        Recipe(optimizer="lamb")


def test_training_learns(tmp_path):
    """Eight people whose joints are one bright dot: the network must find it."""
    rng = np.random.default_rng(0)
    places = rng.uniform(20, 40, (2, 1, 8)) + np.zeros((2, 14, 8)) + 1
    places[0, 0], places[0, 1] = places[0, 0] - 15, places[0, 1] + 15  # an extent, for the box
    savemat(tmp_path / "joints.mat", {"joints": np.concatenate([places, np.zeros((1, 14, 8))])})
    (tmp_path / "images").mkdir()
    for i in range(8):
        dot = render_heatmaps(torch.tensor(places[:, 5, i] - 1), (60, 60), sigma=3.0).numpy()
        Image.fromarray((dot * 255).astype(np.uint8)).convert("RGB").save(tmp_path / f"images/im{i + 1:04d}.jpg")
    people = read_lsp(tmp_path, "train")
    recipe = Recipe(epochs=30, batch_size=8, learning_rate=1e-2, ema_decay=0.8)
    torch.manual_seed(0)
    model = fit(SoftGatePose(CONFIG), people, recipe, tmp_path / "run", progress=False)
    error = torch.linalg.vector_norm(predict_people(model, people).keypoints - people.keypoints, dim=-1)
    assert error[:, 2:].median() < 4  # of 60 pixels; untrained it is above 15
