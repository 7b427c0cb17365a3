"""Watching a run: its log as CSV and for TensorBoard, and a sheet of what it sees."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from softgate_pose.config import PoseConfig
from softgate_pose.draw import draw_poses
from softgate_pose.images import load_image
from softgate_pose.people import People
from softgate_pose.pose import geometry
from softgate_pose.prediction import BOX_SCALE
from softgate_pose.prediction_files import Predictions

__all__ = ["RunLog", "contact_sheet"]

_CELL, _COLUMNS = 192, 8
_LABEL = 14  # height of the line above a cell


class RunLog:
    """A row an epoch in ``log.csv``, and the same numbers for TensorBoard, if that is installed.

    Args:
        folder: Of the run.
        step: The steps that are done; what TensorBoard was told of later ones is withdrawn.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.folder = folder
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.board = None
        else:
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Numbers of one step, for TensorBoard."""
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def epoch(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write the CSV anew, so that it has no epoch twice, and show TensorBoard the last row."""
        columns = list(dict.fromkeys(key for row in history for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        part = self.folder / "log.csv.part"
        part.write_text(text.getvalue(), encoding="utf-8", newline="")
        os.replace(part, self.folder / "log.csv")
        last = history[-1]
        numbers = {f"epoch/{key}": value for key, value in last.items() if isinstance(value, (int, float))}
        self.scalars(numbers, int(last["step"]))
        if self.board is not None:
            self.board.flush()

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def contact_sheet(
    people: People, predictions: Predictions, errors: Tensor, config: PoseConfig, count: int = 16
) -> Image.Image:
    """People with their predicted skeletons, and a white ring where each keypoint was annotated.

    The upper half shows fixed people, spread evenly over the table; the lower half those that were
    predicted worst.

    Args:
        people: N annotated people, of the model's skeleton.
        predictions: Of their keypoints, with scores.
        errors: (N,) the measure of "worst"; NaN where there is none.
        config: Of the model.
        count: People in each half.
    """
    fixed = torch.linspace(0, len(people) - 1, min(count, len(people))).round().long()
    worst = errors.nan_to_num(-1).argsort(descending=True)[: min(count, len(people))]
    rows = torch.cat((fixed, worst)).tolist()
    cells = [_cell(people, predictions, errors, config, row) for row in rows]
    columns = min(_COLUMNS, len(fixed))
    lines = [cells[: len(fixed)], cells[len(fixed) :]]
    placed = [line[i : i + columns] for line in lines for i in range(0, len(line), columns)]
    sheet = Image.new("RGB", (columns * _CELL, len(placed) * (_CELL + _LABEL)))
    for y, line in enumerate(placed):
        for x, cell in enumerate(line):
            sheet.paste(cell, (x * _CELL, y * (_CELL + _LABEL)))
    return sheet


def _cell(people: People, predictions: Predictions, errors: Tensor, config: PoseConfig, row: int) -> Image.Image:
    matrix = geometry.box_to_crop(people.boxes[row : row + 1], (_CELL, _CELL), BOX_SCALE)
    crop = geometry.crop(load_image(people.images[row], config.in_chans), matrix, (_CELL, _CELL))[0].round().byte()
    found = geometry.transform_points(matrix, predictions.keypoints[row : row + 1].double())
    scores = torch.ones(found.shape[:2]) if predictions.scores is None else predictions.scores[row : row + 1]
    drawn = draw_poses(crop, found, scores, people.skeleton)
    pen = ImageDraw.Draw(drawn)
    truth = geometry.transform_points(matrix, people.keypoints[row : row + 1])[0][people.labelled[row]]
    for x, y in truth.tolist():
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), outline="white")
    cell = Image.new("RGB", (_CELL, _CELL + _LABEL))
    cell.paste(drawn, (0, _LABEL))
    ImageDraw.Draw(cell).text((3, 1), f"{people.images[row].name[-18:]}  {float(errors[row]):.2f}", fill="white")
    return cell
