import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from softgate_pose import COCO, LSP, MPII, PoseConfig, Skeleton
from softgate_pose.evaluation import evaluate, mean_pose_keypoints, predict_people, score_keypoints
from softgate_pose.model.network import SoftGatePose
from softgate_pose.people import concatenate, read_lsp, read_lspet, read_mpii_json, read_people
from softgate_pose.pose import geometry
from softgate_pose.pose.heatmaps import render_heatmaps
from softgate_pose.training.augment import Augmentation, Crops, augment, batches, crop_people
from softgate_pose.training.loop import Recipe, fit
from softgate_pose.training.losses import heatmap_loss

SIZE = (60, 80)


def write_images(folder, names):
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        rng = np.random.default_rng(i)
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(folder / name)


@pytest.fixture
def lsp_folder(tmp_path):
    folder = tmp_path / "lsp"
    folder.mkdir()
    rng = np.random.default_rng(0)
    joints = np.concatenate([rng.uniform(5, 55, (2, 14, 6)), rng.integers(0, 2, (1, 14, 6))])
    savemat(folder / "joints.mat", {"joints": joints})
    write_images(folder / "images", [f"im{i:04d}.jpg" for i in range(1, 7)])
    return folder, joints


@pytest.fixture
def lspet_folder(tmp_path):
    folder = tmp_path / "lspet"
    folder.mkdir()
    rng = np.random.default_rng(0)
    joints = np.concatenate([rng.uniform(5, 55, (14, 2, 4)), np.ones((14, 1, 4))], axis=1)
    joints[3, 2, 0] = 0
    joints[3, :2, 0] = -1e6  # where nothing is labelled, coordinates mean nothing
    joints[:, 2, 2] = 0
    savemat(folder / "joints.mat", {"joints": joints})
    write_images(folder / "images", [f"im{i:05d}.jpg" for i in range(1, 5)])
    return folder, joints


def mpii_row(**changes):
    joints = [[10.0 + 2 * k, 12.0 + 2 * k] for k in range(16)]
    row = {
        "image": "a.jpg",
        "center": [31.0, 26.0],
        "scale": 0.2,
        "joints": joints,
        "joints_vis": [1] * 15 + [0],
        "head_box": [11.0, 11.0, 19.0, 17.0],
    }
    return {**row, **changes}


@pytest.fixture
def mpii_folder(tmp_path):
    folder = tmp_path / "mpii"
    (folder / "annot").mkdir(parents=True)
    rows = [mpii_row(), mpii_row(image="b.jpg", head_box=None), mpii_row(image="b.jpg", scale=0.3)]
    (folder / "annot" / "valid.json").write_text(json.dumps(rows))
    write_images(folder / "images", ["a.jpg", "b.jpg"])
    return folder


def coco_data(**changes):
    """Three annotations of a five-keypoint animal: labelled, a crowd, and without labels."""
    category = {"id": 3, "name": "dog", "keypoints": ["nose", "left_ear", "right_ear", "tail", "belly"]}
    row = {"image_id": 7, "category_id": 3, "bbox": [10, 20, 30, 40], "keypoints": [11, 21, 2, 12, 22, 1] + [0] * 9}
    data = {
        "categories": [{"id": 1, "name": "ball"}, {**category, "skeleton": [[1, 2], [1, 3]]}],
        "images": [{"id": 7, "file_name": "a.jpg"}],
        "annotations": [row, {**row, "iscrowd": 1}, {**row, "keypoints": [0] * 15}, {"category_id": 1, "image_id": 7}],
    }
    return {**data, **changes}


def write_coco(folder, data):
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "annotations" / "person_keypoints_train.json").write_text(
        data if isinstance(data, str) else json.dumps(data)
    )
    return f"coco:{folder}:train"


def test_coco_brings_its_own_skeleton(tmp_path):
    people = read_people(write_coco(tmp_path, coco_data()))
    assert people.skeleton.name == "dog"
    assert people.skeleton.edges == (("nose", "left_ear"), ("nose", "right_ear"))
    assert people.skeleton.mirror == (0, 2, 1, 3, 4)
    assert people.images == (tmp_path / "train" / "a.jpg",)
    assert people.labelled.tolist() == [[True, True, False, False, False]]
    assert people.keypoints[0, :2].tolist() == [[11, 21], [12, 22]]
    assert people.boxes.tolist() == [[10, 20, 40, 60]]


def test_coco_people_become_mpii_by_name(tmp_path):
    points = [value for k in range(17) for value in (k, 2 * k, 2)]
    data = coco_data(
        categories=[{"id": 1, "name": "person", "keypoints": list(COCO.keypoints)}],
        annotations=[{"image_id": 7, "category_id": 1, "bbox": [0, 0, 20, 40], "keypoints": points}],
    )
    people = read_people(write_coco(tmp_path, data))
    assert people.skeleton is COCO
    mpii = people.to_skeleton(MPII)
    unlabelled = [name for name, labelled in zip(MPII.keypoints, mpii.labelled[0], strict=True) if not labelled]
    assert unlabelled == ["neck", "head_top"]
    assert mpii.keypoints[0, MPII.keypoints.index("pelvis")].tolist() == [11.5, 23]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("{", "is not JSON"),
        ([], "not in COCO's keypoints layout"),
        ({}, "KeyError 'categories'"),
        (coco_data(categories=[]), "one category with keypoints, found 0"),
        (coco_data(annotations=[]), "nobody with a labelled keypoint"),
        (coco_data(images=[]), "not in COCO's keypoints layout"),
        (coco_data(annotations=[{**coco_data()["annotations"][0], "keypoints": [1, 2, 2]}]), "not in COCO's"),
        (coco_data(annotations=[{**coco_data()["annotations"][0], "bbox": [1, 2, 0, 4]}]), "must have an area"),
        (coco_data(annotations=[{**coco_data()["annotations"][0], "bbox": [1, 2, 3]}]), "not in COCO's"),
    ],
)
def test_broken_coco_annotations(tmp_path, data, match):
    with pytest.raises(ValueError, match=match):
        read_people(write_coco(tmp_path, data))


def test_lsp_is_read_in_zero_based_pixels_with_hidden_joints_labelled(lsp_folder):
    folder, joints = lsp_folder
    people = read_lsp(folder, "train")
    assert len(people) == 6
    assert people.skeleton is LSP
    assert people.labelled.all()
    np.testing.assert_allclose(people.keypoints[4], joints[:2, :, 4].T - 1)
    assert people.images[4].name == "im0005.jpg"
    low, high = people.keypoints[0].amin(0), people.keypoints[0].amax(0)
    box = people.boxes[0]
    assert ((box[:2] < low) & (box[2:] > high)).all()
    assert box[2] - box[0] == pytest.approx(float((high - low).max()) * 1.04)
    assert len(read_lsp(folder, "test")) == 0


def test_lspet_leaves_out_what_is_not_labelled(lspet_folder):
    folder, joints = lspet_folder
    people = read_lspet(folder)
    assert [image.name for image in people.images] == ["im00001.jpg", "im00002.jpg", "im00004.jpg"]
    assert people.labelled.sum(1).tolist() == [13, 14, 14]
    assert people.keypoints[0, 3].tolist() == [0, 0]
    assert people.boxes.abs().max() < 100
    np.testing.assert_allclose(people.keypoints[2], joints[:, :2, 3] - 1)


def test_mpii_boxes_are_moved_down_and_everything_is_zero_based(mpii_folder):
    people = read_mpii_json(mpii_folder, "valid")
    assert people.skeleton is MPII
    side = 200 * 0.2
    centre = (31 - 1, 26 - 1 + 15 * 0.2)
    expected = [centre[0] - side / 2, centre[1] - side / 2, centre[0] + side / 2, centre[1] + side / 2]
    assert people.boxes[0].tolist() == pytest.approx(expected)
    assert people.keypoints[0, 1].tolist() == [11, 13]
    assert people.labelled[0].tolist() == [True] * 15 + [False]
    assert people.head_boxes[0].tolist() == [10, 10, 18, 16]
    assert people.head_boxes[1].isnan().all()


def test_lsp_becomes_mpii_with_pelvis_and_thorax_between(lspet_folder):
    people = read_lspet(lspet_folder[0]).to_skeleton(MPII)

    def at(name, person=1):
        return people.keypoints[person, MPII.keypoints.index(name)]

    torch.testing.assert_close(at("pelvis"), (at("left_hip") + at("right_hip")) / 2)
    torch.testing.assert_close(at("thorax"), (at("left_shoulder") + at("right_shoulder")) / 2)
    assert people.labelled[1].all()
    # person 0 has no left hip, so no pelvis
    unlabelled = [name for name, labelled in zip(MPII.keypoints, people.labelled[0], strict=True) if not labelled]
    assert unlabelled == ["left_hip", "pelvis"]
    assert people.to_skeleton(LSP).keypoints.equal(read_lspet(lspet_folder[0]).keypoints)


def test_holding_out_splits_by_image_and_repeats(mpii_folder):
    people = read_mpii_json(mpii_folder, "valid")
    kept, held = people.hold_out(0.5, seed=3)
    assert len(kept) + len(held) == 3
    assert not set(kept.images) & set(held.images)
    assert people.hold_out(0.5, seed=3)[1].images == held.images
    assert len(people.hold_out(0.0)[1]) == 0


def test_concatenating_needs_one_skeleton(lsp_folder, mpii_folder):
    lsp, mpii = read_lsp(lsp_folder[0], "train"), read_mpii_json(mpii_folder, "valid")
    with pytest.raises(ValueError, match=r"\['lsp', 'mpii'\]; use to_skeleton"):
        concatenate([lsp, mpii])
    namesake = Skeleton("lsp", tuple(reversed(LSP.keypoints)))
    with pytest.raises(ValueError, match="must have one skeleton"):
        concatenate([lsp, lsp.to_skeleton(namesake)])
    together = concatenate([lsp.to_skeleton(MPII), mpii])
    assert len(together) == 9
    assert together.head_boxes[:6].isnan().all()


@pytest.mark.parametrize("source", ["", "lsp", "lsp:folder", "voc:folder:train", ":x:y"])
def test_data_sources_have_three_parts(source):
    with pytest.raises(ValueError, match="KIND:FOLDER:SPLIT with KIND one of coco, lsp, lspet, mpii"):
        read_people(source)


def test_data_that_are_not_there_or_not_what_was_named(tmp_path, lspet_folder):
    with pytest.raises(FileNotFoundError, match=r"expected .*joints\.mat"):
        read_people(f"lsp:{tmp_path / 'no'}:train")
    with pytest.raises(FileNotFoundError, match=r"expected .*valid\.json"):
        read_people(f"mpii:{tmp_path}:valid")
    with pytest.raises(ValueError, match=r"shape \(3, 14, N\), got \(14, 3, 4\)"):
        read_people(f"lsp:{lspet_folder[0]}:train")
    with pytest.raises(ValueError, match="train and test, got 'valid'"):
        read_people(f"lsp:{lsp_twin(tmp_path)}:valid")
    (tmp_path / "joints.mat").write_text("no matrix")
    with pytest.raises(ValueError, match="no MATLAB array 'joints'"):
        read_people(f"lsp:{tmp_path}:train")
    with pytest.raises(ValueError, match="split train alone"):
        read_people(f"lspet:{tmp_path}:test")


def lsp_twin(tmp_path):
    (tmp_path / "twin").mkdir()
    savemat(tmp_path / "twin" / "joints.mat", {"joints": np.ones((3, 14, 2))})
    return tmp_path / "twin"


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([], "holds no people"),
        ([{"image": "a.jpg"}], "not in MPII's JSON layout: KeyError 'center'"),
        ([mpii_row(joints=[[1, 2]] * 14, joints_vis=[1] * 14)], r"expected 16 joints .* got \(14, 2\)"),
        ([mpii_row(center="left")], "not in MPII's JSON layout"),
        ([mpii_row(center=5)], "not in MPII's JSON layout"),
        ([mpii_row(scale=-1)], "each scale above 0"),
        ([mpii_row(scale=float("nan"))], "each scale above 0"),
        ([mpii_row(joints_vis=[1] * 15)], "joints_vis must have one value a joint"),
        ([mpii_row(joints=[[float("nan"), 1]] * 16)], "labelled joints must be finite"),
        (["a"], "not in MPII's JSON layout"),
    ],
)
def test_broken_mpii_annotations(mpii_folder, rows, match):
    (mpii_folder / "annot" / "train.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=match):
        read_people(f"mpii:{mpii_folder}:train")


def test_image_names_cannot_leave_their_folder(mpii_folder):
    (mpii_folder / "annot" / "train.json").write_text(json.dumps([mpii_row(image="../../secret.jpg")]))
    assert read_people(f"mpii:{mpii_folder}:train").images[0].parent == mpii_folder / "images"


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
    error = torch.linalg.vector_norm(predict_people(model, people) - people.keypoints, dim=-1)
    assert error[:, 2:].median() < 4  # of 60 pixels; untrained it is above 15


# --- evaluation -----------------------------------------------------------------------------------


def test_perfect_predictions_score_full_marks(lsp_folder, mpii_folder):
    lsp = read_lsp(lsp_folder[0], "train")
    result = score_keypoints(lsp.keypoints, lsp)
    assert (result.protocol, result.table["mean"], result.people) == ("PCK@0.2", 100, 6)
    mpii = read_mpii_json(mpii_folder, "valid")
    result = score_keypoints(mpii.keypoints, mpii)
    assert (result.protocol, result.table["mean"], result.mean_fine) == ("PCKh@0.5", 100, 100)
    assert (result.people, result.left_out) == (2, 1)  # one has no head box


def test_evaluating_predicts_in_image_pixels(lsp_folder):
    people = read_lsp(lsp_folder[0], "train")
    torch.manual_seed(0)
    model = SoftGatePose(CONFIG).eval()
    keypoints = predict_people(model, people, batch_size=4)
    assert keypoints.shape == (6, 14, 2)
    assert evaluate(model, people, flip_test=True).people == 6
    from softgate_pose import predict

    single = predict(model, people.images[3], people.boxes[3:4])
    torch.testing.assert_close(single.keypoints[0], keypoints[3], atol=1e-3, rtol=0)


def test_a_model_that_lacks_a_keypoint_cannot_be_scored(mpii_folder):
    people = read_mpii_json(mpii_folder, "valid")
    with pytest.raises(ValueError, match="does not predict pelvis, thorax"):
        evaluate(SoftGatePose(CONFIG), people)


def test_the_mean_pose_fills_each_box(lsp_folder):
    people = read_lsp(lsp_folder[0], "train")
    found = mean_pose_keypoints(people, people)
    sizes = people.boxes[:, 2:] - people.boxes[:, :2]
    relative = (people.keypoints - people.boxes[:, None, :2] - 0.0) / sizes[:, None]
    expected = relative.mean(0) * sizes[:, None] + people.boxes[:, None, :2]
    torch.testing.assert_close(found, expected)
