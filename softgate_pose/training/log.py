"""Watching a run: its log, as CSV and for TensorBoard."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from softgate_pose._files import written_whole

__all__ = ["RunLog"]

logger = logging.getLogger(__name__)


class RunLog:
    """A row per epoch in ``log.csv``, and the same numbers for TensorBoard, if that is installed.

    TensorBoard's entries of steps after ``step``, which are not done yet, are discarded.
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
        with self._without_board_on_error():
            for name, value in values.items():
                if self.board is not None:
                    self.board.add_scalar(name, value, step)

    def epoch(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Rewrite the CSV, so that it has no epoch twice, and log the last row to TensorBoard."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in history for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        file = self.folder / "log.csv"
        try:
            with written_whole(file) as scratch:
                scratch.write_text(text.getvalue(), encoding="utf-8", newline="")
        except OSError as error:
            raise OSError(
                f"The log cannot be written to {file}: {error}. The run's last state is kept; give the same command "
                "again to go on from there."
            ) from None
        last = history[-1]
        numbers = {f"epoch/{key}": value for key, value in last.items() if isinstance(value, (int, float))}
        self.scalars(numbers, int(last["step"]))
        with self._without_board_on_error():
            if self.board is not None:
                self.board.flush()

    def close(self) -> None:
        with self._without_board_on_error():
            if self.board is not None:
                self.board.close()

    @contextmanager
    def _without_board_on_error(self) -> Iterator[None]:
        """Go on without TensorBoard when the disk is full; saving the run's state shows whether the run can go on."""
        try:
            yield
        except OSError as error:
            self.board = None
            logger.warning("TensorBoard logging stopped in %s: %s", self.folder, error)
