import json

import numpy as np
import pytest
import torch
from made_data import (
    coco_data,
    mpii_points,
    mpii_rect,
    mpii_row,
    struct_array,
    write_coco,
    write_head_boxes,
    write_images,
    write_release,
)
from scipy.io import savemat

from softgate_pose import COCO, LSP, MPII, Skeleton
from softgate_pose.data import coco, matlab, sources
from softgate_pose.data.lsp import read_lsp, read_lspet
from softgate_pose.data.mpii import read_mpii_json, read_mpii_mat
from softgate_pose.data.people import concatenate, missing_images
from softgate_pose.data.sources import read_people


@pytest.fixture(autouse=True)
def quick_matlab(monkeypatch):
    """These MATLAB files are sound, and need no process of their own to read."""
    monkeypatch.setattr(matlab, "_ask_child", matlab.answer)


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


def coco_row(**changes):
    return {**coco_data()["annotations"][0], **changes}


def dog(**changes):
    return [{**coco_data()["categories"][1], **changes}]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("{", "JSON"),
        ([], r"got \[\]"),
        ({}, "categories"),
        (coco_data(images={}), "images .* got {}"),
        (coco_data(images=[{"id": 7}]), r"images\[0\]\.file_name"),
        (
            coco_data(images=[{"id": 7, "file_name": "a.jpg"}, {"id": 7, "file_name": "b.jpg"}]),
            r"image id 7 .*'a\.jpg' .*'b\.jpg'",
        ),
        (coco_data(categories=[]), "categories .* keypoints, got 0"),
        (coco_data(categories=dog() + dog(id=4)), r"categories .* keypoints, got 2 \(dog, dog\)"),
        (coco_data(categories=dog(keypoints="nose")), r"categories\[0\]\.keypoints .* 'nose'"),
        (coco_data(categories=dog(keypoints=["nose", "nose"], skeleton=[])), r"train\.json: .*'nose' twice"),
        (coco_data(categories=dog(skeleton=[[0, 1]])), r"skeleton .* 1 to 5, got \[\[0, 1\]\]"),
        (coco_data(categories=dog(skeleton=[1, 2])), r"skeleton\[0\] .* got 1\b"),
        (coco_data(annotations=[]), r"train\.json .*nobody"),
        (coco_data(annotations=[coco_row(keypoints=[0] * 15)]), "nobody"),
        (coco_data(annotations=[coco_row(category_id="3")]), r"nobody .* is 3, .* of '3'\."),
        (coco_data(annotations=[coco_row(iscrowd="0")]), r"annotations\[0\]\.iscrowd .* got '0'"),
        (coco_data(annotations=[coco_row(), "b"]), r"annotations\[1\] .* got 'b'"),
        (coco_data(annotations=[coco_row(), {"id": 1}]), r"annotations\[1\]\.category_id"),
        (coco_data(annotations=[coco_row(), coco_row(image_id=8)]), r"annotations\[1\]\.image_id .* got 8"),
        (coco_data(annotations=[coco_row(), coco_row(image_id=None)]), r"annotations\[1\]\.image_id .* got None"),
        (coco_data(images=[{"id": 7, "file_name": ".."}]), r"annotations\[0\]: .*image .* got '\.\.'"),
        (coco_data(annotations=[coco_row(keypoints=[1, 2, 2])]), r"annotations\[0\]\.keypoints .* 15 .* got 3\b"),
        (coco_data(annotations=[coco_row(keypoints=["1"] * 15)]), r"keypoints\[0\] .* got '1'"),
        (coco_data(annotations=[coco_row(keypoints=[1, 2, 2, None] * 3 + [0] * 3)]), r"keypoints\[3\] .* got None"),
        (coco_data(annotations=[coco_row(keypoints=[float("nan"), 2, 2] * 5)]), r"nose.* got \[nan, 2\.0\]"),
        (coco_data(annotations=[coco_row(bbox=[1, 2, 0, 4])]), r"bbox .* area, got \[1\.0, 2\.0, 0\.0, 4\.0\]"),
        (coco_data(annotations=[coco_row(bbox=None)]), r"bbox .* area, got \[0\.0, 0\.0, 0\.0, 0\.0\]"),
        (coco_data(annotations=[coco_row(bbox=[0.1, 0.2, 0.5, 1.0])]), r"bbox .* pixels.* got \[0\.1,"),
        (coco_data(annotations=[coco_row(bbox=[1, 2, 3])]), r"bbox .* got \[1, 2, 3\]"),
        (coco_data(annotations=[coco_row(area=float("inf"))]), r"annotations\[0\]\.area .* got inf"),
    ],
)
def test_broken_coco_annotations(tmp_path, data, match):
    with pytest.raises(ValueError, match=match):
        read_people(write_coco(tmp_path, data))


def test_coco_people_without_keypoints_need_no_more(tmp_path):
    rows = [coco_row(), {"category_id": 3}, coco_row(keypoints=None), coco_row(keypoints=[0] * 15, bbox=[0, 0, 0, 0])]
    assert len(read_people(write_coco(tmp_path, coco_data(annotations=rows)))) == 1


@pytest.mark.parametrize(
    ("folder", "name", "expected"),
    [
        ("train", "a.jpg", "train/a.jpg"),
        ("images", "a.jpg", "images/a.jpg"),
        ("images", "train/a.jpg", "images/train/a.jpg"),
        ("train", "cam1/a.jpg", "train/cam1/a.jpg"),
        (".", "train/a.jpg", "train/a.jpg"),
    ],
)
def test_coco_images_lie_where_people_put_them(tmp_path, folder, name, expected):
    (tmp_path / "annotations").mkdir()
    data = coco_data(images=[{"id": 7, "file_name": name}])
    (tmp_path / "annotations" / "train.json").write_text(json.dumps(data))
    image = tmp_path / expected
    write_images(image.parent, [image.name])
    people = read_people(f"coco:{tmp_path}:train")
    assert people.images == (image,)
    assert missing_images(people) == []
    image.unlink()
    (tmp_path / folder).mkdir(exist_ok=True)
    assert [missing.name for missing in missing_images(read_people(f"coco:{tmp_path}:train"))] == ["a.jpg"]


def test_one_missing_image_does_not_move_the_others(tmp_path):
    """Names counted from the root, beside a folder of the split; the first person's image is missing."""
    images = [{"id": n, "file_name": f"train/{n}.jpg"} for n in (7, 8)]
    source = write_coco(tmp_path, coco_data(images=images, annotations=[coco_row(), coco_row(image_id=8)]))
    (tmp_path / "train" / "8.jpg").touch()
    people = read_people(source)
    assert people.images == (tmp_path / "train/7.jpg", tmp_path / "train/8.jpg")
    assert missing_images(people) == [tmp_path / "train/7.jpg"]


def test_coco_without_an_image_folder(tmp_path):
    source = write_coco(tmp_path, coco_data())
    (tmp_path / "train").rmdir()
    with pytest.raises(FileNotFoundError, match=r"/train .*/images; .* holds annotations\."):
        read_people(source)
    with pytest.raises(
        FileNotFoundError,
        match=r"person_keypoints_val\.json .*/val\.json; .*annotations holds person_keypoints_train\.json",
    ):
        read_people(f"coco:{tmp_path}:val")


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
    with pytest.raises(ValueError, match=r"joints\.mat .*nobody .* test"):
        read_lsp(folder, "test")


def test_lsp_splits_after_a_thousand(tmp_path):
    joints = np.random.default_rng(0).uniform(5, 55, (3, 14, 1003))
    savemat(tmp_path / "joints.mat", {"joints": joints})
    train, test = read_lsp(tmp_path, "train"), read_lsp(tmp_path, "test")
    assert (len(train), len(test)) == (1000, 3)
    assert (train.images[-1].name, test.images[0].name) == ("im1000.jpg", "im1001.jpg")
    np.testing.assert_allclose(test.keypoints[0], joints[:2, :, 1000].T - 1)
    assert len(missing_images(test)) == 3


@pytest.mark.parametrize(("kind", "shape"), [("lsp", (3, 14)), ("lspet", (14, 3))])
def test_one_person_without_the_axis_that_matlab_drops(tmp_path, kind, shape):
    savemat(tmp_path / "joints.mat", {"joints": np.arange(1.0, 43).reshape(shape)})
    people = read_people(f"{kind}:{tmp_path}:train")
    assert people.keypoints[0, 0].tolist() == ([0, 14] if kind == "lsp" else [0, 1])


def test_broken_joints_are_named(lsp_folder, lspet_folder):
    joints = lsp_folder[1]
    joints[1, 10, 4] = np.nan
    savemat(lsp_folder[0] / "joints.mat", {"joints": joints})
    with pytest.raises(ValueError, match=r"joints\.mat: im0005\.jpg: left_elbow.* nan\]"):
        read_lsp(lsp_folder[0], "train")
    joints = lspet_folder[1]
    joints[3, 0, 0] = np.nan  # not labelled
    savemat(lspet_folder[0] / "joints.mat", {"joints": joints})
    assert len(read_lspet(lspet_folder[0])) == 3
    joints[13, 0, 3] = np.inf
    savemat(lspet_folder[0] / "joints.mat", {"joints": joints})
    with pytest.raises(ValueError, match=r"im00004\.jpg: head_top.* \[inf"):
        read_lspet(lspet_folder[0])
    joints[:, 2] = 0
    savemat(lspet_folder[0] / "joints.mat", {"joints": joints})
    with pytest.raises(ValueError, match=r"nobody .* train"):
        read_lspet(lspet_folder[0])


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


@pytest.fixture
def valid_rows(mpii_folder):
    """Writes rows to valid.json."""

    def write(*rows):
        (mpii_folder / "annot" / "valid.json").write_text(json.dumps(rows))
        return list(rows)

    return write


def test_head_boxes_come_from_the_evaluation_file(mpii_folder, valid_rows):
    away = mpii_row(center=[-1, -1], scale=-1, head_box=None)
    rows = valid_rows(mpii_row(head_box=None), away, mpii_row(image="b.jpg", head_box=[1, 2, 3, 4]))
    assert read_mpii_json(mpii_folder, "valid").head_boxes[0].isnan().all()
    write_head_boxes(mpii_folder, rows)
    people = read_mpii_json(mpii_folder, "valid")
    assert [image.name for image in people.images] == ["a.jpg", "b.jpg"]
    assert people.head_boxes.tolist() == [[10, 10, 18, 16], [0, 1, 2, 3]]
    (mpii_folder / "annot" / "train.json").write_text(json.dumps(rows))
    assert read_mpii_json(mpii_folder, "train").head_boxes[0].isnan().all()  # gt_valid.mat is of another split


def test_people_left_out_keep_their_place_in_the_evaluation_file(mpii_folder, valid_rows):
    rows = valid_rows(mpii_row(center=[-1, -1], scale=-1, head_box=None), mpii_row(image="b.jpg", head_box=None))
    boxes = np.array([[[1, 11], [1, 11]], [[5, 19], [5, 17]]])
    write_head_boxes(mpii_folder, rows, headboxes_src=boxes)
    assert read_mpii_json(mpii_folder, "valid").head_boxes.tolist() == [[10, 10, 18, 16]]


def test_a_head_box_that_is_out_of_range_is_named(mpii_folder, valid_rows):
    rows = valid_rows(mpii_row(head_box=None), mpii_row(head_box=None))
    boxes = np.array([[[1, 11], [1, 1e9]], [[5, 19], [5, 17]]])
    write_head_boxes(mpii_folder, rows, headboxes_src=boxes)
    with pytest.raises(ValueError, match=r"gt_valid\.mat: person \[1\]\.head_box .*1000000000\.0"):
        read_mpii_json(mpii_folder, "valid")


def test_an_evaluation_file_of_one_person(mpii_folder, valid_rows):
    rows = valid_rows(mpii_row(head_box=None))
    write_head_boxes(
        mpii_folder, rows, headboxes_src=np.array([[1, 2], [3, 5]]), pos_gt_src=np.array(rows[0]["joints"])
    )
    assert read_mpii_json(mpii_folder, "valid").head_boxes.tolist() == [[0, 1, 2, 4]]


def test_an_evaluation_file_of_other_people(mpii_folder, valid_rows):
    rows = valid_rows(mpii_row(head_box=None), mpii_row(head_box=None))
    write_head_boxes(mpii_folder, rows[:1])
    with pytest.raises(ValueError, match=r"gt_valid\.mat .*1 head boxes.* valid\.json .*2 people"):
        read_mpii_json(mpii_folder, "valid")
    places = np.array([row["joints"] for row in rows]).transpose(1, 2, 0)
    places[15] += 50  # not labelled
    places[3, 0, 1] += 0.9
    write_head_boxes(mpii_folder, rows, pos_gt_src=places)
    assert read_mpii_json(mpii_folder, "valid").head_boxes.isfinite().all()
    missing = np.zeros((16, 2))
    missing[[4, 15]] = 1
    places[4] = 0  # missing there alone
    write_head_boxes(mpii_folder, rows, pos_gt_src=places, jnt_missing=missing)
    assert read_mpii_json(mpii_folder, "valid").head_boxes.isfinite().all()
    places[4] = np.array([row["joints"][4] for row in rows]).T
    places[3, 0, 1] += 0.2
    write_head_boxes(mpii_folder, rows, pos_gt_src=places)
    with pytest.raises(ValueError, match=r"gt_valid\.mat .*valid\.json .*\[1\]"):
        read_mpii_json(mpii_folder, "valid")
    places[3, 0, 1] = np.nan
    write_head_boxes(mpii_folder, rows, pos_gt_src=places)
    with pytest.raises(ValueError, match=r"gt_valid\.mat .*valid\.json .*\[1\]"):
        read_mpii_json(mpii_folder, "valid")
    write_head_boxes(mpii_folder, rows, jnt_missing=np.zeros((14, 2)))
    with pytest.raises(ValueError, match=r"jnt_missing .*\(16, N\), got float64 \(14, 2\)"):
        read_mpii_json(mpii_folder, "valid")


MPII_FILE = "mpii_human_pose_v1_u12_1.mat"


@pytest.mark.parametrize("folder", [".", "mpii_human_pose_v1_u12_2"])
def test_the_official_release_gives_the_same_people_as_the_json(tmp_path, mpii_folder, folder):
    write_release(tmp_path / folder / MPII_FILE, ("a.jpg", struct_array(mpii_rect())), ("b.jpg", None))
    people, expected = read_people(f"mpii-mat:{tmp_path}:train"), read_mpii_json(mpii_folder, "valid").select([0])
    assert people.skeleton is MPII
    assert people.images == (tmp_path / "images" / "a.jpg",)
    for column in ("keypoints", "labelled", "boxes", "head_boxes"):
        torch.testing.assert_close(getattr(people, column), getattr(expected, column))


def test_the_official_release_with_all_that_is_odd_in_it(tmp_path):
    def hidden(value):
        return mpii_rect(annopoints=mpii_points(8, 9, is_visible=value))

    empty = np.zeros((0, 0))
    entries = [
        ("several.jpg", struct_array(mpii_rect(), mpii_rect(scale=0.4), mpii_rect(annopoints=None))),
        ("person.jpg", mpii_rect(annopoints=mpii_points(9))),  # one person, one point: no arrays
        ("text.jpg", struct_array(hidden("0"), hidden("1"))),
        ("number.jpg", struct_array(hidden(0), hidden(np.uint8(1)), hidden(empty))),
        ("no_annorect.jpg", None),
        ("empty_annorect.jpg", empty),
        ("only_a_box.jpg", struct_array({"x1": 1, "y1": 1, "x2": 2, "y2": 2}, {"x1": 3, "y1": 3, "x2": 4, "y2": 4})),
        ("no_points.jpg", struct_array(mpii_rect(annopoints=empty), mpii_rect(annopoints={"point": empty}))),
        ("no_scale.jpg", mpii_rect(scale=None)),
        ("no_place.jpg", struct_array(mpii_rect(objpos=empty), mpii_rect(objpos=None))),
        ("no_head.jpg", struct_array(mpii_rect(x1=None), mpii_rect(y2=empty))),
        ("half_a_point.jpg", mpii_rect(annopoints={"point": struct_array({"x": 5, "y": 6, "id": 0}, {"id": 1})})),
        ("test.jpg", struct_array({"scale": 1.0, "objpos": {"x": 1, "y": 1}})),
    ]
    write_release(tmp_path / MPII_FILE, *entries, img_train=[1] * 12 + [0])
    people = read_mpii_mat(tmp_path)
    names = [image.stem for image in people.images]
    assert names == ["several"] * 2 + ["person"] + ["text"] * 2 + ["number"] * 3 + ["no_head"] * 2 + ["half_a_point"]
    assert people.labelled.sum(1).tolist() == [15, 15, 1, 2, 2, 2, 2, 2, 15, 15, 1]
    assert people.keypoints[2, 9].tolist() == [10 + 18 - 1, 12 + 18 - 1]
    assert people.keypoints[-1, 0].tolist() == [4, 5]
    assert people.head_boxes.isnan().any(1).tolist() == [False] * 8 + [True] * 2 + [False]
    assert people.head_boxes[8:10].isnan().all()
    assert people.boxes.isfinite().all()


@pytest.mark.parametrize(
    ("rect", "match"),
    [
        (mpii_rect(scale=0), r"annolist\[1\]\.annorect\[1\]\.scale .* got 0\.0"),
        (mpii_rect(scale=np.nan), "scale .* got nan"),
        (mpii_rect(scale="big"), "scale .* got 'big'"),
        (mpii_rect(scale=1 + 2j), r"scale .* got '\(1\+2j\)'"),
        (mpii_rect(objpos={"x": np.inf, "y": 1}), r"center .* got \[inf, 1\.0\]"),
        (mpii_rect(x1=1e7), r"annorect\[1\]\.head_box .* got \[10000000\.0,"),
        (mpii_rect(annopoints=mpii_points(2, 3, x=np.nan)), r"right_hip.* got \[nan, 16\.0\]"),
        (mpii_rect(annopoints=mpii_points(16)), "id .* 0 to 15, got 16"),
        (mpii_rect(annopoints=mpii_points(0, id=np.zeros((0, 0)))), "id .* 0 to 15, got None"),
    ],
)
def test_a_broken_official_release(tmp_path, rect, match):
    write_release(tmp_path / MPII_FILE, ("a.jpg", None), ("b.jpg", struct_array(mpii_rect(), rect)))
    with pytest.raises(ValueError, match=match):
        read_people(f"mpii-mat:{tmp_path}:train")


def test_an_official_release_that_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"'valid'.* mpii:FOLDER:train .*mpii:FOLDER:valid"):
        read_people(f"mpii-mat:{tmp_path}:valid")
    with pytest.raises(FileNotFoundError, match=rf"{MPII_FILE} .*_u12_2/{MPII_FILE}.* empty"):
        read_people(f"mpii-mat:{tmp_path}:train")
    write_release(tmp_path / MPII_FILE, ("a.jpg", mpii_rect()), img_train=[0])
    with pytest.raises(ValueError, match=f"{MPII_FILE} .*objpos"):
        read_people(f"mpii-mat:{tmp_path}:train")
    write_release(tmp_path / MPII_FILE, ("a.jpg", mpii_rect()), img_train=[1, 1])
    with pytest.raises(ValueError, match="1 images and 2 img_train"):
        read_people(f"mpii-mat:{tmp_path}:train")
    savemat(tmp_path / MPII_FILE, {"RELEASE": 5})
    with pytest.raises(ValueError, match=r"RELEASE .*annolist"):
        read_people(f"mpii-mat:{tmp_path}:train")
    savemat(tmp_path / MPII_FILE, {"annotations": 5})
    with pytest.raises(ValueError, match=r"'RELEASE' .*'annotations'"):
        read_people(f"mpii-mat:{tmp_path}:train")


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


def test_a_mark_of_the_byte_order_is_no_mistake(tmp_path):
    source = write_coco(tmp_path, coco_data())
    file = next(tmp_path.glob("annotations/*.json"))
    file.write_text(file.read_text(), encoding="utf-8-sig")
    assert len(read_people(source)) == 1


def test_holding_out_splits_by_image_and_repeats(mpii_folder):
    people = read_mpii_json(mpii_folder, "valid")
    kept, held = people.hold_out(0.5, seed=3)
    assert len(kept) + len(held) == 3
    assert not set(kept.images) & set(held.images)
    assert people.hold_out(0.5, seed=3)[1].images == held.images
    assert len(people.hold_out(0.0)[1]) == 0
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"0 to 1, got {share}"):
            people.hold_out(share)


def test_concatenating_needs_one_skeleton(lsp_folder, mpii_folder):
    lsp, mpii = read_lsp(lsp_folder[0], "train"), read_mpii_json(mpii_folder, "valid")
    with pytest.raises(ValueError, match=r"right_ankle.*; .*to_skeleton"):
        concatenate([lsp, mpii])
    namesake = Skeleton("lsp", tuple(reversed(LSP.keypoints)))
    with pytest.raises(ValueError, match=r"right_ankle.*; .*to_skeleton"):
        concatenate([lsp, lsp.to_skeleton(namesake)])
    together = concatenate([lsp.to_skeleton(MPII), mpii])
    assert len(together) == 9
    assert together.head_boxes[:6].isnan().all()


@pytest.mark.parametrize("source", ["", "lsp", "lsp:folder", "voc:folder:train", ":x:y"])
def test_data_sources_have_three_parts(source):
    with pytest.raises(ValueError, match=r"KIND:FOLDER:SPLIT .*coco, lsp, lspet, mpii, mpii-mat"):
        read_people(source)


def test_data_that_are_not_there_or_not_what_was_named(tmp_path, lspet_folder, mpii_folder):
    for source, match in (
        (f"lsp:{tmp_path / 'no'}:train", r"LSP .*joints\.mat; .*no\."),
        (f"lspet:{mpii_folder}:train", r"LSP-extended .*joints\.mat; .*mpii holds annot, images\."),
        (f"mpii:{mpii_folder}:test", r"test\.json; .*annot holds valid\.json\."),
        (f"mpii:{lspet_folder[0]}:valid", r"lspet holds images, joints.mat\."),
        (f"mpii:{lspet_folder[0] / 'joints.mat'}:valid", r"joints.mat is no folder\."),
    ):
        with pytest.raises(FileNotFoundError, match=match):
            read_people(source)
    write_images(tmp_path / "images", [f"im{i:02d}.jpg" for i in range(12)])
    with pytest.raises(FileNotFoundError, match=r"images holds im00.jpg, .*, im07.jpg and 4 more"):
        read_people(f"lsp:{tmp_path / 'images'}:train")
    twin = lsp_twin(tmp_path)
    savemat(tmp_path / "joints.mat", {"joints": np.ones((2, 14, 5))})
    for source, match in (
        (f"lsp:{lspet_folder[0]}:train", r"joints .*\(3, 14, N\), got float64 \(14, 3, 4\); .*kind lspet"),
        (f"lspet:{twin}:train", r"joints .* got float64 \(3, 14, 2\); .*kind lsp\)"),
        (f"lsp:{twin}:valid", "train and test, got 'valid'"),
        (f"lspet:{tmp_path}:test", "train alone, got 'test'"),
        (f"lsp:{tmp_path}:train", r"joints .* got float64 \(2, 14, 5\)\."),
    ):
        with pytest.raises(ValueError, match=match):
            read_people(source)


def lsp_twin(tmp_path):
    (tmp_path / "twin").mkdir()
    savemat(tmp_path / "twin" / "joints.mat", {"joints": np.ones((3, 14, 2))})
    return tmp_path / "twin"


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([], r"train\.json .*no people .* of 0"),
        ([mpii_row(center=[-1, -1], scale=-1)], "no people .* of 1"),
        ({"images": []}, r"train\.json .* got {'images': \[\]}"),
        (["a"], r"\[0\] .* got 'a'"),
        ([mpii_row(), {"image": "a.jpg"}], r"\[1\]\.center"),
        ([mpii_row(image=5)], r"\[0\]\.image .* got 5"),
        ([mpii_row(image="..")], r"image .* got '\.\.'"),
        ([mpii_row(joints=[[1, 2]] * 14)], "joints .* 16 items, got 14"),
        ([mpii_row(joints=[[1, 2]] * 15 + [[1]])], r"joints\[15\] .* 2 items, got 1"),
        ([mpii_row(center="left")], "center .* got 'left'"),
        ([mpii_row(center=5)], "center .* got 5"),
        ([mpii_row(center=[float("nan"), 1])], r"\[0\]\.center .* got \[nan, 1\.0\]"),
        ([mpii_row(), mpii_row(scale=-1)], r"\[1\]\.scale .* 0\.0001 to 10000.* got -1\.0"),
        ([mpii_row(center=[-1, -1], scale=0)], r"scale .* got 0\.0"),
        ([mpii_row(scale=float("nan"))], "scale .* got nan"),
        ([mpii_row(scale=10**400)], "scale .* got a number of 1329 bits"),
        ([mpii_row(joints_vis=[1] * 15)], "joints_vis .* 16 items, got 15"),
        ([mpii_row(joints=[[1, 2]] + [[float("nan"), 1]] * 15)], r"\[0\]: right_knee.* got \[nan, 1\.0\]"),
        ([mpii_row(head_box=[1, 2])], r"head_box .* got \[1, 2\]"),
    ],
)
def test_broken_mpii_annotations(mpii_folder, rows, match):
    (mpii_folder / "annot" / "train.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=match):
        read_people(f"mpii:{mpii_folder}:train")


@pytest.mark.parametrize("name", ["day1/a.jpg", "./a.jpg", "a..jpg", "..."])
def test_image_names_below_their_folder(mpii_folder, name):
    (mpii_folder / "annot" / "train.json").write_text(json.dumps([mpii_row(image=name)]))
    assert read_people(f"mpii:{mpii_folder}:train").images[0] == mpii_folder / "images" / name


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/../../secret.jpg", "/etc/passwd", "a/../b.jpg"])
def test_image_names_that_lead_out_of_their_folder_are_refused(tmp_path, mpii_folder, name):
    (mpii_folder / "annot" / "train.json").write_text(json.dumps([mpii_row(), mpii_row(image=name)]))
    write_release(tmp_path / MPII_FILE, (name, mpii_rect()))
    coco = write_coco(tmp_path, coco_data(images=[{"id": 7, "file_name": name}]))
    for source, place in (
        (f"mpii:{mpii_folder}:train", r"\[1\]\.image"),
        (f"mpii-mat:{tmp_path}:train", r"annolist\[0\]\.annorect\[0\]: .*image"),
        (coco, r"annotations\[0\]: .*image"),
    ):
        with pytest.raises(ValueError, match=rf"{place} .* got '{name}'"):
            read_people(source)


def test_image_names_that_no_file_can_have_are_missing_images(tmp_path):
    for name in ("x" * 300 + ".jpg", "a/" * 3000 + "b.jpg", "a\0b.jpg", "\ud800.jpg"):
        people = read_people(write_coco(tmp_path, coco_data(images=[{"id": 7, "file_name": name}])))
        assert missing_images(people) == [tmp_path / "train" / name]


@pytest.mark.parametrize(
    ("source", "changes", "match"),
    [
        ("mpii", {"scale": 1e5}, r"scale .* got 100000\.0"),
        ("mpii", {"scale": 1e-300}, "scale .* got 1e-300"),
        ("mpii", {"center": [1e300, 1]}, r"center .* 1000000 pixels, got \[1e\+300"),
        ("mpii", {"head_box": [1, 2, 3, 1e7]}, "head_box .* 1000000 pixels, got"),
        ("mpii", {"joints": [[1, 1e9]] * 16}, r"right_ankle.* got \[1\.0, 1000000000\.0\]"),
        ("coco", {"bbox": [1e7, 0, 1, 1]}, "bbox .* 1000000 pixels, got"),
        ("coco", {"bbox": [9, 0, 1e-300, 1]}, "bbox .* area, got"),  # lost in 9 + 1e-300
        ("coco", {"keypoints": [1e300, 0, 2] * 5}, r"nose.* got \[1e\+300, 0\.0\]"),
    ],
)
def test_people_who_are_nowhere_near_an_image(tmp_path, mpii_folder, source, changes, match):
    (mpii_folder / "annot" / "train.json").write_text(json.dumps([mpii_row(**changes)]))
    coco = write_coco(tmp_path, coco_data(annotations=[coco_row(**changes)]))
    with pytest.raises(ValueError, match=match):
        read_people({"mpii": f"mpii:{mpii_folder}:train", "coco": coco}[source])


def test_people_and_annotations_come_of_one_reading(tmp_path, lsp_folder, monkeypatch):
    source = write_coco(tmp_path, coco_data())
    texts = []
    monkeypatch.setattr(coco, "read_json", lambda file: texts.append(file) or json.loads(file.read_text()))
    people, annotations = sources.read_people_and_coco(source)
    assert len(texts) == 1
    assert len(people) == len(annotations.people) == 1
    assert torch.equal(people.keypoints, read_people(source).keypoints)
    assert sources.read_people_and_coco(f"lsp:{lsp_folder[0]}:train")[1] is None


def test_people_know_the_files_that_they_were_read_from(tmp_path, mpii_folder, lsp_folder, valid_rows):
    coco_source = write_coco(tmp_path, coco_data())
    write_release(tmp_path / "mpii_human_pose_v1_u12_2" / MPII_FILE, ("a.jpg", mpii_rect()))
    rows = valid_rows(mpii_row(head_box=None))
    annot = mpii_folder / "annot"
    lsp = lsp_folder[0] / "joints.mat"
    for source, files in (
        (coco_source, (tmp_path / "annotations" / "person_keypoints_train.json",)),
        (f"mpii-mat:{tmp_path}:train", (tmp_path / "mpii_human_pose_v1_u12_2" / MPII_FILE,)),
        (f"mpii:{mpii_folder}:valid", (annot / "valid.json",)),
        (f"lsp:{lsp_folder[0]}:train", (lsp,)),
    ):
        assert read_people(source).files == files
    write_head_boxes(mpii_folder, rows)
    mpii = read_people(f"mpii:{mpii_folder}:valid")
    assert mpii.files == (annot / "valid.json", annot / "gt_valid.mat")
    assert mpii.to_skeleton(LSP).select([0]).hold_out(0.5)[0].files == mpii.files
    people = read_people(f"lsp:{lsp_folder[0]}:train").to_skeleton(MPII)
    assert concatenate([mpii, people, mpii]).files == (*mpii.files, lsp)
