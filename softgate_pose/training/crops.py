"""People cut out of their images for training: held in memory or on the device, or streamed from disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from softgate_pose.config import PoseConfig
from softgate_pose.data.images import load_image, open_image
from softgate_pose.data.people import People
from softgate_pose.pose import geometry
from softgate_pose.pose.geometry import BOX_SCALE

__all__ = ["CropStore", "Crops", "Keep", "first_few", "margin_size", "split_readable"]

CROP_MARGIN = 1.5
"""Stored crops show this much more than the network's input per side, for rotation, zoom and shift."""

Keep = Literal["memory", "device", "stream"]
"""Where crops are kept: all in main memory, all on the device, or none, read anew for each batch."""

MAX_UNREADABLE = 0.01
"""Share of the people whose images may be missing or broken; they are left out."""

_NAMED = 5  # unreadable images that a message names


@dataclass(frozen=True)
class Crops:
    """People cut out of their images, at the network's scale with a margin.

    Attributes:
        images: (N, C, S, S') uint8.
        keypoints: (N, K, 2) float32 in pixels of these crops, on the CPU.
        labelled: (N, K) bool, on the CPU.
    """

    images: Tensor
    keypoints: Tensor
    labelled: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Crops:
        """The same crops with the images on a device."""
        return dataclasses.replace(self, images=self.images.to(device))


class CropStore:
    """Stored crops of people, by their row.

    Args:
        people: The people to cut out.
        config: Gives the crops' size and channels.
        keep: Where the crops are kept, see ``Keep``.
        device: Where ``keep="device"`` keeps them.
        workers: Processes that read images; 0 reads in this one.
        progress: Show a progress bar.

    Attributes:
        people: The people whose images can be read.
        unreadable: A line for each image that cannot be read.

    Raises:
        ValueError: If more than ``MAX_UNREADABLE`` of the people have no readable image.
    """

    def __init__(
        self,
        people: People,
        config: PoseConfig,
        *,
        keep: Keep = "memory",
        device: torch.device | str = "cpu",
        workers: int = 0,
        progress: bool = False,
    ) -> None:
        self.workers = workers
        cutter = _Cutter(people, config)
        images = None if keep == "stream" else torch.zeros(len(people), *cutter.shape, dtype=torch.uint8)
        kept: list[int] = []
        problems: list[str] = []
        rows = DataLoader(cutter, batch_size=None, num_workers=workers)
        bar = tqdm(rows, "reading people", len(people), disable=None if progress else True, leave=False, unit=" people")
        for row, (crop, problem) in enumerate(bar):
            if problem is not None:
                problems.append(problem)
                continue
            if images is not None:
                images[len(kept)] = crop
            kept.append(row)
        self.unreadable = list(dict.fromkeys(problems))
        if len(problems) > MAX_UNREADABLE * len(people):
            raise ValueError(
                f"The images of {len(problems)} of {len(people)} people cannot be read, more than "
                f"{MAX_UNREADABLE:.0%}: {first_few(self.unreadable)}."
            )
        self.people = people.select(kept) if problems else people
        self.images = None if images is None else images[: len(kept)].to(device if keep == "device" else "cpu")
        self._cutter = _Cutter(self.people, config)
        self.keypoints = geometry.transform_points(self._cutter.matrices, self.people.keypoints).float()

    def __len__(self) -> int:
        return len(self.people)

    def batches(self, rows: Sequence[Tensor]) -> Iterator[Crops]:
        """The crops of each group of rows, in turn."""
        if self.images is not None:
            for group in rows:
                yield self._crops(group, self.images[group.to(self.images.device)])
            return
        sampler = [group.tolist() for group in rows]
        loader = DataLoader(self._cutter, batch_sampler=sampler, num_workers=self.workers, collate_fn=_stack)
        for group, (images, problems) in zip(rows, loader, strict=True):
            if problems:  # it could be read when the run began
                raise RuntimeError(f"Images cannot be read any more: {first_few(problems)}.")
            yield self._crops(group, images)

    def _crops(self, rows: Tensor, images: Tensor) -> Crops:
        return Crops(images, self.keypoints[rows], self.people.labelled[rows])


class _Cutter(Dataset[tuple[Tensor, str | None]]):
    """Each person's stored crop (C, S, S'), uint8, and what is wrong with their image, if anything."""

    def __init__(self, people: People, config: PoseConfig) -> None:
        self.images, self.in_chans, self.size = people.images, config.in_chans, margin_size(config)
        self.shape = (config.in_chans, *self.size)
        self.matrices = geometry.box_to_crop(people.boxes, self.size, BOX_SCALE * CROP_MARGIN)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, str | None]:
        try:
            pixels = load_image(self.images[row], self.in_chans)
        except (OSError, ValueError) as error:
            return torch.zeros(self.shape, dtype=torch.uint8), str(error).rstrip(".")
        return geometry.crop(pixels, self.matrices[row : row + 1], self.size)[0].round().byte(), None


def _stack(rows: list[tuple[Tensor, str | None]]) -> tuple[Tensor, list[str]]:
    """The crops as one tensor, and what is wrong with images; told, not raised, since this may be a worker process."""
    return torch.stack([crop for crop, _ in rows]), [problem for _, problem in rows if problem is not None]


def margin_size(config: PoseConfig) -> tuple[int, int]:
    """(height, width) of stored crops."""
    return round(config.input_size[0] * CROP_MARGIN), round(config.input_size[1] * CROP_MARGIN)


def split_readable(people: People) -> tuple[People, list[str]]:
    """The people whose images can be read, and a line for each image that cannot be."""
    problems: dict[Path, str] = {}
    for image in dict.fromkeys(people.images):
        try:
            open_image(image)
        except (OSError, ValueError) as error:
            problems[image] = str(error).rstrip(".")
    kept = [row for row, image in enumerate(people.images) if image not in problems]
    return people.select(kept) if problems else people, list(problems.values())


def first_few(problems: list[str]) -> str:
    """The first problems, and how many more there are."""
    rest = len(problems) - _NAMED
    return "; ".join(problems[:_NAMED]) + (f"; and {rest} more" if rest > 0 else "")
