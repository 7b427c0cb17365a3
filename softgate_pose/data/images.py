"""Photos: open what people have, and turn it into the tensors a network takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor

from softgate_pose.config import PoseConfig

__all__ = ["IMAGE_SUFFIXES", "ImageSource", "load_image", "normalize", "open_image"]

ImageSource: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any] | Tensor"

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
"""Endings of the images that a folder is searched for. A file named directly may have any format that Pillow reads."""

_ROUNDING = 1e-3  # a resize may leave 0..1 by this much

_FORMATS_THAT_RUN_PROGRAMS = ("EPS",)  # Pillow tells the format by the content, not the name


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file whole, turned upright as its EXIF orientation says.

    Refused are images of more than twice ``PIL.Image.MAX_IMAGE_PIXELS``, 179 million pixels, and PostScript, for which
    Pillow would run another program.
    """
    path = Path(path)
    if not os.path.exists(path):  # noqa: PTH110 (a path's own method raises on names too long for a file)
        raise FileNotFoundError(f"No image {path}.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected an image file.")
    if path.is_fifo():
        raise ValueError(f"{path} is a pipe, which cannot be read twice; save the image to a file.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes), expected an image.")
    try:
        with Image.open(path) as image:
            if image.format in _FORMATS_THAT_RUN_PROGRAMS:
                raise ValueError(f"{image.format} is a program rather than a picture; convert it to PNG")
            image.load()
            return _upright(image).copy()
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is refused: {error}") from None
    # Pillow's decoders raise many types on damaged files, struct.error and SyntaxError among them.
    except Exception as error:
        raise ValueError(f"{path} cannot be read as an image: {error or type(error).__name__}") from None


def load_image(image: ImageSource, in_chans: int = 3) -> Tensor:
    """Any kind of image as a tensor (C, H, W), colours in 0..255.

    - A path or PIL image: turned upright as EXIF says; every Pillow mode. Transparent parts are shown
      on white. In wide modes white is 65535 (mode I: 255 where no value is above), and of floats 1
      (255 where a value is above 1).
    - A NumPy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): uint8, uint16 with white at 65535, or
      floating point in 0..1.
    - A tensor (C, H, W), as torchvision has them: uint8, or floating point in 0..1; C = ``in_chans``.

    Args:
        image: The image.
        in_chans: 3 for RGB, 1 for grey. Other numbers need an array (H, W, C) or a tensor.

    Returns:
        (C, H, W): uint8, or float32 for floating point arrays and tensors.

    Raises:
        FileNotFoundError: If a path does not exist.
        TypeError: If ``image`` is none of these kinds.
        ValueError: If it cannot be read, has no pixels, has a NaN, or has other channels.
    """
    if isinstance(image, (str, os.PathLike)):
        image = open_image(image)
    if isinstance(image, Image.Image):
        return _from_pil(image, in_chans)
    if isinstance(image, np.ndarray):
        return _from_array(image, in_chans)
    if isinstance(image, Tensor):
        return _from_tensor(image, in_chans)
    raise TypeError(f"An image must be a path, PIL image, NumPy array or tensor, got {type(image).__name__}.")


def normalize(images: Tensor, config: PoseConfig) -> Tensor:
    """Turn colours in 0..255, (B, C, H, W), into what the network takes, by the config's mean and std."""
    dtype = images.dtype if images.is_floating_point() else torch.float32
    mean = torch.tensor(config.mean, dtype=dtype, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(config.std, dtype=dtype, device=images.device).view(1, -1, 1, 1)
    return (images.to(dtype) / 255 - mean) / std


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says, and forget the orientation; a bad tag beside it does no harm."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # on a damaged EXIF block, which counts as none, Pillow raises many types
        return image
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = {key: value for key, value in image.info.items() if key == "transparency"}  # the EXIF block is in it
    return turned


def _from_pil(image: Image.Image, in_chans: int) -> Tensor:
    if min(image.size) < 1:
        raise ValueError(f"The image has no pixels: {image.size[0]} × {image.size[1]}.")
    try:
        image.load()
    except Exception as error:  # an image that was opened, and is read only now
        raise ValueError(f"The image cannot be read: {error}") from None
    image = _upright(image)
    if in_chans not in (1, 3):
        raise ValueError(f"A photo has 3 channels, or 1 as grey; the model takes {in_chans}. Pass a tensor (C, H, W).")
    array = np.array(_to_rgb(image).convert("RGB" if in_chans == 3 else "L"))
    return torch.from_numpy(array.reshape(*array.shape[:2], in_chans)).permute(2, 0, 1).contiguous()


def _to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as one that ``convert("RGB")`` takes without loss of meaning."""
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        with np.errstate(invalid="ignore"):  # what is no number becomes 0
            values = np.asarray(image).astype(np.float64)
        largest = values.max(initial=0, where=np.isfinite(values))
        sixteen_bits = mode != "F" and (mode != "I" or largest > 255)
        return Image.fromarray(_bytes(values, 65535 if sixteen_bits else 1 if largest <= 1 else 255))
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
    if mode in ("La", "RGBa"):  # premultiplied
        image = image.convert("LA" if mode == "La" else "RGBA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _bytes(values: np.ndarray[Any, Any], white: int) -> np.ndarray[Any, Any]:
    """Values of a wide type as bytes, with ``white`` as 255."""
    return (
        np.nan_to_num(values * (255 / white), nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255).round().astype(np.uint8)
    )


def _from_array(array: np.ndarray[Any, Any], in_chans: int) -> Tensor:
    shape = array.shape
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"An image array must have shape (H, W) or (H, W, C), got {array.shape}.")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.uint16:
        array = _bytes(array.astype(np.float64), 65535)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    if array.dtype.kind == "f":  # of any precision
        array = array.astype(np.float32 if array.dtype.itemsize <= 4 else np.float64, copy=False)
    if array.dtype not in (np.uint8, np.float32, np.float64):
        raise ValueError(f"An image must be uint8, or floating point in 0..1; got {array.dtype}.")
    if array.shape[2] == 4 and in_chans in (1, 3):  # RGBA
        opaque = np.asarray(255 if array.dtype == np.uint8 else 1, dtype=np.float64)
        alpha = array[..., 3:].astype(np.float64) / opaque
        array = (array[..., :3] * alpha + opaque * (1 - alpha)).round(0 if opaque == 255 else 6).astype(array.dtype)
    if array.shape[2] == 1 and in_chans == 3:
        array = array.repeat(3, axis=2)
    if array.shape[2] == 3 and in_chans == 1:
        grey = array @ np.array([0.299, 0.587, 0.114])
        array = (grey.round() if array.dtype == np.uint8 else grey).astype(array.dtype)[..., None]
    if array.shape[2] != in_chans:
        remedy = " This one looks like (C, H, W): pass torch.from_numpy(array)." if shape[0] == in_chans else ""
        raise ValueError(
            f"An image array must have shape (H, W, C) with C = {in_chans}, the model's in_chans; got {shape}.{remedy}"
        )
    array = np.ascontiguousarray(array.transpose(2, 0, 1))
    # PyTorch has no read-only tensors, and warns of arrays that are, such as Pillow's
    return _from_tensor(torch.from_numpy(array if array.flags.writeable else array.copy()), in_chans)


def _from_tensor(image: Tensor, in_chans: int) -> Tensor:
    if image.dim() != 3 or 0 in image.shape or image.shape[0] != in_chans:
        raise ValueError(
            f"An image tensor must have shape (C, H, W) with C = {in_chans}, the model's in_chans; "
            f"got {tuple(image.shape)}."
        )
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise ValueError(f"An image must be uint8, or floating point in 0..1; got {image.dtype}.")
    low, high = float(image.min()), float(image.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # also when one is NaN
        raise ValueError(f"A floating point image must have values in 0..1, without NaN; got {low:g} to {high:g}.")
    return image.float().clamp(0, 1) * 255
