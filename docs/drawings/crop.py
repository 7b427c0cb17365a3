"""Draw what a crop is: python docs/drawings/crop.py writes crop.jpg to docs/images."""

import json
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from softgate_pose.data.images import load_image
from softgate_pose.pose import geometry
from softgate_pose.pose.geometry import BOX_SCALE

ROOT = Path(__file__).parents[2]
SIZE = (192, 192)


def main(folder: Path) -> None:
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


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
