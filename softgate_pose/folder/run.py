"""Predict photo by photo: keep the poses, draw the pictures, and go on past photos that fail."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL.Image import Image

from softgate_pose._files import write_picture
from softgate_pose.data.images import open_image
from softgate_pose.folder.boxes import Boxes
from softgate_pose.folder.photos import PICTURE_MARK, Photo
from softgate_pose.folder.results import Results, file_stamp
from softgate_pose.prediction.poses import Poses

__all__ = ["Outcome", "is_done", "predict_photos"]

_JPEG_LIMIT = 65500
"""The longest side of a picture that Pillow's JPEG encoder takes."""


class Outcome(NamedTuple):
    """What became of a photo: its poses, or what went wrong, which names the photo's path."""

    photo: Photo
    poses: Poses | None
    problem: str | None


def predict_photos(
    photos: Sequence[Photo],
    predict: Callable[[Any, Boxes | None], Poses],
    *,
    boxes: Mapping[str, Boxes] | None = None,
    results: Results | None = None,
    pictures: Mapping[str, str] | None = None,
) -> Iterator[Outcome]:
    """Predict photo by photo, keeping the poses; a photo that fails is told and passed over.

    Args:
        photos: From ``find_photos``.
        predict: Given the opened image and its boxes, or None for the whole image.
        boxes: From ``read_boxes``; then a photo without an entry is an error of that photo.
        results: Where poses are kept; photos that ``is_done`` finds there are not yielded.
        pictures: Where the photos with skeletons go, from ``picture_paths``; one that is missing is
            drawn, even if its poses are kept already.

    Raises:
        OSError: If results or pictures cannot be written.
    """
    base_names = Counter(_base_name(photo) for photo in photos) if boxes is not None else {}
    for photo in photos:
        if is_done(photo, results, pictures):
            continue
        picture = None if pictures is None else Path(pictures[photo.name])
        stamp = file_stamp(photo.path)
        unique = base_names.get(_base_name(photo)) == 1
        poses, problem = None, None
        try:
            poses = _predict_photo(photo, predict, boxes, by_base_name=unique, picture=picture)
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
    boxes: Mapping[str, Boxes] | None,
    *,
    by_base_name: bool,
    picture: Path | None,
) -> Poses:
    """A photo's poses, which are drawn on it in the file ``picture``, if that is given."""
    try:
        image = open_image(photo.path)
        if picture is not None and max(image.size) > _JPEG_LIMIT:
            raise ValueError(f"{photo.path}: its picture would be larger than JPEG's {_JPEG_LIMIT} pixels.")
        poses = predict(image, _boxes_of(photo, boxes, by_base_name=by_base_name))
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
        _save_picture(drawn, picture, photo)
    return poses


def _save_picture(drawn: Image, picture: Path, photo: Photo) -> None:
    picture.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_picture(drawn, picture, "JPEG", quality=92, comment=PICTURE_MARK)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # the others will meet it, too
            raise
        raise _PhotoError(f"{photo.path}: its picture {picture} cannot be written: {error.strerror}.") from error


def _base_name(photo: Photo) -> str:
    return photo.name.rpartition("/")[2]


def _boxes_of(photo: Photo, boxes: Mapping[str, Boxes] | None, *, by_base_name: bool) -> Boxes | None:
    if boxes is None:
        return None
    for key in (photo.path.as_posix(), photo.name, *([_base_name(photo)] if by_base_name else [])):
        if key in boxes:
            return boxes[key]
    raise ValueError(f"{photo.path}: the boxes file has no entry {photo.name!r}; in JSON, [] says nobody is in it.")
