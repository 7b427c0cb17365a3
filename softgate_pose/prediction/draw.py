"""Draw poses on a photo, with Pillow alone."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from softgate_pose.data.images import ImageSource, load_image
from softgate_pose.pose.geometry import resize_points
from softgate_pose.pose.skeleton import Skeleton

__all__ = ["MIN_SCORE", "draw_poses"]

MIN_SCORE = 0.15
"""The lowest score of a keypoint that is drawn by default: of lower ones, far more are wrong than right."""

_LEFT, _RIGHT, _MIDDLE = (255, 149, 0), (0, 168, 255), (76, 217, 100)
_OUTLINE = (20, 20, 20)
_SUPERSAMPLING = 3  # Pillow does not antialias lines; drawing large and shrinking does


def draw_poses(
    image: ImageSource,
    keypoints: Tensor,
    scores: Tensor,
    skeleton: Skeleton,
    *,
    min_score: float = MIN_SCORE,
) -> Image.Image:
    """Draw skeletons on a copy of the image: the person's left orange, right blue, middle green.

    Line widths follow each person's size, so a small figure is not painted over.

    Args:
        image: As for ``predict``, with any number of channels: the first three are shown, or the first of two as grey.
        keypoints: (N, K, 2) as (x, y) in image pixels; NaN where missing.
        scores: (N, K).
        skeleton: Names and edges of the K keypoints.
        min_score: Keypoints with a lower score, and the edges to them, are left out.

    Returns:
        A new RGB image of the same size.
    """
    if keypoints.shape != (len(keypoints), len(skeleton), 2) or scores.shape != keypoints.shape[:2]:
        raise ValueError(
            f"keypoints and scores must have shapes (N, {len(skeleton)}, 2) and (N, {len(skeleton)}) for skeleton "
            f"{skeleton.name!r}, got {tuple(keypoints.shape)} and {tuple(scores.shape)}."
        )
    if isinstance(image, Tensor) and image.dim() == 3 and image.shape[0] != 3:
        image = image[:3] if image.shape[0] > 3 else image[:1].expand(3, -1, -1)  # shown as colours, or as grey
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] not in (1, 3, 4):
        image = image[..., : 3 if image.shape[2] > 3 else 1]
    pixels = load_image(image).round().byte().permute(1, 2, 0).cpu().contiguous()
    canvas = Image.fromarray(pixels.numpy())
    for points, shown in zip(keypoints.double(), scores >= min_score, strict=True):
        shown = shown & points.isfinite().all(dim=-1)
        if shown.any():
            _draw_person(canvas, points, shown, skeleton)
    return canvas


def _draw_person(canvas: Image.Image, points: Tensor, shown: Tensor, skeleton: Skeleton) -> None:
    """Draw the keypoints (K, 2) that are ``shown``, (K,) bool and at least one, and the edges between them."""
    low, high = points[shown].amin(dim=0), points[shown].amax(dim=0)
    extent = max(float((high - low).max()), 0.05 * max(canvas.size))
    thickness = min(max(extent / 70, 1.2), 0.02 * max(canvas.size))
    # Draw on an enlarged copy of the part that changes, and paste it back shrunk.
    pad = 3 * thickness + 2
    x0, y0 = (max(0, int(v - pad)) for v in low.tolist())
    x1, y1 = (min(side, int(v + pad) + 1) for v, side in zip(high.tolist(), canvas.size, strict=True))
    if x1 <= x0 or y1 <= y0:
        return
    part = canvas.crop((x0, y0, x1, y1))
    scale = _SUPERSAMPLING if max(part.size) <= 3000 else 1
    large = part.resize((part.width * scale, part.height * scale), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(large)
    places = resize_points(points - points.new_tensor([x0, y0]), scale).tolist()
    width = thickness * scale
    visible = shown.tolist()
    edges = [(a, b) for a, b in skeleton.edge_indices if visible[a] and visible[b]]
    for extra, colour in ((0.5 * width, _OUTLINE), (0.0, None)):
        for a, b in edges:
            names = skeleton.keypoints[a], skeleton.keypoints[b]
            pen.line((*places[a], *places[b]), fill=colour or _colour(*names), width=round(width + extra))
        radius = 0.9 * width + extra / 2
        for name, (x, y), is_visible in zip(skeleton.keypoints, places, visible, strict=True):
            if is_visible:
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour or _colour(name))
    canvas.paste(large.resize(part.size, Image.Resampling.BOX), (x0, y0))


def _colour(*names: str) -> tuple[int, int, int]:
    if any(name.startswith("left_") for name in names):
        return _MIDDLE if any(name.startswith("right_") for name in names) else _LEFT
    return _RIGHT if any(name.startswith("right_") for name in names) else _MIDDLE
