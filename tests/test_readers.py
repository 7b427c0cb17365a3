import json

import numpy as np
import pytest
import torch
from made_data import coco_data, mpii_row, write_coco
from scipy.io import savemat

from softgate_pose import COCO, LSP, MPII, Skeleton
from softgate_pose.people import concatenate
from softgate_pose.readers import read_lsp, read_lspet, read_mpii_json, read_people


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
