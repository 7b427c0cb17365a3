"""Geometry: the affine maps between an image, a person's crop, and the crop's heatmaps.

Coordinates are (x, y) with pixel centres at whole numbers, so (0, 0) is the centre of the top-left
pixel. A map is a 2×3 matrix ``[A | b]`` that takes a point p to ``A p + b``. Maps are batched, (N, 2, 3),
and float64, since they are few and their errors are not wanted. The half-pixel terms of image edges,
centres and scales are all in this module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "BOX_SCALE",
    "as_boxes",
    "box_to_crop",
    "compose",
    "crop",
    "heatmap_to_input",
    "image_box",
    "image_centre",
    "input_to_heatmap",
    "inside",
    "invert",
    "mirror_crop",
    "resize_map",
    "resize_points",
    "rotate_scale_about",
    "transform_points",
    "warp",
]

BOX_SCALE = 1.25
"""Factor on a person's box, in width and height, that a crop shows; the networks are trained with it."""


def as_boxes(boxes: Tensor | Sequence[Sequence[float]]) -> Tensor:
    """Boxes (x0, y0, x1, y1) as a checked float64 tensor (N, 4) on the CPU.

    Raises:
        ValueError: If the shape is not (N, 4), or a box has a NaN, an infinity or no area.
    """
    try:
        if not isinstance(boxes, Tensor):
            boxes = torch.tensor([[float(value) for value in box] for box in boxes], dtype=torch.float64, device="cpu")
        out = boxes.detach().to("cpu", torch.float64)  # few, and some devices have no float64
    except (OverflowError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"boxes must be numbers of shape (N, 4) as (x0, y0, x1, y1): {error}") from None
    if out.shape in ((0,), (0, 4)):
        return out.new_zeros(0, 4)
    if out.dim() != 2 or out.shape[1] != 4:
        raise ValueError(f"boxes must have shape (N, 4) as (x0, y0, x1, y1), got {tuple(out.shape)}.")
    good = torch.isfinite(out).all(dim=1) & (out[:, 2] > out[:, 0]) & (out[:, 3] > out[:, 1])
    if not good.all():
        first = int((~good).nonzero()[0])
        raise ValueError(
            f"Box {first} has no area or is not finite: {out[first].tolist()}. "
            "Boxes are (x0, y0, x1, y1) with x0 < x1 and y0 < y1, in image pixels."
        )
    return out


def image_box(height: int, width: int) -> tuple[float, float, float, float]:
    """The box (x0, y0, x1, y1) of a whole image, to the outer edges of its pixels."""
    return (-0.5, -0.5, width - 0.5, height - 0.5)


def image_centre(height: int, width: int) -> tuple[float, float]:
    """The centre (x, y) of an image."""
    return ((width - 1) / 2, (height - 1) / 2)


def inside(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Which points (..., 2) lie on an image of (height, width), to the outer edges of its pixels; (...) bool."""
    x0, y0, x1, y1 = image_box(*size)
    x, y = points.unbind(-1)
    return (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)


def box_to_crop(boxes: Tensor, size: tuple[int, int], scale: float = 1.0) -> Tensor:
    """Maps from the image to crops that show each box as large as fits, centred, undistorted.

    Args:
        boxes: (N, 4) as (x0, y0, x1, y1) in image pixels.
        size: (height, width) of the crops.
        scale: Factor on the box's width and height; 1.25 adds an eighth on each side.

    Returns:
        (N, 2, 3), image pixels to crop pixels.
    """
    height, width = size
    boxes = boxes.double()
    middle = torch.tensor(image_centre(height, width), dtype=torch.float64, device=boxes.device)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = (boxes[:, 2:] - boxes[:, :2]) * scale
    zoom = torch.minimum(width / sides[:, 0], height / sides[:, 1])
    linear = torch.eye(2, dtype=torch.float64, device=boxes.device) * zoom[:, None, None]
    return torch.cat((linear, (middle - zoom[:, None] * centre).unsqueeze(-1)), dim=-1)


def rotate_scale_about(angle: Tensor, zoom: Tensor, centre: tuple[float, float]) -> Tensor:
    """Maps that turn by ``angle`` (N,) radians, from x towards y, and enlarge by ``zoom`` (N,) about a point.

    Returns:
        (N, 2, 3).
    """
    cos, sin = (torch.cos(angle) * zoom).double(), (torch.sin(angle) * zoom).double()
    linear = torch.stack((torch.stack((cos, -sin), dim=-1), torch.stack((sin, cos), dim=-1)), dim=-2)
    middle = torch.tensor(centre, dtype=torch.float64, device=angle.device)
    return torch.cat((linear, (middle - linear @ middle).unsqueeze(-1)), dim=-1)


def mirror_crop(mirrored: Tensor, width: int) -> Tensor:
    """Maps that mirror x in an image of ``width`` pixels where ``mirrored`` (N,) is true, else change nothing."""
    sign = torch.where(mirrored, -1.0, 1.0).double()
    shift = torch.where(mirrored, width - 1.0, 0.0).double()
    zero, one = torch.zeros_like(sign), torch.ones_like(sign)
    return torch.stack((torch.stack((sign, zero, shift), dim=-1), torch.stack((zero, one, zero), dim=-1)), dim=-2)


def compose(second: Tensor, first: Tensor) -> Tensor:
    """The maps that apply ``first``, then ``second``; both (N, 2, 3)."""
    linear = second[..., :2] @ first[..., :2]
    return torch.cat((linear, second[..., :2] @ first[..., 2:] + second[..., 2:]), dim=-1)


def invert(matrices: Tensor) -> Tensor:
    """The inverse maps of (N, 2, 3)."""
    linear = torch.linalg.inv(matrices[..., :2])
    return torch.cat((linear, -linear @ matrices[..., 2:]), dim=-1)


def transform_points(matrices: Tensor, points: Tensor) -> Tensor:
    """Apply each map (N, 2, 3) to its own points (N, K, 2); the result has the points' dtype."""
    moved = points.to(matrices.dtype) @ matrices[..., :2].transpose(-1, -2) + matrices[..., 2].unsqueeze(-2)
    return moved.to(points.dtype)


def heatmap_to_input(points: Tensor, stride: float) -> Tensor:
    """Heatmap pixels to input pixels: a heatmap pixel's centre is that of the block it covers."""
    return resize_points(points, stride)


def input_to_heatmap(points: Tensor, stride: float) -> Tensor:
    """The inverse of ``heatmap_to_input``."""
    return resize_points(points, 1 / stride)


def resize_map(ratio: float) -> Tensor:
    """The map (1, 2, 3) by which the points of an image move when it is resized by ``ratio``, see ``resize_points``."""
    shift = (ratio - 1) / 2
    return torch.tensor([[[ratio, 0, shift], [0, ratio, shift]]], dtype=torch.float64, device="cpu")


def resize_points(points: Tensor, ratio: float) -> Tensor:
    """The points, of any shape, of an image that is resized by ``ratio``.

    A resize scales pixel edges, so pixel centres move: x + 1/2 is multiplied by the ratio.
    """
    return points * ratio + (ratio - 1) / 2


def warp(images: Tensor, matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample each image through its own map, bilinearly; outside an image is 0.

    Each output pixel samples one point, so a map that shrinks should be given an image that was
    shrunk before (``crop`` does that).

    Args:
        images: (N, C, H, W), floating point.
        matrices: (N, 2, 3), image pixels to output pixels; on the CPU or the images' device.
        size: (height, width) of the output.

    Returns:
        (N, C, height, width) of the images' dtype.
    """
    height, width = images.shape[-2:]
    inverse = invert(matrices)
    # grid_sample measures both sides in pixel edges at -1 and 1: x_grid = (2 x + 1) / width - 1.
    to_grid = compose(_diagonal((2 / width, 2 / height), (1 / width - 1, 1 / height - 1), inverse), inverse)
    rows, columns = (torch.arange(side, dtype=torch.float64, device=inverse.device) for side in size)
    # An affine map is a sum of one vector for each column and one for each row, and only the sum is large.
    across = columns.view(1, 1, -1, 1) * to_grid[:, None, None, :, 0]  # (N, 1, width, 2)
    down = rows.view(1, -1, 1, 1) * to_grid[:, None, None, :, 1] + to_grid[:, None, None, :, 2]  # (N, height, 1, 2)
    # in half precision the grid is too coarse, and grid_sample on the CPU reads beyond large images
    exact = images if images.dtype in (torch.float32, torch.float64) else images.float()
    grid = across.to(exact.device, exact.dtype) + down.to(exact.device, exact.dtype)
    sampled = F.grid_sample(exact, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled.to(images.dtype)


def crop(image: Tensor, matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Crops of one image through each of several maps, without aliasing.

    Where a map shrinks, each crop pixel is the average over about the area of the image that it
    covers. Like bilinear sampling itself, the averages reproduce a linear ramp exactly.

    Args:
        image: (C, H, W), floating point or uint8.
        matrices: (N, 2, 3), image pixels to crop pixels.
        size: (height, width) of the crops.

    Returns:
        (N, C, height, width) float32 (float64 for a float64 image) in the image's units; 0 outside it.
    """
    dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
    crops = image.new_zeros((len(matrices), image.shape[0], *size), dtype=dtype)
    for i, matrix in enumerate(matrices.to("cpu", torch.float64)):
        region = _region_seen(matrix, size, image.shape[-2:])
        if region is None:
            continue
        x0, y0, x1, y1 = region
        part = image[None, :, y0:y1, x0:x1].to(dtype)
        to_part = torch.tensor([[[1, 0, -x0], [0, 1, -y0]]], dtype=torch.float64, device="cpu")
        # A strong shrink first averages whole blocks of the image, which is cheap; what is left, up
        # to 4, is the average of enough samples for each crop pixel to miss no block between them.
        shrink = 1 / _zoom(matrix)
        block = max(1, math.floor(shrink / 2))
        if block > 1:
            # a block that reaches past the part counts zeros there, as outside the image
            part = F.avg_pool2d(part, block, ceil_mode=True, divisor_override=block**2)
            to_part = compose(resize_map(1 / block), to_part)
        samples = max(1, math.ceil(shrink / block - 1e-6))
        to_samples = compose(resize_map(samples), compose(matrix[None], invert(to_part)))
        sampled = warp(part, to_samples, (size[0] * samples, size[1] * samples))
        crops[i] = F.avg_pool2d(sampled, samples)[0] if samples > 1 else sampled[0]
    return crops


def _region_seen(matrix: Tensor, size: tuple[int, int], image_size: Sequence[int]) -> tuple[int, int, int, int] | None:
    """The pixels [x0, x1) × [y0, y1) of the image that a crop can depend on; None if there are none."""
    height, width = size
    x, y = width - 0.5, height - 0.5
    corners = matrix.new_tensor([[-0.5, -0.5], [x, -0.5], [-0.5, y], [x, y]])
    seen = transform_points(invert(matrix[None]), corners[None])[0]
    margin = 2 + 2 / _zoom(matrix)  # bilinear sampling, and the averaged blocks
    limit = matrix.new_tensor([image_size[1], image_size[0]])
    low = torch.minimum((seen.amin(dim=0) - margin).floor().clamp_min(0), limit)
    high = torch.minimum((seen.amax(dim=0) + margin).ceil().clamp_min(0), limit)
    if not bool((high > low).all()):
        return None
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _zoom(matrix: Tensor) -> float:
    """By how much a map (2, 3) enlarges lengths."""
    return math.sqrt(abs(float(torch.linalg.det(matrix[:, :2]))))


def _diagonal(scale: tuple[float, float], shift: tuple[float, float], like: Tensor) -> Tensor:
    """(1, 2, 3): scale and shift per axis."""
    rows = [[[scale[0], 0.0, shift[0]], [0.0, scale[1], shift[1]]]]
    return torch.tensor(rows, dtype=like.dtype, device=like.device)
