"""Predict photo by photo: keep the poses, draw the pictures, and go on past photos that fail."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from softgate_pose._files import require_outputs, write_picture
from softgate_pose.data.images import open_image
from softgate_pose.folder.boxes import Boxes, box_lookup, read_boxes
from softgate_pose.folder.photos import PICTURE_MARK, Photo, find_photos, picture_paths
from softgate_pose.folder.results import Results, file_stamp
from softgate_pose.model.base import PoseModel
from softgate_pose.model.deploy import deploy
from softgate_pose.pose.heatmaps import DecodeMethod
from softgate_pose.prediction.poses import Poses
from softgate_pose.prediction.predict import predict
from softgate_pose.weights.files import file_digest, weights_digest

__all__ = ["FolderRun", "Outcome", "is_done", "predict_folder", "predict_photos"]

StrPath = str | os.PathLike[str]

_JPEG_LIMIT = 65500
"""The longest side of a picture that Pillow's JPEG encoder takes."""


class Outcome(NamedTuple):
    """What became of a photo: its poses, or what went wrong, which names the photo's path."""

    photo: Photo
    poses: Poses | None
    problem: str | None


@dataclass
class FolderRun:
    """A run over photos, which happens while you iterate over it, once.

    ``done`` of the ``photos`` were finished by an interrupted run and have no outcome; ``gone`` others that it finished
    no longer exist. ``part`` holds what is done until the output is whole.
    """

    photos: list[Photo]
    done: int
    gone: int
    part: Path | None
    _outcomes: Iterator[Outcome]

    def __iter__(self) -> Iterator[Outcome]:
        return self._outcomes


def predict_folder(
    model: PoseModel,
    sources: StrPath | Iterable[StrPath],
    boxes: StrPath | Mapping[str, Boxes] | None = None,
    *,
    out: StrPath | None = None,
    pictures: StrPath | None = None,
    overwrite: bool = False,
    flip_test: bool = False,
    decode: DecodeMethod = "dark",
    batch_size: int = 32,
    inputs: Iterable[Path] = (),
) -> FolderRun:
    """Find the keypoints of each person in many photos, as ``softgate-pose predict`` does.

    Photos are predicted while you iterate: ``for photo, poses, problem in predict_folder(model, "photos/"): ...``.
    A photo that fails has a ``problem`` in place of poses. With ``out``, the same call resumes an interrupted run.

    Args:
        model: From ``create_model``, ``deploy`` or ``load_onnx``; its deployed form predicts.
        sources: A photo, a folder of photos, or several of these.
        boxes: The people: photo to boxes (x0, y0, x1, y1), or a JSON or CSV file of them; then a photo that is not in
            it fails. None: each photo is one person.
        out: A ``.json``, ``.jsonl`` or ``.csv`` file for the poses, which appears when all photos are done.
        pictures: A folder for the photos with skeletons drawn. Pictures of an earlier run are replaced, other files
            never.
        overwrite: Replace ``out`` if it exists.
        flip_test: As for ``predict``.
        decode: As for ``predict``.
        batch_size: As for ``predict``.
        inputs: More files that no output may replace, such as those of the model.

    Returns:
        A ``FolderRun``: its ``photos``, how many of them an earlier run has ``done``, and the outcomes of the others,
        which are not stored.

    Raises:
        BlockingIOError: If another process is writing the same output.
        FileExistsError: If ``out`` exists and ``overwrite`` is false.
        FileNotFoundError: If a source or the boxes file does not exist.
        OSError: If an output cannot be written.
        ValueError: If a folder holds no photos, the boxes file is not one, an output would replace an input or a file
            that was not drawn here, or the interrupted run had other settings.
    """
    places = [Path(source) for source in ([sources] if isinstance(sources, str | os.PathLike) else sources)]
    out, pictures = (None if place is None else Path(place) for place in (out, pictures))
    inputs = list(inputs)
    photos = find_photos(places, leave_out=pictures)
    if isinstance(boxes, str | os.PathLike):
        inputs.append(Path(boxes))
        boxes = read_boxes(Path(boxes))
    paths = [photo.path for photo in photos]
    links = [Path(os.path.realpath(path)) for path in paths if path.is_symlink()]
    outputs = {"out": out, "pictures": pictures}
    require_outputs(outputs, [*places, *paths, *links, *inputs], folders={"pictures"}, makes_parents=True)
    drawn = None if pictures is None else picture_paths(photos, pictures)

    results = None
    if out is not None:
        has_weights = bool(model.state_dict())  # those of an ONNX model are in its file alone
        settings = {
            "photos": [str(source.resolve()) for source in places],
            "model": model.config.name,
            "weights": weights_digest(model) if has_weights else [file_digest(file) for file in inputs],
            "boxes": None if boxes is None else hashlib.sha256(json.dumps(dict(boxes)).encode()).hexdigest(),
            "flip_test": flip_test,
            "decode": decode,
        }
        results = Results(out, settings, overwrite=overwrite)
    done = sum(is_done(photo, results, drawn) for photo in photos)
    gone = 0 if results is None else len(results.done.keys() - {photo.name for photo in photos})
    run = partial(predict, deploy(model), flip_test=flip_test, decode=decode, batch_size=batch_size)
    outcomes = _run(photos, predict_photos(photos, run, boxes=boxes, results=results, pictures=drawn), results)
    return FolderRun(photos, done, gone, None if results is None else results.part, outcomes)


def _run(photos: Sequence[Photo], outcomes: Iterable[Outcome], results: Results | None) -> Iterator[Outcome]:
    with nullcontext() if results is None else results:
        yield from outcomes
        if results is not None:
            results.finish([photo.name for photo in photos])


def predict_photos(
    photos: Sequence[Photo],
    predict: Callable[[Any, Boxes | None], Poses],
    *,
    boxes: Mapping[str, Boxes] | None = None,
    results: Results | None = None,
    pictures: Mapping[str, str] | None = None,
) -> Iterator[Outcome]:
    """The outcome of each photo that is not done; its poses are kept in ``results``, its picture is written.

    ``predict`` takes the opened image and its boxes, or None for the whole image. An error that other photos would
    meet, too, such as a full disk, ends the run.
    """
    boxes_of = box_lookup(boxes, photos)
    for photo in photos:
        if is_done(photo, results, pictures):
            continue
        stamp = file_stamp(photo.path)
        poses, problem = None, None
        try:
            poses = _predict_photo(photo, predict, boxes_of, None if pictures is None else Path(pictures[photo.name]))
        except _PhotoError as error:
            problem = str(error)
        if results is not None:
            if poses is None:
                results.done.pop(photo.name, None)  # those of a file that was here before
            else:
                results.add(photo.name, poses, stamp)
        yield Outcome(photo, poses, problem)


def is_done(photo: Photo, results: Results | None, pictures: Mapping[str, str] | None) -> bool:
    """Whether the results hold the poses of this very file, and its picture, if any are drawn, exists."""
    if results is None or not results.holds(photo.name, photo.path):
        return False
    return pictures is None or Path(pictures[photo.name]).exists()


class _PhotoError(Exception):
    """What went wrong with one photo, which its message names; the others can go on."""


def _predict_photo(
    photo: Photo,
    predict: Callable[[Any, Boxes | None], Poses],
    boxes_of: Callable[[Photo], Boxes | None],
    picture: Path | None,
) -> Poses:
    """A photo's poses, which are drawn on it in the file ``picture``, if that is given."""
    try:
        image = open_image(photo.path)
        if picture is not None and max(image.size) > _JPEG_LIMIT:
            raise ValueError(f"{photo.path}: its picture would be larger than JPEG's {_JPEG_LIMIT} pixels.")
        poses = predict(image, boxes_of(photo))
        if not bool(poses.keypoints.isfinite().all() and poses.scores.isfinite().all()):
            raise ValueError(f"{photo.path}: the model's keypoints or scores are not finite numbers.")
        drawn = None if picture is None else poses.draw(image)
    except (OSError, ValueError) as error:
        problem = str(error)
        raise _PhotoError(problem if str(photo.path) in problem else f"{photo.path}: {problem}") from error
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error):  # as PyTorch says it
            raise
        raise _PhotoError(f"{photo.path} does not fit into memory: {error}") from error
    if picture is not None and drawn is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_picture(drawn, picture, "JPEG", quality=92, comment=PICTURE_MARK)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise _PhotoError(f"{photo.path}: its picture {picture} cannot be written: {error.strerror}.") from error
    return poses
