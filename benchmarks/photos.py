"""``predict`` over a folder of photos, with the time of each stage measured apart."""

import pkgutil
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image

from benchmarks.contestants import Setting
from benchmarks.report import Table
from softgate_pose import create_model, deploy, predict
from softgate_pose.folder.photos import find_photos, picture_paths
from softgate_pose.folder.results import Results
from softgate_pose.folder.run import predict_photos

__all__ = ["make_photos", "photos_table"]

STAGES = {
    "reading the file": "softgate_pose.folder.run.open_image",
    "photo to tensor": "softgate_pose.prediction.predict.load_image",
    "cropping": "softgate_pose.pose.geometry.crop",
    "normalising": "softgate_pose.prediction.predict.normalize",
    "network": "softgate_pose.prediction.predict.infer_heatmaps",
    "decoding": "softgate_pose.prediction.predict.decode_heatmaps",
    "drawing": "softgate_pose.prediction.poses.draw_poses",
    "writing the picture": "PIL.Image.Image.save",
    "keeping the poses": "softgate_pose.folder.results.Results.add",
}
"""The function that a stage is the time in; time in a stage inside another is the inner one's alone."""


class Stopwatch:
    """Adds up the time in functions, without that of others that they call and that are timed, too."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            self._inside.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                taken = time.perf_counter() - begin
                self.seconds[stage] += taken - self._inside.pop()
                if self._inside:
                    self._inside[-1] += taken

        return wrapper


def make_photos(source: Path, boxes: list[list[float]], place: Path, count: int) -> dict[str, list[list[float]]]:
    """Variants of a photo, from its own size to twice as large, and their boxes as ``read_boxes`` gives them."""
    place.mkdir()
    found = {}
    with Image.open(source) as photo:
        for i in range(count):
            zoom = 1 + (i % 11) / 10
            size = (round(photo.width * zoom), round(photo.height * zoom))
            name = f"{i:05d}.jpg"
            photo.resize(size).save(place / name, quality=92)
            found[name] = [[value * zoom for value in box] for box in boxes]
    return found


def photos_table(name: str, setting: Setting, place: Path, boxes: dict[str, list[list[float]]]) -> Table:
    """Milliseconds a photo of each stage, the slowest first, over a folder that ``make_photos`` made.

    ``name`` is a model, with or without ``+deploy`` and ``+bf16``.
    """
    base, *forms = name.split("+")
    model = create_model(base, device=setting.device, channels_last=True)
    model = deploy(model) if "deploy" in forms else model
    model = model.to(torch.bfloat16) if "bf16" in forms else model
    photos = find_photos([place])
    watch = Stopwatch()
    with ExitStack() as stack:
        for stage, function in STAGES.items():
            stack.enter_context(patch(function, watch.timed(stage, pkgutil.resolve_name(function))))
        results = stack.enter_context(Results(place.parent / "poses.json", {}, overwrite=True))
        pictures = picture_paths(photos, place.parent / "drawn")
        begin = time.perf_counter()
        for photo, _, problem in predict_photos(
            photos, partial(predict, model), boxes=boxes, results=results, pictures=pictures
        ):
            if problem is not None:
                raise RuntimeError(f"{photo.path}: {problem}")
        total = time.perf_counter() - begin
        results.finish([photo.name for photo in photos])
    seconds = {**watch.seconds, "all else": total - sum(watch.seconds.values())}
    rows = [
        (stage, 1e3 * taken / len(photos), f"{taken / total:.1%}")
        for stage, taken in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    people = sum(map(len, boxes.values())) / len(boxes)
    rows.append(("all", 1e3 * total / len(photos), "100.0%"))
    title = (
        f"predict over {len(photos)} photos of {people:g} people each with {name}: {len(photos) / total:.3g} photos/s"
    )
    return Table(title, ("stage", "ms a photo", "share"), rows)
