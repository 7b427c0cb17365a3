"""Heatmaps: render them from keypoints, decode keypoints from them, flip them.

A heatmap of shape (H, W) has its pixel centres at whole numbers: (0, 0) is the centre of the top-left
pixel, and a keypoint is (x, y). A perfect heatmap is a Gaussian of peak value 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from softgate_pose.pose.geometry import image_centre

__all__ = ["DecodeMethod", "decode_heatmaps", "flip_heatmaps", "render_heatmaps", "spatial_softmax"]

DecodeMethod = Literal["argmax", "quarter", "dark", "soft", "mass"]

_DARK_BLUR_SIGMA = 1.0  # smooths the noise of a learned map; a Gaussian stays one, with the same centre
_DARK_BLUR_RADIUS = 3
_SOFT_RADIUS = 3
_MASS_SIGMA = 2.0  # chosen on training people, held-out ones among them; docs/decoding.md has what it gives
_TINY = 1e-12  # below it there is nothing to divide by, or to take the log of


def render_heatmaps(keypoints: Tensor, size: tuple[int, int], sigma: float = 1.0) -> Tensor:
    """Draw one Gaussian of peak value 1 for each keypoint, centred at its sub-pixel position.

    Args:
        keypoints: ``(..., 2)`` as (x, y) in heatmap pixels, floating point. A keypoint with a NaN or an
            infinity is one without a place: its map is all zero. One outside the map leaves its tail.
        size: (height, width) of the heatmaps.
        sigma: Standard deviation in heatmap pixels.

    Returns:
        Heatmaps ``(..., H, W)`` of the dtype and on the device of ``keypoints``.

    Raises:
        ValueError: If ``keypoints`` is not floating point of shape ``(..., 2)``, ``size`` is not two
            whole numbers above 0, or ``sigma`` is not above 0.
    """
    if keypoints.dim() < 1 or keypoints.shape[-1] != 2 or not keypoints.is_floating_point():
        raise ValueError(
            f"keypoints must be floating point of shape (..., 2), got {keypoints.dtype} {tuple(keypoints.shape)}."
        )
    if not isinstance(size, (tuple, list)) or len(size) != 2 or any(not isinstance(n, int) or n < 1 for n in size):
        raise ValueError(f"size must be (height, width), two whole numbers above 0, got {size!r}.")
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma must be above 0 heatmap pixels, got {sigma}.")
    height, width = size
    wide = keypoints.to(_working_dtype(keypoints.dtype))
    placed = torch.isfinite(wide).all(dim=-1, keepdim=True)
    x, y = torch.where(placed, wide, torch.zeros_like(wide)).unbind(-1)
    columns = torch.arange(width, dtype=wide.dtype, device=wide.device)
    rows = torch.arange(height, dtype=wide.dtype, device=wide.device)
    # A Gaussian is separable: (..., H, 1) * (..., 1, W), and only the vectors need an exponential.
    across = torch.exp(-((columns - x.unsqueeze(-1)) ** 2) / (2 * sigma**2))
    down = torch.exp(-((rows - y.unsqueeze(-1)) ** 2) / (2 * sigma**2)) * placed
    return (down.unsqueeze(-1) * across.unsqueeze(-2)).to(keypoints.dtype)


def decode_heatmaps(heatmaps: Tensor, method: DecodeMethod = "dark") -> tuple[Tensor, Tensor]:
    """Find each heatmap's peak, to a fraction of a pixel.

    - ``argmax``: the highest pixel (the first of equals, row by row). Error ≤ 0.5.
    - ``quarter``: a quarter pixel from there towards the higher neighbour, per axis. Error ≤ 0.25.
    - ``dark``: a Newton step to the top of the parabola through the log of the map, which is blurred
      first; without a maximum there, as ``quarter``. Error ≤ 0.02.
    - ``soft``: the expectation over the 7×7 pixels around the highest. Error ≤ 0.05.
    - ``mass``: the place with the most of the whole map around it, weighed by a Gaussian of ``sigma=2``:
      the highest pixel of the map blurred by that, and from there the Newton step of ``dark``.
      Error ≤ 0.02.

    The errors are the largest per axis, in heatmap pixels, for clean Gaussians of ``sigma=1`` whose
    centre is at least 4 pixels from the border. Where the highest pixel lies on the border, ``quarter``,
    ``dark`` and ``mass`` take no step across that axis, and ``soft`` uses the pixels there are. ``mass``
    takes what lies past the border as 0, which draws points near it up to a pixel inwards. No answer
    lies outside the map.

    NaN and infinite values are passed over, as if they were lower than every other. A map without a
    peak, because all its usable values are equal or it has none, decodes to its middle,
    ((W - 1) / 2, (H - 1) / 2), with score 0.

    Args:
        heatmaps: ``(B, K, H, W)``, any floating point dtype, on any device. Not modified.
        method: One of the above.

    Returns:
        Keypoints ``(B, K, 2)`` as (x, y) in heatmap pixels, and scores ``(B, K)``: the value of the
        highest pixel, whichever the method. Both are float32 (float64 for float64 heatmaps).

    Raises:
        ValueError: If ``heatmaps`` is not 4-D floating point with at least one pixel, or the method is
            unknown.

    Source: ``quarter``: Newell et al. 2016, section 3; ``dark``: Zhang et al. 2020, section 3.2.
    """
    if heatmaps.dim() != 4 or not heatmaps.is_floating_point():
        raise ValueError(
            f"heatmaps must be floating point of shape (B, K, H, W), got {heatmaps.dtype} {tuple(heatmaps.shape)}."
        )
    if method not in get_args(DecodeMethod):
        raise ValueError(f"method must be one of {', '.join(get_args(DecodeMethod))}; got {method!r}.")
    height, width = heatmaps.shape[2:]
    if height < 1 or width < 1:
        raise ValueError(f"heatmaps must have at least one pixel, got {tuple(heatmaps.shape)}.")

    flat, scores, index, has_peak = _highest(heatmaps)
    if method == "mass":
        flat = _blurred(flat, scores, (height, width))
        index = flat.argmax(dim=2)
    dtype = _working_dtype(heatmaps.dtype)
    peaks = _Peaks(flat, index % width, torch.div(index, width, rounding_mode="floor"), (height, width))
    keypoints = torch.stack((peaks.column, peaks.row), dim=-1).to(dtype)
    scores = scores.to(dtype)
    if method != "argmax":
        step = _SUBPIXEL_STEPS[method](peaks)
        limit = torch.tensor([width - 1, height - 1], dtype=dtype, device=step.device)
        keypoints = torch.minimum((keypoints + step).clamp_min(0), limit)

    middle = torch.tensor(image_centre(height, width), dtype=dtype, device=keypoints.device)
    keypoints = torch.where(has_peak.unsqueeze(-1), keypoints, middle)
    return keypoints, torch.where(has_peak, scores, torch.zeros_like(scores))


def flip_heatmaps(heatmaps: Tensor, mirror: Sequence[int]) -> Tensor:
    """The heatmaps of a mirrored image, mirrored back: reverse x and swap left and right keypoints.

    Pixel centres are whole numbers and the crop's centre is the heatmap's, so a mirrored pixel falls
    on a pixel: no shift is needed before averaging.

    Args:
        heatmaps: ``(B, K, H, W)``.
        mirror: For each keypoint the index of its mirror image, ``Skeleton.mirror``.

    Returns:
        New heatmaps ``(B, K, H, W)``.

    Raises:
        ValueError: If ``mirror`` does not hold one index for each of the K keypoints.
    """
    if heatmaps.dim() != 4 or sorted(mirror) != list(range(heatmaps.shape[1])):
        raise ValueError(
            f"mirror must hold each keypoint's index once for heatmaps (B, K, H, W); "
            f"got {list(mirror)} and heatmaps {tuple(heatmaps.shape)}."
        )
    return heatmaps.flip(-1)[:, list(mirror)]


def spatial_softmax(logits: Tensor, sigma: float = 1.0) -> Tensor:
    """The softmax of each map over its pixels, scaled so that a perfect peak is 1.

    The cross-entropy loss trains the softmax towards a Gaussian of sum 1, whose peak is
    1 / (2 pi sigma²). Scaled by that, such heatmaps read as ``render_heatmaps`` draws them; a sharper
    one peaks above 1.

    Args:
        logits: ``(B, K, H, W)``.
        sigma: Standard deviation of the training targets, in heatmap pixels.
    """
    # float32, since an fp16 softmax over thousands of pixels loses its tail
    probabilities = logits.flatten(2).to(_working_dtype(logits.dtype)).softmax(dim=2)
    return (probabilities * (2 * math.pi * sigma**2)).view(logits.shape).to(logits.dtype)


def _highest(heatmaps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The highest usable pixel of each map.

    Returns:
        The maps flat, (B, K, H*W), with the lowest number in place of NaN and infinity; and of each map (B, K)
        its highest value, the index of that pixel, and whether any usable value is lower.
    """
    height, width = heatmaps.shape[2:]
    flat = heatmaps.flatten(2)
    # Making maps usable costs several passes over them, and nearly all are usable as they are: a NaN or an infinity
    # shows in the extremes. Looking at these would make a GPU wait, and a traced graph cannot branch on values.
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if heatmaps.device.type == "cpu" and not (torch.compiler.is_compiling() or tracing):
        maps = flat.view(*flat.shape[:2], height, width)
        rows = maps.amax(dim=3)  # (B, K, H); without indices, a pass at the speed of memory
        scores, lowest = rows.amax(dim=2), flat.amin(dim=2)
        if bool(torch.isfinite(scores).all()) and bool(torch.isfinite(lowest).all()):
            row = rows.argmax(dim=2, keepdim=True)  # of equals the first, as its column below
            pixels = maps.gather(2, row.unsqueeze(-1).expand(-1, -1, -1, width)).squeeze(2)  # (B, K, W)
            return flat, scores, row.squeeze(2) * width + pixels.argmax(dim=2), scores > lowest
    usable = torch.isfinite(flat)
    lowest = torch.where(usable, flat, torch.finfo(flat.dtype).max).amin(dim=2)
    flat = torch.where(usable, flat, torch.finfo(flat.dtype).min)
    scores, index = flat.max(dim=2)
    return flat, scores, index, scores > lowest


class _Peaks(NamedTuple):
    """Maps, and the highest pixel of each, from which a decoder steps."""

    flat: Tensor
    """(B, K, H*W)."""
    column: Tensor
    """(B, K)."""
    row: Tensor
    """(B, K)."""
    size: tuple[int, int]
    """Height and width of a map."""

    def on_border(self) -> Tensor:
        """Whether each peak lies on the map's border across x and across y, (B, K, 2)."""
        height, width = self.size
        in_x = (self.column == 0) | (self.column == width - 1)
        in_y = (self.row == 0) | (self.row == height - 1)
        return torch.stack((in_x, in_y), dim=-1)

    def window(self, radius: int) -> tuple[Tensor, Tensor]:
        """The (2r+1)² pixels round each peak, (B, K, 2r+1, 2r+1), and which of them lie inside the map.

        Past the border the nearest pixel is repeated. Small windows keep the cost of a decoder independent
        of the heatmaps' size.
        """
        height, width = self.size
        offsets = torch.arange(-radius, radius + 1, device=self.flat.device)
        columns, rows = self.column.unsqueeze(-1) + offsets, self.row.unsqueeze(-1) + offsets  # (B, K, 2r+1)
        inside = ((rows >= 0) & (rows < height)).unsqueeze(-1) & ((columns >= 0) & (columns < width)).unsqueeze(-2)
        index = rows.clamp(0, height - 1).unsqueeze(-1) * width + columns.clamp(0, width - 1).unsqueeze(-2)
        values = self.flat.gather(2, index.flatten(2)).view(index.shape)
        return values.to(_working_dtype(self.flat.dtype)), inside


def _quarter_step(peaks: _Peaks) -> Tensor:
    window, _ = peaks.window(radius=1)
    slope = torch.stack((window[..., 1, 2] - window[..., 1, 0], window[..., 2, 1] - window[..., 0, 1]), dim=-1)
    return torch.where(peaks.on_border(), torch.zeros_like(slope), 0.25 * torch.sign(slope))


def _soft_step(peaks: _Peaks) -> Tensor:
    window, inside = peaks.window(_SOFT_RADIUS)
    # Weights are relative to the peak, which keeps maps of any scale in range. A peak of at most 0
    # (raw scores, not a heatmap) has no usable weights and takes no step.
    peak = window[..., _SOFT_RADIUS, _SOFT_RADIUS].unsqueeze(-1).unsqueeze(-1)
    weights = torch.where(inside & (peak > 0), window / peak.clamp_min(_TINY), torch.zeros_like(window)).clamp_min(0)
    offsets = torch.arange(-_SOFT_RADIUS, _SOFT_RADIUS + 1, dtype=window.dtype, device=window.device)
    total = weights.sum(dim=(-2, -1)).clamp_min(_TINY)
    return torch.stack(
        ((weights.sum(dim=-2) * offsets).sum(dim=-1), (weights.sum(dim=-1) * offsets).sum(dim=-1)), dim=-1
    ) / total.unsqueeze(-1)


def _dark_step(peaks: _Peaks) -> Tensor:
    window, _ = peaks.window(1 + _DARK_BLUR_RADIUS)
    peak = window[..., 1 + _DARK_BLUR_RADIUS, 1 + _DARK_BLUR_RADIUS].unsqueeze(-1).unsqueeze(-1)
    blur = _blur_matrix(window)  # (3, 9): only the 3×3 pixels round the peak are needed blurred
    blurred = blur @ (window / peak.clamp_min(_TINY)).clamp_min(0) @ blur.T
    return _newton_step(peaks, blurred)


def _mass_step(peaks: _Peaks) -> Tensor:
    window, _ = peaks.window(radius=1)
    return _newton_step(peaks, window)


def _newton_step(peaks: _Peaks, window: Tensor) -> Tensor:
    """To the top of the parabola through the log of the 3×3 pixels (B, K, 3, 3) round each peak.

    Where it has no top, or one more than a pixel away per axis, the step is that of ``quarter``.
    """
    log = torch.log(window.clamp_min(_TINY))  # (B, K, 3, 3)
    left, right, above, below = log[..., 1, 0], log[..., 1, 2], log[..., 0, 1], log[..., 2, 1]
    gx, gy = (right - left) / 2, (below - above) / 2
    gxx, gyy = right - 2 * log[..., 1, 1] + left, below - 2 * log[..., 1, 1] + above
    gxy = (log[..., 2, 2] - log[..., 2, 0] - log[..., 0, 2] + log[..., 0, 0]) / 4
    # On the border nothing is known across it: put a parabola whose top is there, so that the step goes along it.
    border_x, border_y = peaks.on_border().unbind(-1)
    zero = torch.zeros_like(gx)
    gx, gy = torch.where(border_x, zero, gx), torch.where(border_y, zero, gy)
    gxx, gyy = torch.where(border_x, zero - 1, gxx), torch.where(border_y, zero - 1, gyy)
    gxy = torch.where(border_x | border_y, zero, gxy)
    determinant = gxx * gyy - gxy**2
    is_maximum = (gxx < 0) & (gyy < 0) & (determinant > _TINY)
    safe = torch.where(is_maximum, determinant, zero + 1)
    step = torch.stack(((gxy * gy - gyy * gx) / safe, (gxy * gx - gxx * gy) / safe), dim=-1)
    # A longer step means that the parabola does not describe the map.
    is_maximum = is_maximum & (step.abs().amax(dim=-1) <= 1)
    return torch.where(is_maximum.unsqueeze(-1), step, _quarter_step(peaks))


def _blurred(flat: Tensor, scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Each whole map, (B, K, H*W), blurred and relative to its highest value, which keeps maps of any scale in range.

    Maps without a value above 0 (raw scores, not heatmaps) have no mass, and are left as they are.
    """
    wide, peak = flat.to(_working_dtype(flat.dtype)), scores.to(_working_dtype(flat.dtype)).unsqueeze(-1)
    maps = (wide / peak.clamp_min(_TINY)).clamp_min(0).view(*flat.shape[:2], *size)
    down, across = (_gaussian_matrix(n, maps) for n in size)
    return torch.where(peak > 0, (down @ maps @ across).flatten(2), wide)


def _gaussian_matrix(size: int, like: Tensor) -> Tensor:
    """(size, size), symmetric: row i holds the Gaussian round pixel i, of peak value 1."""
    pixels = torch.arange(size, dtype=like.dtype, device=like.device)
    return torch.exp(-((pixels - pixels.unsqueeze(-1)) ** 2) / (2 * _MASS_SIGMA**2))


def _blur_matrix(like: Tensor) -> Tensor:
    """(3, 3 + 2r): row i blurs the window around its pixel r + i."""
    radius = _DARK_BLUR_RADIUS
    kernel = [math.exp(-(d**2) / (2 * _DARK_BLUR_SIGMA**2)) for d in range(-radius, radius + 1)]
    rows = [[0.0] * i + [k / sum(kernel) for k in kernel] + [0.0] * (2 - i) for i in range(3)]
    return torch.tensor(rows, dtype=like.dtype, device=like.device)


_SUBPIXEL_STEPS = {"quarter": _quarter_step, "dark": _dark_step, "soft": _soft_step, "mass": _mass_step}


def _working_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
