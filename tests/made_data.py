"""Small data sets, made where a test needs them."""

import faulthandler
import json
import os
import warnings

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

from softgate_pose.data import matlab
from softgate_pose.data.lsp import read_lsp
from softgate_pose.pose.heatmaps import render_heatmaps

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


def struct_array(*rows):
    """A MATLAB struct array (1, N); a field that a row lacks is empty, as MATLAB makes it."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in names])
    for i, row in enumerate(rows):
        for name in names:
            array[0, i][name] = row.get(name, np.zeros((0, 0)))
    return array


def answer_in_fork(file, name, structs):
    """What ``matlab.answer`` gives in a copy of this process; it starts faster than a new one."""
    import resource

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of this process's threads, which the copy does not need
        receive, send = os.pipe()
        child = os.fork()
    if not child:
        try:
            faulthandler.disable()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
            resource.setrlimit(resource.RLIMIT_AS, (16 << 30, resource.RLIM_INFINITY))
            with os.fdopen(send, "wb") as stream:
                stream.write(matlab.answer(file, name, structs))
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as stream:
        content = stream.read()
    status = os.waitpid(child, 0)[1]
    return f"ESciPy ended with status {status}".encode() if status else content


def mpii_points(*ids, **fields):
    """Points (10 + 2 * id, 12 + 2 * id), as in ``mpii_row``."""
    return {"point": struct_array(*({"x": 10.0 + 2 * k, "y": 12.0 + 2 * k, "id": k, **fields} for k in ids))}


def mpii_rect(**changes):
    """One annorect: the same person as in ``mpii_row``."""
    rect = {"x1": 11, "y1": 11, "x2": 19, "y2": 17, "annopoints": mpii_points(*range(15)), "scale": 0.2}
    rect = {**rect, "objpos": {"x": 31, "y": 26}, **changes}
    return {name: value for name, value in rect.items() if value is not None}


def write_release(file, *entries, img_train=None):
    """MPII's official release; each entry is an image's name and its annorect, or None to have none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"image": {"name": name}} | ({} if rect is None else {"annorect": rect}) for name, rect in entries]
    train = np.array([[1] * len(rows) if img_train is None else img_train], dtype=np.uint8)
    act = struct_array(*({"act_name": "x", "cat_name": "y", "act_id": i} for i in range(len(rows))))
    cells = np.empty((len(rows), 1), dtype=object)
    cells[:, 0] = [np.ones((1, 1))] * len(rows)
    savemat(
        file, {"RELEASE": {"annolist": struct_array(*rows), "img_train": train, "single_person": cells, "act": act}}
    )


def write_head_boxes(folder, rows, **changes):
    """HRNet's ``gt_valid.mat`` of the rows of a JSON; all have the head box of ``mpii_row``."""
    arrays = {
        "headboxes_src": np.tile(np.array([[11.0, 11.0], [19.0, 17.0]])[..., None], len(rows)),
        "pos_gt_src": np.array([row["joints"] for row in rows]).transpose(1, 2, 0),
        "jnt_missing": 1 - np.array([row["joints_vis"] for row in rows]).T,
    }
    savemat(folder / "annot" / "gt_valid.mat", {**arrays, **changes})


def dotted_people(folder, count):
    """LSP people whose joints are one bright dot; two joints lie apart, for the box."""
    rng = np.random.default_rng(0)
    places = rng.uniform(20, 40, (2, 1, count)) + np.zeros((2, 14, count)) + 1
    places[0, 0], places[0, 1] = places[0, 0] - 15, places[0, 1] + 15
    savemat(folder / "joints.mat", {"joints": np.concatenate([places, np.zeros((1, 14, count))])})
    (folder / "images").mkdir()
    for i in range(count):
        dot = render_heatmaps(torch.tensor(places[:, 5, i] - 1), (60, 60), sigma=3.0).numpy()
        Image.fromarray((dot * 255).astype(np.uint8)).convert("RGB").save(folder / f"images/im{i + 1:04d}.jpg")
    return read_lsp(folder, "train")


def awkward_photos(folder):
    """Photos of every awkward kind below a folder, and files that are no photos: (names of good ones, of bad ones)."""
    (folder / "more").mkdir(parents=True)
    rows = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    photo = Image.fromarray(rows)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [photo.rotate(90), photo.rotate(180)]}
    good = {
        "plain.jpg": (photo, {}),
        "more/plain.jpg": (photo, {}),
        "more/turned.JPG": (photo, {"exif": exif}),
        "cmyk.jpg": (photo.convert("CMYK"), {}),
        "sixteen.png": (Image.fromarray(rows[..., 0].astype(np.uint16) * 257), {}),
        "floats.tif": (Image.fromarray(rows[..., 0].astype(np.float32) / 255), {}),
        "palette.gif": (photo.quantize(16), {}),
        "clear.webp": (photo.convert("RGBA"), {"lossless": True}),
        "moving.gif": (photo, frames),
        "moving.webp": (photo, frames),
        "moving.png": (photo, frames),
        "pages.tiff": (photo, frames),
        "tiny.png": (photo.crop((0, 0, 1, 1)), {}),
        "thin.bmp": (photo.resize((1500, 1)), {}),
        "huge.png": (Image.new("1", (6000, 5000)), {}),
        "new\nline, 'é' \"🦴\".jpg": (photo, {}),
    }
    for name, (image, options) in good.items():
        image.save(folder / name, **options)
    try:
        (folder / "latin-\udce9.jpg").write_bytes((folder / "plain.jpg").read_bytes())
        good["latin-\udce9.jpg"] = None
    except OSError:  # a system whose names are Unicode
        pass
    whole = (folder / "plain.jpg").read_bytes()
    bomb = (folder / "palette.gif").read_bytes()
    bomb = bomb[:6] + b"\xff" * 4 + bomb[10:]  # its width and height
    bad = {
        "empty.jpg": b"",
        "torn.jpg": whole[:900],
        "text.png": b"no photo",
        "bomb.gif": bomb,
        "more/zeros.jpg": bytes(999),
    }
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    (folder / "dead.jpg").symlink_to("nothing.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "notes.txt").write_text("not a photo")
    return sorted(good), sorted([*bad, "dead.jpg"])
