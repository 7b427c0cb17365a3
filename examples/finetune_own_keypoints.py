"""Teach a bundled network another skeleton, from annotations in COCO's layout, in about a minute on a CPU.

    python examples/finetune_own_keypoints.py

In place of photos of yours it draws a data set: rays on the sea floor, seen from above, each with five keypoints.
Then it gives the commands that you would give, prints what they measure, and draws what the network sees. All is
written to ./own_keypoints; a second call finds the training done, or goes on with it.
"""

import argparse
import json
import math
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

import softgate_pose

GOAL = 90.0  # percent of the keypoints of new images within 0.1 of the box
FOLDER = Path("own_keypoints")
SIZE = (360, 240)  # width, height of an image
KEYPOINTS = ("nose", "left_wing", "right_wing", "tail_base", "tail_tip")  # left_ and right_ are mirror images
SKELETON = [[1, 2], [1, 3], [2, 4], [3, 4], [4, 5]]  # COCO counts keypoints from 1

Colour = tuple[int, int, int]


def make_data(folder: Path, split: str, count: int, seed: int) -> None:
    """Draw ``count`` images and write their annotations, in COCO's layout."""
    rng = np.random.default_rng(seed)
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for image_id in range(count):
        image = sea_floor(rng)
        places = [(0.5, 0.5)] if rng.random() < 0.6 else [(0.27, 0.5), (0.73, 0.5)]
        for place in places:
            keypoints, box = draw_ray(image, rng, np.multiply(place, SIZE), size=170 / len(places) ** 0.5)
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0}
            annotations.append({**annotation, "bbox": box, "area": box[2] * box[3], "keypoints": keypoints})
        noise = rng.normal(0, 6, (SIZE[1], SIZE[0], 3))
        name = f"{image_id:04d}.jpg"
        Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8)).save(folder / split / name)
        images.append({"id": image_id, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
    category = {"id": 1, "name": "ray", "keypoints": KEYPOINTS, "skeleton": SKELETON}
    data = {"images": images, "annotations": annotations, "categories": [category]}
    (folder / "annotations" / f"person_keypoints_{split}.json").write_text(json.dumps(data))


def sea_floor(rng: np.random.Generator) -> Image.Image:
    """Sand and weed in patches, with stones and stalks that could be taken for a ray's body and tail."""
    low, high = colour(rng), colour(rng)
    blend = Image.fromarray(rng.integers(0, 255, (5, 7), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    image = Image.composite(Image.new("RGB", SIZE, low), Image.new("RGB", SIZE, high), blend)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(4, 12)):
        x, y = rng.uniform(0, SIZE)
        w, h = rng.uniform(6, 32, 2)
        if rng.random() < 0.5:
            pen.ellipse((x - w, y - h, x + w, y + h), fill=colour(rng))
        else:
            pen.line((x - 2 * w, y - h, x + 2 * w, y + h), fill=colour(rng), width=int(rng.integers(1, 6)))
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1))))


def draw_ray(
    image: Image.Image, rng: np.random.Generator, centre: np.ndarray, size: float
) -> tuple[list[float], list[float]]:
    """Draw a ray at any angle; its keypoints as COCO's x, y, visibility, and its box as x, y, width, height."""
    length = size * rng.uniform(0.6, 1)
    angle, bend = rng.uniform(-math.pi, math.pi), rng.uniform(-0.9, 0.9)
    left, right = rng.uniform(0.3, 0.46, 2)  # each wing flaps by itself
    tip = np.array([math.sin(bend), math.cos(bend)]) * 0.4 + (0, 0.22)
    own = np.array([(0, -0.4), (-left, rng.uniform(-0.12, 0.06)), (right, rng.uniform(-0.12, 0.06)), (0, 0.22), tip])
    turn = np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
    shift = centre + rng.uniform(-12, 12, 2)

    def place(points: np.ndarray) -> list[tuple[float, float]]:
        return [tuple(point) for point in (np.array(points) * length @ turn + shift).tolist()]

    body, dark = colour(rng), colour(rng, high=70)
    pen = ImageDraw.Draw(image)
    middle = (own[3] + tip) / 2 + (-0.06 * bend, 0)
    pen.line(place([own[3], middle, tip]), fill=body, width=max(2, round(length / 28)), joint="curve")
    pen.polygon(place([own[0], own[1], own[3], own[2]]), fill=body, outline=dark)
    for x in (-0.06, 0.06):
        (eye,) = place([(x, -0.27)])
        pen.ellipse(disc(*eye, length * 0.025), fill=dark)

    points = np.array(place(own))
    keypoints: list[float] = []
    for x, y in points.tolist():
        hidden = rng.random() < 0.06
        if hidden:  # a stone lies on it, so it is not labelled: 0, 0, 0
            pen.ellipse(disc(x, y, length * 0.09), fill=colour(rng))
        seen = not hidden and 0 <= x < SIZE[0] and 0 <= y < SIZE[1]
        keypoints += [round(x, 1), round(y, 1), 2] if seen else [0, 0, 0]
    x0, y0 = np.clip(points.min(axis=0), 0, SIZE)
    x1, y1 = np.clip(points.max(axis=0), 0, SIZE)
    return keypoints, [round(float(v), 1) for v in (x0, y0, x1 - x0, y1 - y0)]


def disc(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return x - radius, y - radius, x + radius, y + radius


def colour(rng: np.random.Generator, low: int = 20, high: int = 235) -> Colour:
    r, g, b = rng.integers(low, high, 3).tolist()
    return r, g, b


def softgate(*arguments: object) -> None:
    """Run a ``softgate-pose`` command, after showing it."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ softgate-pose {shlex.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "softgate_pose", *words], check=True)


def draw_one(model_name: str, data: Path) -> None:
    """Find the rays of one image, given their boxes, and save a picture."""
    model = softgate_pose.create_model(model_name)
    annotations = json.loads((data / "annotations" / "person_keypoints_val.json").read_text())["annotations"]
    shown = next(a["image_id"] for a, b in pairwise(annotations) if a["image_id"] == b["image_id"])  # one with two
    boxes = [row["bbox"] for row in annotations if row["image_id"] == shown]
    photo = data / "val" / f"{shown:04d}.jpg"
    poses = softgate_pose.predict(model, photo, [(x, y, x + w, y + h) for x, y, w, h in boxes], flip_test=True)
    poses.draw(photo).save(FOLDER / "poses.jpg", quality=92)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the data and of the training")
    seed = parser.parse_args().seed
    data, run = FOLDER / f"rays{seed}", FOLDER / f"run{seed}"
    make_data(data, "train", 320, 2 * seed)
    make_data(data, "val", 80, 2 * seed + 1)

    softgate(
        "train", "sgpose_0m5_1s.sports", "--skeleton", "data", "--data", f"coco:{data}:train",
        "--test", f"coco:{data}:val", "--size", 64, "--epochs", 6, "--batch-size", 16, "--learning-rate", 3e-3,
        "--set", "rotation=180", "--seed", seed, "--out", run,
    )  # fmt: skip
    softgate(
        "evaluate", "--model", f"local-dir:{run}/model", "--data", f"coco:{data}:val", "--flip-test",
        "--json", FOLDER / "table.json",
    )  # fmt: skip

    draw_one(f"local-dir:{run}/model", data)

    card = json.loads((run / "model" / "training.json").read_text())
    measured, baseline = json.loads((FOLDER / "table.json").read_text())["mean"], card["baseline"][0]["mean"]
    print(f"\nThe mean pose, which looks at no image: {baseline:.1f} %; the network: {measured:.1f} %; goal: {GOAL} %.")
    print(f"Open {FOLDER / 'poses.jpg'}.")
    if measured < GOAL:
        sys.exit("The goal was missed.")


if __name__ == "__main__":
    main()
