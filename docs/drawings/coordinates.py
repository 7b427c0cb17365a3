"""Draw how coordinates are meant: python docs/drawings/coordinates.py writes pixels.svg, stride.svg and crop.jpg."""

import json
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from svg import BLUE, FAINT, GREY, IMAGES, INK, TEAL, Drawing

from softgate_pose.data.images import load_image
from softgate_pose.pose import geometry
from softgate_pose.pose.geometry import BOX_SCALE

ROOT = Path(__file__).parent.parent.parent
SIZE = (192, 192)  # height, width of the crop, those of the bundled weights


def pixels(folder: Path) -> None:
    """The corner of an image: centres at whole numbers, the edge at -0.5."""
    d = Drawing(460, 280, "Pixel centres are whole numbers; the image's edge lies half a pixel outside.")
    side, x0, y0 = 64, 96, 66
    for row in range(3):
        for column in range(5):
            d.box(x0 + side * column, y0 + side * row, side, side, fill=BLUE if (row, column) == (1, 3) else GREY)
            d.circle(x0 + side * (column + 0.5), y0 + side * (row + 0.5), 2.5, fill=INK)
    for column in range(5):
        d.text(x0 + side * (column + 0.5), y0 - 10, f"{column}", size=13)
    for row in range(3):
        d.text(x0 - 12, y0 + side * (row + 0.5) + 5, f"{row}", size=13)
    d.text(x0 + side * 2.5, 26, "x")
    d.arrow((x0 + side * 2.5 + 12, 22), (x0 + side * 2.5 + 60, 22))
    d.text(52, y0 + side * 1.5 + 5, "y")
    d.arrow((52, y0 + side * 1.5 + 14), (52, y0 + side * 1.5 + 50))
    d.text(x0, y0 - 10, "−0.5", size=12, faint=True)
    d.text(x0 + side * 3.5 + 6, y0 + side * 1.5 - 8, "(3, 1)", size=12)
    d.text(x0 + side * 0.5 + 4, y0 + side * 0.5 - 8, "(0, 0)", size=12)
    d.write(folder, "pixels.svg")


def stride(folder: Path) -> None:
    """Two heatmap pixels over the eight input pixels that they cover, along x."""
    d = Drawing(460, 220, "A heatmap pixel's centre is the centre of the four input pixels that it covers.")
    side, x0 = 48, 38
    d.text(x0, 26, "heatmap", anchor="start", faint=True)
    for i in range(2):
        d.box(x0 + 4 * side * i, 36, 4 * side, 44, fill=TEAL)
        centre = x0 + 4 * side * (i + 0.5)
        d.circle(centre, 58, 3, fill=INK)
        d.text(centre + 10, 63, f"{i}", anchor="start")
        d.arrow((centre, 66), (centre, 124), dashed=True)
        d.text(centre + 8, 106, f"4 · {i} + 1.5 = {4 * i + 1.5:g}", anchor="start", size=13)
    d.text(x0, 200, "input", anchor="start", faint=True)
    for i in range(8):
        d.box(x0 + side * i, 126, side, 44, fill=GREY)
        d.circle(x0 + side * (i + 0.5), 148, 2.5, fill=INK)
        d.text(x0 + side * (i + 0.5) + 5, 165, f"{i}", anchor="start", size=12)
    for i in range(2):
        d.line((x0 + 4 * side * (i + 0.5), 126), (x0 + 4 * side * (i + 0.5), 170), colour=FAINT, dashed=True)
    d.write(folder, "stride.svg")


def crop(folder: Path) -> None:
    """The photo with a person's box and what is shown of it, and the crop, with one point in both."""
    photo = ROOT / "examples" / "photo.jpg"
    box = json.loads((ROOT / "examples" / "boxes.json").read_text())["photo.jpg"][1]
    matrix = geometry.box_to_crop(torch.tensor([box]), SIZE, BOX_SCALE)
    seen = geometry.image_box(*SIZE)
    corners = geometry.transform_points(geometry.invert(matrix), torch.tensor([seen]).view(1, 2, 2).double())[0]
    point = torch.tensor([[[(box[0] + box[2]) / 2, box[1] + 0.1 * (box[3] - box[1])]]]).double()
    there = geometry.transform_points(matrix, point)[0, 0].tolist()

    image = load_image(photo)
    shown = geometry.crop(image, matrix, SIZE)[0].round().byte().permute(1, 2, 0).numpy()
    left = Image.open(photo).convert("RGB")
    pen = ImageDraw.Draw(left)
    pen.rectangle(tuple(corners.flatten().tolist()), outline=(255, 149, 0), width=3)
    pen.rectangle(tuple(box), outline=(0, 168, 255), width=3)
    _cross(pen, *point[0, 0].tolist())
    right = Image.fromarray(shown).resize((left.height, left.height), Image.Resampling.BICUBIC)
    place = geometry.transform_points(
        geometry.box_to_crop(torch.tensor([seen]), (left.height, left.height)), torch.tensor([[there]]).double()
    )
    _cross(ImageDraw.Draw(right), *place[0, 0].tolist())
    sheet = Image.new("RGB", (left.width + 16 + right.width, left.height), "white")
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + 16, 0))
    sheet.save(folder / "crop.jpg", quality=88)
    (z, _, bx), (_, _, by) = matrix[0].tolist()
    x, y = point[0, 0].tolist()
    print(f"crop.jpg: z = {z:.3f}, b = ({bx:.1f}, {by:.1f}); ({x:g}, {y:g}) -> ({there[0]:.1f}, {there[1]:.1f})")


def _cross(pen: ImageDraw.ImageDraw, x: float, y: float, r: float = 7) -> None:
    for colour, width in (((20, 20, 20), 5), ((255, 235, 59), 2)):
        pen.line((x - r, y, x + r, y), fill=colour, width=width)
        pen.line((x, y - r, x, y + r), fill=colour, width=width)


def main(folder: Path) -> None:
    pixels(folder)
    stride(folder)
    crop(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
