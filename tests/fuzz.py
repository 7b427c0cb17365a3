"""Feed damaged files and odd arguments to every reader of the package: python tests/fuzz.py --seed 0 --inputs 20000

Each input must end in a correct answer, or in an error that the called function documents and that this package
itself raised. Whatever else happens is a defect: another error, a warning, a crash, more than SECONDS of
computing, more than MEGABYTES of memory. Each input has a seed of its own, so `--target NAME --only NUMBER` repeats
one. The targets run in child processes, under limits; Linux alone has all of those.
"""

import argparse
import contextlib
import dataclasses
import gc
import io
import json
import math
import multiprocessing
import os
import pickle
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner
from made_data import (
    answer_in_fork,
    coco_data,
    mpii_points,
    mpii_rect,
    mpii_row,
    struct_array,
    write_coco,
    write_head_boxes,
    write_release,
)
from mutations import NUMBERS, TEXTS, json_bytes, mutate_bytes, mutate_json, repair_png, weird_value
from PIL import Image
from scipy.io import savemat

import softgate_pose
from softgate_pose import COCO, LSP, MPII, PoseConfig, create_model, predict, save_pretrained
from softgate_pose.cli import main as softgate
from softgate_pose.data import matlab
from softgate_pose.data.coco import read_coco_annotations
from softgate_pose.data.images import load_image, open_image
from softgate_pose.data.people import People, Predictions
from softgate_pose.data.sources import read_people
from softgate_pose.evaluation import oks
from softgate_pose.evaluation import pck as evaluation
from softgate_pose.evaluation.files import read_predictions, write_predictions
from softgate_pose.folder.boxes import read_boxes
from softgate_pose.folder.results import OUTPUT_SUFFIXES, Results
from softgate_pose.prediction.poses import Poses
from softgate_pose.prediction.predict import predict_people
from softgate_pose.weights.files import find_checkpoint, read_tensors

SECONDS = 20  # of computing, for one input
MEGABYTES = 700  # of memory beyond what the process had before, for one input
LARGEST_IMAGE = 3_000_000  # pixels at which Pillow is told to refuse, so that a bomb that gets past it shows
PACKAGE = str(Path(softgate_pose.__file__).parent)

ANSWER, ERROR = "correct answer", "documented error"


class Refused(Exception):
    """The input ended in a documented error."""


@contextlib.contextmanager
def documented(*types):
    """Let through as ``Refused`` these errors alone, if the package raised them and they say something."""
    try:
        yield
    except types as error:
        raised = traceback.extract_tb(error.__traceback__)[-1]
        if not raised.filename.startswith(PACKAGE) or len(str(error)) < 15 or "MemoryError" in str(error):
            raise
        raise Refused from None


@contextlib.contextmanager
def _in_folder(place):
    before = Path.cwd()
    os.chdir(place)
    try:
        yield
    finally:
        os.chdir(before)


def tiny(skeleton=LSP, **settings):
    torch.manual_seed(0)
    sizes = {"num_stacks": 1, "width": 4, "depth": 1, "input_size": (32, 24)}
    return create_model("sgpose_0m5_1s", skeleton=skeleton, **{**sizes, **settings})


def check_poses(poses, count=None):
    assert count is None or len(poses) == count
    assert bool(poses.keypoints.isfinite().all() and (poses.scores >= 0).all() and (poses.scores <= 1).all())
    json.dumps([poses.to_dict(), poses.to_coco()], allow_nan=False)


def json_file(rng, value, unchanged):
    """A JSON file: as it should be, with other values in it, or with damaged bytes."""
    if unchanged:
        return json.dumps(value).encode()
    if rng.random() < 0.7:
        return json_bytes(rng, mutate_json(rng, value))
    return mutate_bytes(
        rng, json.dumps(value).encode(), [b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe" * 9, b"9" * 5000]
    )


def damage(rng, file, unchanged):
    """Damage a file that was just written."""
    if not unchanged and rng.random() < 0.5:
        file.write_bytes(mutate_bytes(rng, file.read_bytes()))


def other_array(rng, array):
    """Another array than the one that is expected."""
    kind = rng.randrange(6)
    if kind == 0:
        return weird_value(rng)
    if kind == 1:
        return np.asarray(array).reshape(rng.choice([(-1,), (1, -1), (2, -1)]))
    if kind == 2:
        return np.asarray(array).astype(rng.choice([np.uint8, np.complex64, np.int16, np.float32, bool, object, "U3"]))
    array = np.array(array, dtype=np.float64)
    where = tuple(rng.randrange(side) for side in array.shape)
    array[where] = rng.choice([n for n in NUMBERS if abs(n) < 1e308 or n != n])
    return array if kind < 5 else array[..., : rng.randrange(array.shape[-1] + 1)]


def _made(make, *arguments):
    """Whether SciPy could write what was drawn; if not, something else is to be drawn."""
    try:
        make(*arguments)
    except Exception:
        return False
    return True


class Config:
    """``PoseConfig.from_json``."""

    weight = 20

    def __init__(self, place):
        pass

    def __call__(self, rng, unchanged):
        depth = rng.randrange(1, 5)
        config = PoseConfig(
            num_stacks=rng.randrange(1, 5),
            width=4 * rng.randrange(1, 60),
            depth=depth,
            gate=rng.choice(["channel", "scalar", "fixed", "identity"]),
            skeleton=rng.choice([LSP, MPII, COCO]),
            input_size=(4 << depth, 8 << depth),
            sigma=rng.uniform(0.1, 4),
        )
        data = json_file(rng, config.to_dict(), unchanged)
        with documented(ValueError):
            read = PoseConfig.from_json(data)
        assert not unchanged or read == config
        assert PoseConfig.from_json(read.to_json()) == read
        assert [read.skeleton.mirror[i] for i in read.skeleton.mirror] == list(range(read.num_keypoints))
        assert all(size > 0 for size in read.heatmap_size)


class Weights:
    """safetensors files and the config beside them, through ``create_model`` and the functions below it."""

    weight = 3

    def __init__(self, place):
        self.model = tiny()
        self.place = save_pretrained(self.model, place / "model")
        self.file = self.place / "model.safetensors"
        self.data, self.config = self.file.read_bytes(), json.loads((self.place / "config.json").read_text())
        length = int.from_bytes(self.data[:8], "little")
        self.header, self.tensors = json.loads(self.data[8 : 8 + length]), self.data[8 + length :]
        self.photo = Image.new("RGB", (40, 50), "grey")

    def __call__(self, rng, unchanged):
        data, config = self.data, json.dumps(self.config).encode()
        kind = -1 if unchanged else rng.randrange(10)
        if kind < 3 and not unchanged:
            data = mutate_bytes(rng, data, [b"PK\x03\x04" + bytes(99), pickle.dumps({"a": 1}), b"<html>"])
        elif kind < 6 and not unchanged:
            header = json_bytes(rng, self._other_header(rng))
            data = struct.pack("<Q", len(header)) + header + self.tensors
        elif kind < 9 and not unchanged:
            config = json_file(rng, self.config, False)
        elif not unchanged:  # a network that would fill any memory
            large = {"num_stacks": 64, "width": 4096, "depth": 5, "input_size": [4096, 4096], "in_chans": 1024}
            keys = rng.sample(sorted(large), rng.randrange(1, 4))
            config = json.dumps({**self.config, **{key: large[key] for key in keys}}).encode()
        self.file.write_bytes(data)
        (self.place / "config.json").write_bytes(config)
        with documented(ValueError, FileNotFoundError):
            if rng.random() < 0.3:
                find_checkpoint(self.file)
                read_tensors(self.file)
        name, more = f"local-dir:{self.place}", {}
        if rng.random() < 0.2 and not unchanged:
            name, more = "sgpose_0m5_1s", {"checkpoint": self.file}
        elif rng.random() < 0.2:
            more = {"skeleton": "coco", "in_chans": 1}
        elif rng.random() < 0.1:
            more = {"pretrained": False}
        with documented(FileNotFoundError, OSError, RuntimeError, ValueError):
            model = create_model(name, **more)
        if unchanged and not more:
            assert all(
                torch.equal(a, b)
                for a, b in zip(model.state_dict().values(), self.model.state_dict().values(), strict=True)
            )
        if math.prod(model.config.input_size) < 10_000 and model.config.in_chans in (1, 3):
            with documented():
                check_poses(predict(model, self.photo), 1)

    def _other_header(self, rng):
        if rng.random() < 0.5:
            return mutate_json(rng, self.header)
        header = json.loads(json.dumps(self.header))  # the same layout, in other types or shapes
        for row in header.values():
            if "dtype" in row and rng.random() < 0.5:
                row["dtype"] = rng.choice(
                    [
                        "F64",
                        "F16",
                        "BF16",
                        "I32",
                        "U8",
                        "BOOL",
                        "F8_E4M3",
                        "F8_E5M2",
                        "F8_E8M0",
                        "C64",
                        "I64",
                        "F4",
                        "U64",
                    ]
                )
                width = {"F64": 8, "C64": 8, "I64": 8, "U64": 8, "F16": 2, "BF16": 2, "I32": 4, "F4": 0.5}.get(
                    row["dtype"], 1
                )
                start, end = row["data_offsets"]
                row["shape"] = [int((end - start) / width)] if rng.random() < 0.5 else row["shape"]
        return header


class Images:
    """Image files of every format that Pillow writes, through ``open_image``, ``load_image`` and ``predict``."""

    weight = 30

    def __init__(self, place):
        self.place, self.model = place, tiny()
        self.bases = sorted(self._bases())
        self.parts = [data for _, data in self.bases]
        self.readable = [(name, data) for name, data in self.bases if self._size(name, data)]

    def _size(self, name, data):
        file = self.place / "base.img"
        file.write_bytes(data)
        try:
            return tuple(open_image(file).size)
        except ValueError:
            return None

    @staticmethod
    def _bases():
        """(name, bytes): each format in each mode that it takes, and the special kinds of the common ones."""
        rows = np.random.default_rng(0).integers(0, 256, (17, 23, 3), dtype=np.uint8)
        picture = Image.fromarray(rows)
        modes = {
            mode: picture.convert(mode)
            for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F")
        }
        modes["I;16"] = Image.fromarray(rows[..., 0].astype(np.uint16) * 257)
        modes["LAB"] = Image.merge("LAB", picture.split())
        Image.init()
        exif = Image.Exif()
        exif[0x0112] = 6
        special = [(name, "RGB", {}) for name in Image.SAVE if name not in ("EPS", "PDF")]
        special += [(name, mode, {}) for name, _, _ in special for mode in modes if mode != "RGB"]
        special += [
            ("JPEG", "RGB", {"progressive": True, "exif": exif}),
            ("JPEG", "L", {"exif": exif, "comment": b"x" * 99}),
        ]
        special += [
            ("PNG", "RGB", {"exif": exif}),
            ("WEBP", "RGB", {"exif": exif}),
            ("WEBP", "RGBA", {"lossless": True}),
        ]
        special += [
            ("JPEG2000", "RGB", {"num_resolutions": 2, "tile_size": (16, 16)}),
            ("DDS", "RGB", {"pixel_format": "DXT1"}),
        ]
        compressions = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "tiff_ccitt", "group3", "group4")
        special += [
            ("TIFF", mode, {"compression": kind}) for kind in compressions for mode in ("1", "L", "RGB", "CMYK")
        ]
        frames = [modes["RGB"].rotate(turn) for turn in (90, 180)]
        for name in ("GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"):
            special.append((name, "RGB", {"save_all": True, "append_images": frames}))
        for number, (name, mode, options) in enumerate(special):
            kind = options.get("compression")
            if (kind == "jpeg" and mode == "1") or (kind in ("tiff_ccitt", "group3", "group4") and mode != "1"):
                continue  # there are no such files, and Pillow 12.0 crashes
            stream = io.BytesIO()
            try:
                modes[mode].save(stream, format=name, **options)
            except Exception:
                continue  # a mode that the format does not take, or one that needs another program
            yield f"{name}-{mode}-{number}", stream.getvalue()

    def __call__(self, rng, unchanged):
        name, data = rng.choice(self.readable if unchanged else self.bases)
        if not unchanged:
            data = mutate_bytes(rng, data, self.parts)
            if rng.random() < 0.7:
                data = repair_png(data) if data[:8] == b"\x89PNG\r\n\x1a\n" else data
        file = self.place / "photo.jpg"
        file.write_bytes(data)
        with documented(ValueError):
            size = open_image(file).size
            channels = rng.choice([1, 3])
            pixels = load_image(file, channels)
        assert pixels.dtype == torch.uint8
        assert tuple(pixels.shape) == (channels, size[1], size[0])
        if unchanged:
            assert size == ((17, 23) if "exif" in name else self._size(name, data))
        if unchanged or rng.random() < 0.3:
            with documented(ValueError):
                poses = predict(self.model, file)
            check_poses(poses, 1)


def check_people(people, root):
    """What must hold of all people, whatever the annotations."""
    count, keypoints = len(people), len(people.skeleton)
    assert count > 0
    assert people.keypoints.shape == (count, keypoints, 2)
    assert people.labelled.shape == (count, keypoints)
    assert people.boxes.shape == people.head_boxes.shape == (count, 4)
    assert bool(people.keypoints.isfinite().all())
    assert bool(people.boxes.isfinite().all())
    assert bool((people.boxes[:, 2:] > people.boxes[:, :2]).all())
    assert not bool(people.head_boxes.isinf().any())
    for image in people.images:
        assert ".." not in image.parts
        assert image.is_relative_to(root)
    scored = evaluation.score_keypoints(people.keypoints, people)
    assert all(0 <= value <= 100 for value in scored.figures.values()), scored
    errors = evaluation.person_errors(people.keypoints, people)
    assert bool((errors.isnan() | (errors == 0)).all())


class Annotations:
    """Annotation files of every kind, read, scored, and now and then predicted for."""

    weight = 18

    def __init__(self, place):
        self.root = place / "data"
        (self.root / "annot").mkdir(parents=True)
        (self.root / "annotations").mkdir()
        (self.root / "images").mkdir()
        Image.new("RGB", (60, 70), "grey").save(self.root / "images" / "a.jpg")
        rng = np.random.default_rng(0)
        self.joints = {"lsp": rng.uniform(5, 55, (3, 14, 4)), "lspet": rng.uniform(5, 55, (14, 3, 4))}
        self.rows = [mpii_row(), mpii_row(head_box=None), mpii_row(scale=-1, center=[-1, -1]), mpii_row(scale=0.3)]
        self.coco = coco_data()
        self.models = {}

    def __call__(self, rng, unchanged):
        kind = rng.choice(["lsp", "lspet", "mpii", "mpii", "mpii-mat", "mpii-mat", "coco", "coco", "coco"])
        split = "valid" if kind == "mpii" else "train"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SciPy's, of what it is given to write
            make = {
                "lsp": self._lsp,
                "lspet": self._lsp,
                "mpii": self._mpii,
                "mpii-mat": self._release,
                "coco": self._coco,
            }
            while not _made(make[kind], rng, kind, unchanged):
                pass
        with documented(FileNotFoundError, ValueError):
            people = read_people(f"{kind}:{self.root}:{split}")
        assert not unchanged or len(people) == {"mpii": 3, "mpii-mat": 2, "coco": 1}.get(kind, 4)
        check_people(people, self.root)
        if kind == "coco":
            with documented(ValueError):
                annotations = read_coco_annotations(self.root / "annotations" / "train.json")
                scored = oks.score_oks(Predictions(people.skeleton.keypoints, people.keypoints), annotations)
            assert all(-0.01 <= value <= 100.01 for value in scored.figures.values()), scored
        if rng.random() < 0.15 or unchanged:
            skeleton = people.skeleton
            if skeleton.keypoints not in self.models:
                self.models = {skeleton.keypoints: tiny(skeleton)}
            everywhere = dataclasses.replace(people, images=(self.root / "images" / "a.jpg",) * len(people))
            with documented(ValueError):
                found = predict_people(self.models[skeleton.keypoints], everywhere.select(range(min(4, len(people)))))
            assert bool(found.keypoints.isfinite().all())

    def _lsp(self, rng, kind, unchanged):
        joints = self.joints[kind]
        if not unchanged and rng.random() < 0.5:
            joints = other_array(rng, joints)
        savemat(self.root / "joints.mat", {"joints": joints}, do_compression=rng.random() < 0.5)
        damage(rng, self.root / "joints.mat", unchanged)

    def _mpii(self, rng, kind, unchanged):
        (self.root / "annot" / "valid.json").write_bytes(json_file(rng, self.rows, unchanged))
        matlab = self.root / "annot" / "gt_valid.mat"
        matlab.unlink(missing_ok=True)
        if rng.random() < 0.4:
            change = {}
            if not unchanged and rng.random() < 0.5:
                change = {
                    rng.choice(["headboxes_src", "pos_gt_src", "jnt_missing"]): other_array(rng, np.ones((16, 2, 4)))
                }
            write_head_boxes(self.root, self.rows, **change)
            damage(rng, matlab, unchanged)

    def _release(self, rng, kind, unchanged):
        rect = mpii_rect()
        if not unchanged and rng.random() < 0.7:
            key = rng.choice(sorted(rect))
            rect = mpii_rect(**{key: rng.choice([weird_value(rng), struct_array({"x": 1}, {"x": 2}), None])})
        if not unchanged and rng.random() < 0.3:
            rect["annopoints"] = mpii_points(*rng.sample(range(-2, 20), 5), **{rng.choice("xy"): weird_value(rng)})
        name = "a.jpg" if unchanged or rng.random() < 0.7 else weird_value(rng)
        file = self.root / "mpii_human_pose_v1_u12_1.mat"
        write_release(file, (name, rect), ("a.jpg", struct_array(mpii_rect(), mpii_rect(scale=None))), img_train=None)
        damage(rng, file, unchanged)

    def _coco(self, rng, kind, unchanged):
        (self.root / "annotations" / "train.json").write_bytes(json_file(rng, self.coco, unchanged))


class BoxesFiles:
    """``read_boxes``, and ``predict`` with what it read."""

    weight = 12

    def __init__(self, place):
        self.place, self.model = place, tiny()
        self.photo = torch.full((3, 70, 60), 99, dtype=torch.uint8)

    def __call__(self, rng, unchanged):
        boxes = {
            f"{i}.jpg": [[float(rng.randrange(20)), rng.random() * 20, rng.uniform(30, 80), 50.0] for _ in range(i)]
            for i in range(1, 4)
        }
        file = self.place / f"boxes.{rng.choice(['json', 'csv'])}"
        if file.suffix == ".json":
            data = json_file(rng, boxes, unchanged)
        else:
            lines = [
                ["image", "x0", "y0", "x1", "y1"],
                *([name, *map(repr, box)] for name in boxes for box in boxes[name]),
            ]
            if not unchanged and rng.random() < 0.6:
                row = rng.choice(lines)
                row[rng.randrange(len(row))] = rng.choice(
                    [*TEXTS, *(str(n) for n in NUMBERS if n != 10**400), '"', "1,2"]
                )
            text = "\r\n".join(",".join(line) for line in lines)
            data = text.encode("utf-8", "surrogatepass")
            if not unchanged and rng.random() < 0.5:
                data = mutate_bytes(rng, data)
        file.write_bytes(data)
        with documented(ValueError):
            read = read_boxes(file)
        assert not unchanged or read == boxes
        assert all(len(box) == 4 and all(type(v) is float for v in box) for rows in read.values() for box in rows)
        for rows in list(read.values())[:3]:
            with documented(ValueError):
                poses = predict(self.model, self.photo, rows[:20])
            check_poses(poses, min(20, len(rows)))


class PredictionFiles:
    """``read_predictions`` of every layout, and scoring what it read."""

    weight = 8

    def __init__(self, place):
        self.place = place
        self.file = place / "predictions.json"
        points = torch.from_numpy(np.random.default_rng(0).uniform(5, 60, (3, 16, 2)))
        boxes, heads = torch.tensor([[0.0, 0, 60, 60]] * 3).double(), torch.tensor([[5.0, 5, 20, 20]] * 3).double()
        self.people = People(MPII, (Path("a.jpg"),) * 3, points, torch.ones(3, 16, dtype=torch.bool), boxes, heads, ())
        write_predictions(self.file, Predictions(MPII.keypoints, points, torch.rand(3, 16)))
        self.own = json.loads(self.file.read_text())
        self.own["keypoints"][1][2] = None
        flat = [value for x, y in points[0].tolist() for value in (x, y, 0.5)]
        self.coco = [{"image_id": i, "category_id": 1, "keypoints": flat, "score": 0.5} for i in range(3)]
        data = coco_data(
            categories=[{"id": 1, "name": "person", "keypoints": MPII.keypoints}],
            images=[{"id": i, "file_name": f"{i}.jpg"} for i in range(3)],
            annotations=[{**row, "bbox": [0, 0, 60, 60]} for row in self.coco],
        )
        write_coco(place, data)
        self.annotations = read_coco_annotations(place / "annotations" / "person_keypoints_train.json")

    def _mat(self, rng, file, unchanged):
        points = self.people.keypoints.numpy() + 1
        if not unchanged and rng.random() < 0.5:
            points = other_array(rng, points)
        savemat(file, {"preds": points}, do_compression=rng.random() < 0.5)
        damage(rng, file, unchanged)

    def __call__(self, rng, unchanged):
        kind = rng.choice(["own", "own", "coco", "mat"])
        file = self.file
        if kind == "mat":
            file = self.place / "pred.mat"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                while not _made(self._mat, rng, file, unchanged):
                    pass
        else:
            file.write_bytes(json_file(rng, getattr(self, kind), unchanged))
        with documented(FileNotFoundError, ValueError):
            read = read_predictions(file, self.people)
        if isinstance(read, Predictions):
            assert len(read) == 3
            scored = evaluation.score_keypoints(read.select_keypoints(MPII.keypoints).keypoints, self.people)
            assert all(0 <= value <= 100 for value in scored.figures.values())
            assert not unchanged or scored.figures["mean"] > 95
            again = self.place / "again.json"
            write_predictions(again, read)
            assert torch.equal(
                read_predictions(again, self.people).keypoints.nan_to_num(-1), read.keypoints.nan_to_num(-1)
            )
        else:
            with documented(ValueError):
                scored = oks.score_oks(read, self.annotations)
            assert all(-0.01 <= value <= 100.01 for value in scored.figures.values()), scored
            assert not unchanged or scored.figures["AP"] > 99


class PartFiles:
    """A damaged ``.part`` file: refused, or gone on from, to one line for each photo."""

    weight = 8

    def __init__(self, place):
        self.place = place
        self.names = ["a.jpg", "b/c.png", "é.jpg", "\udcff.jpg", "d,\"'\n.gif"]
        rng = np.random.default_rng(0)
        self.poses = {
            name: Poses(torch.from_numpy(rng.uniform(0, 99, (i, 14, 2))), torch.rand(i, 14), torch.ones(i, 4), LSP)
            for i, name in enumerate(self.names)
        }
        self.settings = {"photos": ["/x"], "flip_test": False}
        with Results(place / "first.json", self.settings) as results:
            for name in self.names:
                results.add(name, self.poses[name], (1, 2))
            self.data = results.part.read_bytes()
        self.whole = {}
        for suffix in OUTPUT_SUFFIXES:
            self.whole[suffix] = self._go_on(place / f"whole{suffix}")

    def _go_on(self, out):
        out.unlink(missing_ok=True)
        with Results(out, self.settings) as results:
            for name in self.names:
                if name not in results.done:
                    results.add(name, self.poses[name], (1, 2))
            results.finish(self.names)
        assert not results.part.exists()
        return out.read_bytes()

    def __call__(self, rng, unchanged):
        out = self.place / f"poses{rng.choice(OUTPUT_SUFFIXES)}"
        kind = "cut" if unchanged else rng.choice(["cut", "bytes", "values", "lines"])
        data = self.data
        if kind == "cut":
            data = data[: rng.randrange(len(data) + 1)]
        elif kind == "bytes":
            data = mutate_bytes(rng, data)
        else:
            lines = data.splitlines(keepends=True)
            row = rng.randrange(len(lines))
            if kind == "values":
                lines[row] = json.dumps(mutate_json(rng, json.loads(lines[row]))).encode() + b"\n"
            else:
                lines.insert(rng.randrange(len(lines) + 1), rng.choice([lines[row], lines[row], b"\0" * 300, b"\n"]))
                if row and rng.random() < 0.5:
                    lines.remove(lines[row])
            data = b"".join(lines)
        out.with_name(out.name + ".part").write_bytes(data)
        with documented(ValueError):
            written = self._go_on(out)
        if kind in ("cut", "lines"):
            assert written == self.whole[out.suffix]
        if out.suffix != ".csv":
            rows = json.loads(written) if out.suffix == ".json" else [json.loads(line) for line in written.splitlines()]
            assert [row["image"] for row in rows][: len(self.names)] == self.names  # what is not given comes after


class CommandLine:
    """``softgate-pose`` with random arguments: an answer, or a message and status 1 or 2."""

    weight = 3

    def __init__(self, place):
        self.place = place
        save_pretrained(tiny(), place / "model")
        Image.new("RGB", (40, 50), "grey").save(place / "a.jpg")
        (place / "photos").mkdir()
        Image.new("L", (40, 50)).save(place / "photos" / "b.png")
        (place / "photos" / "bad.jpg").write_bytes(b"no photo")
        (place / "boxes.json").write_text('{"a.jpg": [[0, 0, 30, 40]], "b.png": []}')
        (place / "data").mkdir()
        savemat(place / "data" / "joints.mat", {"joints": np.random.default_rng(0).uniform(1, 40, (3, 14, 3))})
        (place / "data" / "images").mkdir()
        for i in range(3):
            Image.new("RGB", (40, 50), "grey").save(place / "data" / "images" / f"im{i + 1:04d}.jpg")
        self.values = [
            *(text for text in TEXTS if "\0" not in text and text != "\ud800"),  # which no command line can hold
            "latin-\udce9.jpg",  # as it holds bytes that are no UTF-8
            *(repr(n) for n in NUMBERS if n != 10**400), "a.jpg", "photos", "model", "boxes.json", "local-dir:model",
            "local-dir:", "local-dir:photos", "hf-hub:", "hf-hub:a", "hf-hub:a/b/c@", "sgpose_0m5_1s", "sgpose_0m5_1s.",
            "sgpose_0m5_1s.sports.x", "lsp:data:train", "lsp:data:test", "coco:data:train", "mpii:photos:valid", "::",
            "out.json", "out.csv", "out.txt", "drawn", "meta", "cuda:99", "cpu:7", "xla", "argmax", "dark", "data",
            "precision=bf16", "width=7", "epochs=[", "x=1", "=", "gate=scalar", "paper-lsp", "-", "--", "-h", "x.onnx",
        ]  # fmt: skip

    def __call__(self, rng, unchanged):
        if unchanged:
            arguments = [
                "predict",
                rng.choice(["a.jpg", "photos/b.png"]),
                "--model",
                "local-dir:model",
                "--boxes",
                "boxes.json",
            ]
        else:
            arguments = self._arguments(rng)
        with _in_folder(self.place):
            for file in ("out.json", "out.csv", "out.json.part", "out.csv.part"):
                Path(file).unlink(missing_ok=True)
            result = CliRunner().invoke(softgate, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert "Traceback" not in result.output, result.output
        assert result.exit_code in (0, 1, 2), (result.exit_code, result.output)
        if result.exit_code:
            assert result.output.strip(), arguments
            raise Refused
        assert not unchanged or "a.jpg, person 0" in result.output or arguments[1] != "a.jpg"

    def _arguments(self, rng):
        """A command with the options that it has, and now and then another's; never a training that could begin."""
        name = rng.choice(["list", "info", "predict", "predict", "predict", "evaluate", "evaluate", "train", "export"])
        command = softgate.commands[name]
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("-")]
        given = []
        if name in ("predict", "evaluate") and rng.random() < 0.7:
            given += ["--model", "local-dir:model"]
            given += {"predict": [rng.choice(["a.jpg", "photos"])], "evaluate": ["--data", "lsp:data:train"]}[name]
        if name == "train":
            given += ["sgpose_0m5_1s", "--data", "lsp:nowhere:train", "--out", "run"]
        for _ in range(rng.randrange(5)):
            kind = rng.randrange(6)
            if kind == 0 or not options:
                given.insert(rng.randrange(len(given) + 1), rng.choice(self.values))
            elif kind == 1:
                given.append(rng.choice(["--nonsense", *options]))
            else:
                option = rng.choice(options)
                given += [option, rng.choice(self.values)] if option not in ("--flip-test", "--overwrite") else [option]
        if name == "export":  # only what is refused: to export takes seconds
            given = [value for value in given if value not in ("sgpose_0m5_1s", "local-dir:model")]
        if name == "train":
            given = [value for value in given if not value.startswith(("lsp:data", "coco:data"))]
        return [name, *given]


TARGETS = {
    "config": Config, "weights": Weights, "images": Images, "annotations": Annotations, "boxes": BoxesFiles,
    "predictions": PredictionFiles, "part-files": PartFiles, "command-line": CommandLine,
}  # fmt: skip


class _TooLongError(BaseException):
    pass


def _out_of_time(*_):
    raise _TooLongError(f"more than {SECONDS} s of computing")


def run_one(target, name, seed, number):
    """The outcome of one input: ANSWER, ERROR, or the text of a defect. A tenth of the inputs are unchanged ones."""
    rng = random.Random(f"{seed}/{name}/{number}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", module="PIL", category=UserWarning)  # of damaged files, which it reads
            warnings.filterwarnings("ignore", message=".* image format is deprecated")  # which these formats will be
            target(rng, unchanged=number % 10 == 0)
    except Refused:
        return ERROR if number % 10 else "defect: what is good was refused\n" + traceback.format_exc()
    except (Exception, _TooLongError):
        return "defect: " + traceback.format_exc()
    return ANSWER


def run(name, seed, numbers, report):
    """All these inputs of a target, in this process; ``report(number, outcome)`` after each."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, LARGEST_IMAGE
    reader, matlab._ask_child = matlab._ask_child, answer_in_fork
    try:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
            target = TARGETS[name](Path(place))
            for number in numbers:
                report(number, run_one(target, name, seed, number))
    finally:
        Image.MAX_IMAGE_PIXELS, matlab._ask_child = limit, reader


def _child(name, seed, numbers, pipe):
    """``run`` under limits of time and memory."""
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where libtiff complains
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, resource.RLIM_INFINITY))
    signal.signal(signal.SIGPROF, _out_of_time)
    before = _peak()

    def report(number, outcome):
        nonlocal before
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        if (peak := _peak()) - before > MEGABYTES:
            outcome = f"defect: {peak - before} MB more memory; else: {outcome}"
        pipe.send((number, outcome))
        if number % 200 == 0:
            gc.collect()
        before = _peak(reset=True)

    signal.setitimer(signal.ITIMER_PROF, 10 * SECONDS)
    run(name, seed, numbers, report)
    pipe.send(None)


def _peak(reset=False):
    """The largest resident memory, in MB, since it was last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) // 1024


def fuzz(name, seed, numbers):
    """Run these inputs of a target in child processes; a crash or hang costs one input. Yields (number, outcome)."""
    context = multiprocessing.get_context("fork")
    numbers = list(numbers)
    while numbers:
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(name, seed, numbers, send))
        child.start()
        send.close()
        done = 0
        while True:
            try:
                message = receive.recv() if receive.poll(20 * SECONDS) else "hang"
            except EOFError:
                message = "crash"
            if message is None:
                done = len(numbers)
                break
            if isinstance(message, str):
                child.kill()
                child.join()
                yield numbers[done], f"defect: {message}, exit status {child.exitcode}"
                done += 1
                break
            done += 1
            yield message
        child.join()
        numbers = numbers[done:]


def _print_row(name, counts, seconds=""):
    row = (sum(counts.values()), counts[ANSWER], counts[ERROR], counts["defect"])
    print(f"{name:<14}{row[0]:>8}{row[1]:>9}{row[2]:>8}{row[3]:>9}{seconds}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=20_000, help="In all, over the targets.")
    parser.add_argument("--target", choices=TARGETS, help="This one alone.")
    parser.add_argument("--only", type=int, help="This input of --target alone, in this process.")
    arguments = parser.parse_args()
    if arguments.only is not None:
        run(arguments.target, arguments.seed, [arguments.only], lambda _, outcome: print(outcome))
        return 0
    chosen = {name: kind for name, kind in TARGETS.items() if arguments.target in (None, name)}
    shares = sum(kind.weight for kind in chosen.values())
    total = Counter()
    print(f"seed {arguments.seed}\n{'target':<14}{'inputs':>8}{'answers':>9}{'errors':>8}{'defects':>9}{'seconds':>9}")
    for name, kind in chosen.items():
        start, counts = time.monotonic(), Counter()
        for number, outcome in fuzz(name, arguments.seed, range(math.ceil(arguments.inputs * kind.weight / shares))):
            counts[outcome if outcome in (ANSWER, ERROR) else "defect"] += 1
            if outcome not in (ANSWER, ERROR):
                print(f"--target {name} --only {number}: {outcome}", flush=True)
        _print_row(name, counts, f"{time.monotonic() - start:>9.0f}")
        total += counts
    _print_row("all", total)
    return 1 if total["defect"] else 0


if __name__ == "__main__":
    sys.exit(main())
