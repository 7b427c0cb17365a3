"""A contact sheet of annotated people: what was predicted, and where the annotation is."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from softgate_pose.data.images import load_image
from softgate_pose.data.people import People, Predictions
from softgate_pose.pose import geometry
from softgate_pose.pose.geometry import BOX_SCALE
from softgate_pose.prediction.draw import draw_poses

__all__ = ["contact_sheet"]

_CELL, _COLUMNS = 192, 8
_LABEL = 14  # height of the line above a cell


def contact_sheet(people: People, predictions: Predictions, errors: Tensor, *, count: int = 16) -> Image.Image:
    """People with their predicted skeletons, and a white ring where each keypoint was annotated.

    The upper half shows ``count`` fixed people, spread evenly over the table; the lower half the ``count`` people
    that were predicted worst by ``errors`` (N,), as ``person_errors`` gives them. Where all fit into one half, each
    is shown once, the worst first.
    """
    worst = errors.nan_to_num(-1).argsort(descending=True)[:count]
    fixed = torch.linspace(0, len(people) - 1, count).round().long() if len(people) > count else worst[:0]
    cells = [_cell(people, predictions, errors, row) for row in (*fixed.tolist(), *worst.tolist())]
    columns = min(_COLUMNS, len(worst))
    lines = [cells[: len(fixed)], cells[len(fixed) :]]
    placed = [line[i : i + columns] for line in lines for i in range(0, len(line), columns)]
    sheet = Image.new("RGB", (columns * _CELL, len(placed) * (_CELL + _LABEL)))
    for y, line in enumerate(placed):
        for x, cell in enumerate(line):
            sheet.paste(cell, (x * _CELL, y * (_CELL + _LABEL)))
    return sheet


def _cell(people: People, predictions: Predictions, errors: Tensor, row: int) -> Image.Image:
    matrix = geometry.box_to_crop(people.boxes[row : row + 1], (_CELL, _CELL), BOX_SCALE)
    crop = geometry.crop(load_image(people.images[row]), matrix, (_CELL, _CELL))[0].round().byte()
    points = geometry.transform_points(matrix, predictions.keypoints[row : row + 1].double())
    scores = torch.ones(points.shape[:2]) if predictions.scores is None else predictions.scores[row : row + 1]
    drawn = draw_poses(crop, points, scores, people.skeleton)
    pen = ImageDraw.Draw(drawn)
    truth = geometry.transform_points(matrix, people.keypoints[row : row + 1])[0][people.labelled[row]]
    for x, y in truth.tolist():
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), outline="white")
    cell = Image.new("RGB", (_CELL, _CELL + _LABEL))
    cell.paste(drawn, (0, _LABEL))
    ImageDraw.Draw(cell).text((3, 1), f"{people.images[row].name[-18:]}  {float(errors[row]):.2f}", fill="white")
    return cell
