import os
import struct
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mutations import repair_png
from PIL import EpsImagePlugin, Image, ImageCms

from softgate_pose import PoseConfig
from softgate_pose.data.images import load_image, normalize, open_image

EXIF_ORIENTATION = 0x0112

MODES = [
    "1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "RGBX",
    "La", "RGBa", "I;16", "I;16L", "I;16B",
]  # fmt: skip


def image_of_mode(mode, size=(12, 8)):
    """A picture, left half dark and right half light, in any Pillow mode."""
    row = np.where(np.arange(size[0]) < size[0] // 2, 40, 200).astype(np.uint8)
    grey = Image.fromarray(np.tile(row, (size[1], 1)))
    if mode.startswith("I;16"):
        wide = np.asarray(grey).astype(np.uint16) * 257
        if mode == "I;16B":
            return Image.frombytes(mode, size, wide.astype(">u2").tobytes())
        return Image.frombytes(mode, size, wide.astype("<u2").tobytes())
    if mode == "I":
        return Image.fromarray(np.asarray(grey).astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(grey.convert("RGB"), srgb, lab, outputMode="LAB")
    if mode in ("La", "RGBa"):
        return grey.convert("LA" if mode == "La" else "RGBA").convert(mode)
    if mode == "1":
        return grey.convert("1", dither=Image.Dither.NONE)
    if mode in ("HSV", "YCbCr", "CMYK", "RGBX"):
        return grey.convert("RGB").convert(mode)
    return grey.convert(mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("in_chans", [1, 3])
def test_every_pillow_mode_shows_the_same_picture(mode, in_chans):
    pixels = load_image(image_of_mode(mode), in_chans)
    assert pixels.shape == (in_chans, 8, 12)
    assert pixels.dtype == torch.uint8
    dark, light = (0, 255) if mode == "1" else (40, 200)
    assert (pixels[:, :, :5].float().mean() - dark).abs() <= 2
    assert (pixels[:, :, 7:].float().mean() - light).abs() <= 2


def test_palette_with_alpha_and_transparency():
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 2, 4))
    for source in (image, image.convert("PA"), image.quantize(4)):
        pixels = load_image(source)
        assert pixels[:, 0, 3].tolist() == [255, 255, 255]  # transparent shows white
        assert pixels[0, 0, 0] < 40


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    image = Image.new("RGB", (40, 24))
    image.paste((255, 255, 255), (0, 0, 20, 12))  # bright top-left quarter, as stored
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    image.save(tmp_path / "photo.png", exif=exif)
    upright = load_image(tmp_path / "photo.png")[0].float()
    height, width = upright.shape
    assert (width, height) == ((40, 24) if orientation <= 4 else (24, 40))
    quarters = upright.unflatten(0, (2, -1)).unflatten(2, (2, -1)).mean(dim=(1, 3))
    where = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    assert divmod(int(quarters.argmax()), 2) == where
    assert torch.equal(load_image(Image.open(tmp_path / "photo.png"))[0].float(), upright)


def test_arrays_and_tensors_are_the_same_picture(photo):
    expected = load_image(photo)
    array = np.asarray(photo)
    fraction = array.astype(np.float64) / 255
    for source in (array, fraction, fraction.astype(np.float32), array.astype(np.uint16) * 257):
        torch.testing.assert_close(load_image(source).float(), expected.float(), atol=1e-3, rtol=0)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    assert torch.equal(load_image(tensor), expected)
    torch.testing.assert_close(load_image(tensor.float() / 255), expected.float(), atol=1e-3, rtol=0)


def test_sixteen_bits_round_alike_from_arrays_and_photos():
    values = np.array([[0, 255, 511, 32768, 65535]], dtype=np.uint16)
    expected = [0, 1, 2, 128, 255]
    assert load_image(values)[0, 0].tolist() == expected
    assert load_image(Image.frombytes("I;16", (5, 1), values.tobytes()))[0, 0].tolist() == expected


def test_grey_and_rgba_arrays():
    assert load_image(np.full((4, 6), 7, dtype=np.uint8)).tolist() == [[[7] * 6] * 4] * 3
    assert load_image(np.ones((4, 6, 1), dtype=bool)).eq(255).all()
    assert load_image(np.zeros((4, 6, 4), dtype=np.uint8)).eq(255).all()  # transparent shows white
    assert load_image(np.full((4, 6, 3), 9, dtype=np.uint8), in_chans=1).eq(9).all()
    assert load_image(np.zeros((4, 6, 4), dtype=np.uint8), in_chans=1).eq(255).all()


@pytest.mark.filterwarnings("error")
def test_an_array_that_cannot_be_written_to():
    grey = np.asarray(Image.new("L", (6, 4), 9))
    assert not grey.flags.writeable
    assert load_image(grey, in_chans=1).eq(9).all()


def test_other_numbers_of_channels_come_as_tensors():
    assert load_image(torch.zeros(5, 4, 6, dtype=torch.uint8), in_chans=5).shape == (5, 4, 6)
    with pytest.raises(ValueError, match=r"\b5\b"):
        load_image(Image.new("RGB", (4, 4)), in_chans=5)


@pytest.mark.parametrize("dtype", ["float16", ">f4", ">f8", "longdouble", ">u2"])
def test_numbers_of_any_precision_and_byte_order(dtype):
    values = np.linspace(0, 1, 4 * 4 * 3).reshape(4, 4, 3)
    image = values.astype(dtype) if dtype != ">u2" else (values * 65535).round().astype(dtype)
    assert load_image(image, 3).float().sub(torch.from_numpy(values * 255).permute(2, 0, 1)).abs().max() < 0.6


def test_a_resize_s_rounding_is_no_other_range():
    image = torch.full((3, 500, 640), 1.0)
    image[:, 100:, :] = torch.rand(3, 400, 640, generator=torch.Generator().manual_seed(0))
    resized = F.interpolate(image[None], (300, 452), mode="bilinear", antialias=True)[0]
    assert resized.max() > 1
    for rounded in (resized, resized.permute(1, 2, 0).numpy()):
        loaded = load_image(rounded)
        assert loaded.max() == 255
        torch.testing.assert_close(loaded, 255 * resized.clamp(0, 1))


@pytest.mark.parametrize(
    ("image", "error", "match"),
    [
        (
            np.zeros((3, 5, 6), dtype=np.uint8),
            ValueError,
            r"\(H, W, C\) with C = 3.*got \(3, 5, 6\)\. .*torch.from_numpy",
        ),
        (np.zeros((4, 4, 3), dtype=object), ValueError, "uint8, or floating point in 0..1; got object"),
        (np.zeros((4, 4, 3), dtype=complex), ValueError, "got complex"),
        (7, TypeError, "path, PIL image, NumPy array or tensor, got int"),
        (None, TypeError, "got NoneType"),
        (np.zeros((4,)), ValueError, r"\(H, W\) or \(H, W, C\), got \(4,\)"),
        (np.zeros((0, 4, 3), dtype=np.uint8), ValueError, r"\(0, 4, 3\)"),
        (np.zeros((4, 4, 2), dtype=np.uint8), ValueError, "C = 3"),
        (np.zeros((4, 4, 3), dtype=np.int32), ValueError, "uint8, or floating point in 0..1"),
        (np.full((4, 4, 3), 255.0), ValueError, "values in 0..1.*255"),
        (np.full((4, 4, 3), np.nan), ValueError, "without NaN"),
        (torch.zeros(3, 4), ValueError, r"\(C, H, W\) with C = 3"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), ValueError, r"got \(4, 4, 3\)"),
        (torch.full((3, 4, 4), -1.0), ValueError, "values in 0..1"),
    ],
)
def test_what_is_no_image_is_refused(image, error, match):
    with pytest.raises(error, match=match):
        load_image(image)


def test_files_that_cannot_be_read(tmp_path, photo):
    with pytest.raises(FileNotFoundError, match="missing"):
        open_image(tmp_path / "missing.jpg")
    with pytest.raises(ValueError, match="folder"):
        open_image(tmp_path)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ValueError, match=r"empty\.jpg .*0 bytes"):
        open_image(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("this is not a picture")
    with pytest.raises(ValueError, match=r"text\.jpg"):
        open_image(tmp_path / "text.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_files(tmp_path, photo, suffix, share):
    file = tmp_path / f"photo.{suffix}"
    photo.save(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"photo\.\w+"):
        open_image(file)


def test_a_damaged_exif_block_says_nothing(tmp_path, photo):
    photo.save(tmp_path / "photo.jpg", exif=b"Exif\0\0garbagegarbage")
    assert open_image(tmp_path / "photo.jpg").size == photo.size
    assert load_image(tmp_path / "photo.jpg").shape == (3, 70, 90)
    with Image.open(tmp_path / "photo.jpg") as opened:
        assert load_image(opened).shape == (3, 70, 90)


def test_a_good_orientation_beside_a_bad_tag_counts(tmp_path):
    orientation = struct.pack("<HHII", EXIF_ORIENTATION, 3, 1, 6)
    resolution = struct.pack("<HHI4s", 0x011A, 2, 4, b"abc")  # a text where a number belongs
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + orientation + resolution + bytes(4)
    Image.new("RGB", (40, 24)).save(tmp_path / "photo.jpg", exif=block)
    assert open_image(tmp_path / "photo.jpg").size == (24, 40)


def test_an_opened_photo_that_turns_out_to_be_cut_short(tmp_path, photo):
    photo.save(tmp_path / "photo.jpg")
    (tmp_path / "photo.jpg").write_bytes((tmp_path / "photo.jpg").read_bytes()[:900])
    with Image.open(tmp_path / "photo.jpg") as opened, pytest.raises(ValueError, match="cannot be read"):
        load_image(opened)


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (40, 40)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match=r"large\.png"):
        open_image(tmp_path / "large.png")


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif", "jpg", "webp"])
def test_a_few_bytes_that_say_they_are_huge_are_refused(tmp_path, suffix):
    """At Pillow's own limit, so before any memory is taken."""
    file = tmp_path / f"bomb.{suffix}"
    Image.new("L", (33, 17)).save(file, lossless=True)
    data, side = file.read_bytes(), 16384 if suffix == "webp" else 60000
    if suffix == "webp":  # 14 bits for each side
        at = data.index(b"\x2f") + 1
        sides = (side - 1) | (side - 1) << 14
        data = (
            data[:at]
            + struct.pack("<I", sides | int.from_bytes(data[at : at + 4], "little") & 0xF << 28)
            + data[at + 4 :]
        )
    else:
        width, height, new = {
            "png": (struct.pack(">I", 33), struct.pack(">I", 17), struct.pack(">I", side)),
            "jpg": (struct.pack(">H", 33), struct.pack(">H", 17), struct.pack(">H", side)),
            "bmp": (struct.pack("<i", 33), struct.pack("<i", 17), struct.pack("<i", side)),
        }.get(suffix, (struct.pack("<H", 33), struct.pack("<H", 17), struct.pack("<H", side)))
        pair = height + width if suffix == "jpg" else width + height
        if suffix == "tif":
            for value in (width, height):
                data = data.replace(b"\1\0\0\0" + value, b"\1\0\0\0" + new)
        else:
            data = data.replace(pair, new + new)
    if suffix == "png":
        data = repair_png(data)
    file.write_bytes(data)
    with pytest.raises(ValueError, match=rf"bomb\.{suffix} .*\d{{9,}} pixels"):
        open_image(file)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_text_in_a_png_that_unpacks_to_more_than_it_should(tmp_path, photo, kind):
    photo.save(tmp_path / "photo.png")
    whole = (tmp_path / "photo.png").read_bytes()
    packed = zlib.compress(bytes(9 << 20))
    body = {b"zTXt": b"x\0\0", b"iTXt": b"x\0\1\0\0\0", b"iCCP": b"x\0\0"}[kind] + packed
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    (tmp_path / "photo.png").write_bytes(whole[:33] + chunk + whole[33:])
    with pytest.raises(ValueError, match=r"photo\.png .*too large"):
        open_image(tmp_path / "photo.png")


@pytest.mark.parametrize("name", ["photo.eps", "photo.jpg"])
def test_postscript_is_not_run(tmp_path, photo, monkeypatch, name):
    photo.save(tmp_path / name, format="EPS")
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    with pytest.raises(ValueError, match=r"EPS .*PNG"):
        open_image(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000 + "b", "a\0b", "\ud800"])
def test_names_that_no_file_can_have(name):
    with pytest.raises(FileNotFoundError, match="image"):
        open_image(name)


def test_a_float_that_is_no_number_is_black(tmp_path):
    signalling = struct.pack("<I", 0x7FA00000)
    Image.frombytes("F", (2, 1), signalling + struct.pack("<f", 1)).save(tmp_path / "photo.tif")
    assert load_image(tmp_path / "photo.tif")[0, 0].tolist() == [0, 255]


def test_normalize_uses_the_configs_mean_and_std():
    config = PoseConfig(mean=(0.5, 0.5, 0.0), std=(0.5, 0.25, 1.0))
    images = torch.tensor([255, 255, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert normalize(images, config).flatten().tolist() == pytest.approx([1, 2, 1])


def test_a_pipe_is_named_as_one(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match=r"pipe\.jpg .*pipe"):
        open_image(tmp_path / "pipe.jpg")
