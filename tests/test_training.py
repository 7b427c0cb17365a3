import dataclasses

import pytest
import torch
from accelerate import Accelerator

from softgate_pose import LSP, PoseConfig
from softgate_pose.data.images import load_image, normalize
from softgate_pose.data.lsp import read_lsp
from softgate_pose.pose import geometry
from softgate_pose.pose.heatmaps import render_heatmaps
from softgate_pose.training.augment import augment, sample_changes
from softgate_pose.training.crops import Crops, CropStore
from softgate_pose.training.losses import heatmap_loss
from softgate_pose.training.recipe import Augmentation, Engine

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


def changed(crops, augmentation=None, seed=0):
    drawing = augmentation or Augmentation()
    changes = sample_changes(len(crops), CONFIG.in_chans, drawing, torch.Generator().manual_seed(seed))
    return augment(crops, changes, CONFIG)


def test_augmentation_moves_images_and_keypoints_together(dotted_crops):
    changes = Augmentation(brightness=0, contrast=0, tint=0)
    images, keypoints, labelled = changed(dotted_crops, changes, seed=1)
    assert images.shape == (8, 3, 64, 64)
    assert labelled.sum(1).tolist() == [1] * 8
    names = [LSP.keypoints[k] for k in labelled.nonzero()[:, 1]]
    assert set(names) == {"left_knee", "right_knee"}  # some were mirrored, and changed their side
    flat = images[:, 0].flatten(1)
    found = torch.stack((flat.argmax(1) % 64, flat.argmax(1) // 64), dim=-1)
    expected = keypoints[labelled]
    assert (found - expected).abs().amax() <= 1.0


STILL = Augmentation(rotation=0, zoom=1, shift=0, flip=0, brightness=0, contrast=0, tint=0)


def test_without_changes_augmentation_is_the_plain_crop(lsp_folder, tmp_path):
    people = read_lsp(lsp_folder[0], "train")
    store = CropStore(people, CONFIG, Engine(keep="stream", progress=False), tmp_path, Accelerator(cpu=True))
    (crops,) = store.batches([torch.arange(6)])
    images, keypoints, _ = changed(crops, STILL)
    matrices = geometry.box_to_crop(people.boxes, CONFIG.input_size, 1.25)
    torch.testing.assert_close(
        keypoints.double(), geometry.transform_points(matrices, people.keypoints), atol=1e-3, rtol=0
    )
    plain = geometry.crop(load_image(people.images[2]), matrices[2:3], CONFIG.input_size)
    assert (images[2] - normalize(plain, CONFIG)[0]).abs().mean() < 0.1  # of a standard deviation


def test_a_seed_repeats_the_changes_and_parts_of_a_batch_get_theirs(dotted_crops):
    first, second, other = (changed(dotted_crops, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    changes = sample_changes(8, 3, Augmentation(patches=2), torch.Generator().manual_seed(1))
    whole = augment(dotted_crops, changes, CONFIG)
    rows = slice(3, 8)
    part = Crops(*(getattr(dotted_crops, name)[rows] for name in ("images", "keypoints", "labelled")))
    for one, all_of_them in zip(augment(part, changes.part(rows), CONFIG), whole, strict=True):
        torch.testing.assert_close(one, all_of_them[rows])


def test_keypoints_that_leave_the_input_are_not_labelled(dotted_crops):
    dotted_crops.keypoints[:, LSP.keypoints.index("left_knee")] = torch.tensor([300.0, 20.0])
    _, _, labelled = changed(dotted_crops)
    assert not labelled.any()


def test_half_a_body_fills_the_input():
    keypoints = torch.tensor([[48.0 + (k % 3), 12.0 + 5 * k] for k in range(14)])
    lower = [name.partition("_")[2] in ("hip", "knee", "ankle") for name in LSP.keypoints]
    for labelled_legs in (6, 2):
        labelled = torch.ones(40, 14, dtype=torch.bool)
        labelled[:, labelled_legs:6] = False
        crops = Crops(torch.zeros(40, 3, 96, 96, dtype=torch.uint8), keypoints.expand(40, -1, -1), labelled)
        half_body = dataclasses.replace(STILL, half_body=1.0)
        _, points, _ = changed(crops, half_body)
        extents = {}
        for name, rows in (("legs", [lower[k] for k in range(14)]), ("rest", [not lower[k] for k in range(14)])):
            used = points[:, torch.tensor(rows)]
            extents[name] = (used.amax(1) - used.amin(1)).amax(1)
        fits = 64 / 1.5
        legs, rest = (torch.isclose(extents[name], torch.tensor(fits)) for name in ("legs", "rest"))
        assert rest.any()
        assert legs.any() == (labelled_legs == 6)  # two joints are no half
        assert (legs | rest).all() == (labelled_legs == 6)


def test_inputs_are_made_on_the_device_of_the_crops(dotted_crops):
    augmentation = Augmentation(half_body=0.5, patches=2)
    for made in changed(dotted_crops.to(torch.device("meta")), augmentation):
        assert made.device.type == "meta"


def test_patches_hide_parts_in_one_colour_and_leave_keypoints_labelled(dotted_crops):
    plain, _, labelled = changed(dotted_crops, STILL)
    hidden, _, still_labelled = changed(dotted_crops, dataclasses.replace(STILL, patches=3, patch_size=0.5))
    covered = (hidden != plain).any(dim=1)
    share = covered.float().mean()
    assert 0.02 < share < 0.75
    assert torch.equal(labelled, still_labelled)
    one = (hidden[0, :, covered[0]]).unique(dim=1)
    assert one.shape[1] <= 3


@pytest.mark.parametrize(
    "wrong", [{"zoom": 0.5}, {"flip": 1.5}, {"rotation": "a lot"}, {"patches": 1.5}, {"tint": float("nan")}]
)
def test_augmentation_refuses_what_makes_no_sense(wrong):
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))} .*{next(iter(wrong.values()))}"):
        Augmentation(**wrong)


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


@pytest.mark.parametrize("heatmap", ["softmax", "gaussian"])
def test_a_teacher_shares_each_target_with_the_label(heatmap):
    """The gradient is that of the label's loss and of a loss against the teacher, in these shares."""
    config = CONFIG.replace(heatmap=heatmap)
    generator = torch.Generator().manual_seed(0)
    keypoints = torch.rand(2, 3, 2, generator=generator) * 60
    seen = torch.rand(2, 3, 2, generator=generator) * 60
    teacher = render_heatmaps(geometry.input_to_heatmap(seen, 4), (16, 16), config.sigma)
    labelled = torch.tensor([[True, True, False], [False, True, True]])
    every = torch.ones_like(labelled)
    output = torch.randn(2, 3, 16, 16, generator=generator, requires_grad=True)

    def gradient(points, counted, **taught):
        output.grad = None
        (heatmap_loss([output], points, counted, config, **taught) * 12).backward()
        return output.grad

    of_labels, of_teacher = gradient(keypoints, every), gradient(seen, every)
    expected = torch.where(labelled[..., None, None], 0.7 * of_labels + 0.3 * of_teacher, 0.3 * of_teacher)
    found = gradient(keypoints, labelled, soft=teacher, share=0.3)
    # as many keypoints count, of which two by 0.3
    torch.testing.assert_close(found * (4 + 2 * 0.3) / 6, expected, atol=1e-5, rtol=1e-4)


def test_a_perfect_pupil_of_a_teacher_has_no_loss():
    keypoints = torch.tensor([[[21.5, 33.5], [50.0, 10.0]]])
    seen = render_heatmaps(geometry.input_to_heatmap(keypoints + 9, 4), (16, 16))
    logits = seen.double().clamp_min(1e-30).log()
    labelled = torch.zeros(1, 2, dtype=torch.bool)
    assert heatmap_loss([logits], keypoints, labelled, CONFIG, soft=seen, share=0.5) == pytest.approx(0, abs=1e-5)


def test_the_gaussian_loss_is_the_mean_squared_error_over_stacks():
    outputs = [torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)]
    keypoints = torch.rand(2, 3, 2) * 60
    target = render_heatmaps(geometry.input_to_heatmap(keypoints, 4), (16, 16))
    expected = sum(torch.nn.functional.mse_loss(output, target) for output in outputs) / 2
    found = heatmap_loss(outputs, keypoints, torch.ones(2, 3, dtype=torch.bool), CONFIG.replace(heatmap="gaussian"))
    torch.testing.assert_close(found, expected)
