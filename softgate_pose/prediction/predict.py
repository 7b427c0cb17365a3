"""From photos to poses: crop the people, run the network, decode, map back into the photo."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

from softgate_pose.config import STRIDE, PoseConfig
from softgate_pose.data.images import ImageSource, load_image, normalize
from softgate_pose.data.people import People, Predictions, require_keypoints
from softgate_pose.model.base import PoseModel
from softgate_pose.pose import geometry
from softgate_pose.pose.geometry import BOX_SCALE
from softgate_pose.pose.heatmaps import DecodeMethod, decode_heatmaps, flip_heatmaps
from softgate_pose.prediction.poses import Poses

__all__ = [
    "crop_matrices",
    "crop_people",
    "decode_crops",
    "infer_heatmaps",
    "predict",
    "predict_crops",
    "predict_people",
]

_LARGEST_BOX = 100  # times the image


def predict(
    model: PoseModel,
    image: ImageSource,
    boxes: Tensor | Sequence[Sequence[float]] | None = None,
    *,
    flip_test: bool = False,
    decode: DecodeMethod = "dark",
    batch_size: int = 32,
    box_scale: float = BOX_SCALE,
) -> Poses:
    """Find the keypoints of each person in a photo.

    Runs on the device of the model's parameters. The model runs in evaluation mode, and is left as it was.

    Args:
        model: From ``create_model``, ``deploy`` or ``load_onnx``.
        image: A path, PIL image, NumPy array (H, W, C) or tensor (C, H, W); see ``load_image``.
        boxes: The people, (N, 4) as (x0, y0, x1, y1) in pixels of the upright image, from any
            detector. None: the whole image is one person. A box may extend beyond the image.
        flip_test: Average with the mirrored image's heatmaps: twice the time, a little more accurate.
        decode: See ``decode_heatmaps``.
        batch_size: People that go through the network together.
        box_scale: Factor on a box's width and height, for the area that the network sees; not for a whole image.

    Returns:
        ``Poses`` on the CPU. ``boxes=[]`` gives no poses. The box of a whole image is that
        of its pixels' outer edges, (-0.5, -0.5, W - 0.5, H - 0.5).

    Raises:
        FileNotFoundError: If a path does not exist.
        TypeError: If ``image`` is none of these.
        ValueError: If the image cannot be read, or a box is not finite, lies wholly outside the image, is more
            than 100 times as large, or at most a pixel wide and high.
    """
    _check_batch_size(batch_size)
    if not 0 < box_scale < math.inf:
        raise ValueError(f"box_scale must be a number above 0, got {box_scale}.")
    config, device = model.config, model.device
    pixels = load_image(image, config.in_chans)
    height, width = pixels.shape[1:]
    cropped, matrices = crop_matrices(boxes, (height, width), config, box_scale=box_scale)
    pixels = pixels.to(device)
    batches = ((geometry.crop(pixels, chunk, config.input_size), chunk) for chunk in torch.split(matrices, batch_size))
    keypoints, scores = _predict_batches(model, batches, flip_test=flip_test, decode=decode)
    return Poses(keypoints, scores, cropped.float(), config.skeleton)


def predict_people(
    model: PoseModel,
    people: People,
    *,
    flip_test: bool = False,
    decode: DecodeMethod = "dark",
    batch_size: int = 32,
    progress: bool = False,
) -> Predictions:
    """Predict annotated people, from crops around their boxes, as ``predict`` cuts them.

    Args:
        model: From ``create_model``, ``deploy`` or ``load_onnx``.
        people: From ``read_people``.
        flip_test: Average with the mirrored crops' heatmaps.
        decode: See ``decode_heatmaps``.
        batch_size: People that go through the network together.
        progress: Show a progress bar.

    Returns:
        The model's keypoints and their scores, on the CPU.

    Raises:
        ValueError: If the model lacks one of the people's keypoints, or
            ``batch_size`` is below 1.
    """
    _check_batch_size(batch_size)
    config = model.config
    require_keypoints(config.skeleton.keypoints, people.skeleton.keypoints, config.name)
    starts = tqdm(range(0, len(people), batch_size), "evaluating", disable=not progress, leave=False)
    batches = (crop_people(people, range(len(people))[start : start + batch_size], config) for start in starts)
    keypoints, scores = _predict_batches(model, batches, flip_test=flip_test, decode=decode)
    return Predictions(config.skeleton.keypoints, keypoints, scores)


def crop_matrices(
    boxes: Tensor | Sequence[Sequence[float]] | None,
    image_size: tuple[int, int],
    config: PoseConfig,
    *,
    box_scale: float = BOX_SCALE,
) -> tuple[Tensor, Tensor]:
    """The checked boxes (N, 4), float64, of people in an image of (height, width), and their crops.

    A crop is a map from image pixels to the network's input pixels, together (N, 2, 3). No boxes: the whole image.
    """
    if boxes is None:
        checked, box_scale = geometry.as_boxes([geometry.image_box(*image_size)]), 1.0
    else:
        checked = geometry.as_boxes(boxes)
        _check_boxes(checked, *image_size)
    return checked, geometry.box_to_crop(checked, config.input_size, box_scale)


def crop_people(people: People, indices: Sequence[int], config: PoseConfig) -> tuple[Tensor, Tensor]:
    """Crops (N, C, H, W) around some people's boxes, colours in 0..255, and their maps (N, 2, 3) from image pixels."""
    matrices = geometry.box_to_crop(people.boxes[list(indices)], config.input_size, BOX_SCALE)
    images = (load_image(people.images[i], config.in_chans) for i in indices)
    crops = [
        geometry.crop(image, to_crop[None], config.input_size) for image, to_crop in zip(images, matrices, strict=True)
    ]
    return torch.cat(crops), matrices


def _predict_batches(
    model: PoseModel, batches: Iterable[tuple[Tensor, Tensor]], *, flip_test: bool, decode: DecodeMethod
) -> tuple[Tensor, Tensor]:
    """Keypoints (N, K, 2) in image pixels and scores (N, K), on the CPU.

    A batch is crops (n, C, H, W) and the maps (n, 2, 3) from image pixels to crop pixels.
    """
    keypoints = [torch.zeros(0, model.config.num_keypoints, 2, device="cpu")]
    scores = [keypoints[0][..., 0]]
    for crops, matrices in batches:
        points, peaks = predict_crops(model, crops.to(model.device), flip_test=flip_test, decode=decode)
        keypoints.append(geometry.transform_points(geometry.invert(matrices), points.cpu()))
        scores.append(peaks.cpu())
    return torch.cat(keypoints), torch.cat(scores)


def predict_crops(
    model: PoseModel, crops: Tensor, *, flip_test: bool = False, decode: DecodeMethod = "dark"
) -> tuple[Tensor, Tensor]:
    """Keypoints (N, K, 2) as (x, y) in crop pixels, and scores (N, K) in 0..1, of crops of one person each.

    The crops (N, C, H, W) have colours in 0..255, and are on the model's device.
    """
    images = normalize(crops, model.config).to(model.dtype)
    return decode_crops(infer_heatmaps(model, images, flip_test=flip_test), decode, stride=model.config.stride)


def infer_heatmaps(model: PoseModel, images: Tensor, *, flip_test: bool = False) -> Tensor:
    """The model's heatmaps (N, K, h, w) of normalised images (N, C, H, W), in evaluation mode, without gradients."""
    with _evaluating(model), torch.inference_mode():
        heatmaps: Tensor = model(images)
        if flip_test:
            mirror = model.config.skeleton.mirror
            heatmaps = (heatmaps + flip_heatmaps(model(images.flip(-1)), mirror)) / 2
    return heatmaps


def decode_crops(heatmaps: Tensor, decode: DecodeMethod = "dark", *, stride: int = STRIDE) -> tuple[Tensor, Tensor]:
    """Keypoints (N, K, 2) as (x, y) in crop pixels, and scores (N, K) in 0..1, of heatmaps (N, K, h, w)."""
    keypoints, scores = decode_heatmaps(heatmaps, decode)
    return geometry.heatmap_to_input(keypoints, stride), scores.clamp(0, 1)


_switching = threading.Lock()
_evaluated: dict[nn.Module, tuple[int, list[nn.Module]]] = {}
"""The models that threads are running: how many threads, and which modules were in training mode before."""


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode while any thread runs the model, and then the mode that it had before."""
    with _switching:
        count, in_training = _evaluated.get(model) or (0, [module for module in model.modules() if module.training])
        _evaluated[model] = count + 1, in_training
        model.eval()
    try:
        yield
    finally:
        with _switching:
            count, in_training = _evaluated.pop(model)
            if count > 1:
                _evaluated[model] = count - 1, in_training
            else:
                for module in in_training:
                    module.training = True


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")


def _check_boxes(boxes: Tensor, height: int, width: int) -> None:
    x0, y0, x1, y1 = geometry.image_box(height, width)
    # by half a pixel more, since many detectors' boxes reach from 0 to the width
    outside = (boxes[:, 2] <= x0) | (boxes[:, 3] <= y0) | (boxes[:, 0] >= x1 + 0.5) | (boxes[:, 1] >= y1 + 0.5)
    sides = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)
    image = f"the image of {width} × {height} pixels"
    layout = "Boxes are (x0, y0, x1, y1) in pixels of the upright image."
    rescale = f"Boxes are in pixels; multiply those that go from 0 to 1 by the image's size, {width} and {height}."
    for bad, problem, remedy in (
        (outside, f"lies outside {image}", layout),
        (sides <= 1, "is at most a pixel wide and high", rescale),
        (sides > _LARGEST_BOX * max(height, width), f"is more than {_LARGEST_BOX} times as large as {image}", layout),
    ):
        if bad.any():
            first = int(bad.nonzero()[0])
            raise ValueError(f"Box {first} {problem}: {boxes[first].tolist()}. {remedy}")
