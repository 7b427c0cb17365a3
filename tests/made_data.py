"""Small data sets, made where a test needs them."""

import json

import numpy as np
from PIL import Image
from scipy.io import savemat

SIZE = (60, 80)


def write_images(folder, names):
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        rng = np.random.default_rng(i)
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(folder / name)


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
    (folder / "train").mkdir(exist_ok=True)
    (folder / "annotations" / "person_keypoints_train.json").write_text(
        data if isinstance(data, str) else json.dumps(data)
    )
    return f"coco:{folder}:train"


def write_head_boxes(folder, rows, **changes):
    """HRNet's ``gt_valid.mat`` of the rows of a JSON; all have the head box of ``mpii_row``."""
    arrays = {
        "headboxes_src": np.tile(np.array([[11.0, 11.0], [19.0, 17.0]])[..., None], len(rows)),
        "pos_gt_src": np.array([row["joints"] for row in rows]).transpose(1, 2, 0),
        "jnt_missing": 1 - np.array([row["joints_vis"] for row in rows]).T,
    }
    savemat(folder / "annot" / "gt_valid.mat", {**arrays, **changes})
