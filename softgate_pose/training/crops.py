"""People cut out of their images for training: shared by the processes of a machine, on the device, or streamed."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from softgate_pose.config import PoseConfig
from softgate_pose.data.images import load_image, open_image
from softgate_pose.data.people import People
from softgate_pose.pose import geometry
from softgate_pose.pose.geometry import BOX_SCALE
from softgate_pose.training.recipe import Engine

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["CropStore", "Crops", "fingerprint", "first_few", "margin_size", "split_readable"]

CROP_MARGIN = 1.5
"""Stored crops show this much more than the network's input per side, for rotation, zoom and shift."""

MAX_UNREADABLE = 0.01
"""Share of the people whose images may be missing or broken; they are left out."""

_NAMED = 5  # unreadable images that a message names


@dataclass(frozen=True)
class Crops:
    """People cut out of their images, at the network's scale with a margin; all but the images are on the CPU."""

    images: Tensor  # (N, C, S, S') uint8
    keypoints: Tensor  # (N, K, 2) float32 in pixels of these crops
    labelled: Tensor  # (N, K) bool

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Crops:
        """The same crops with the images on a device."""
        return dataclasses.replace(self, images=self.images.to(device))


class CropStore:
    """Stored crops of people, by their row; every process of a run makes one, at the same time.

    Attributes:
        people: The people whose images can be read.
        unreadable: A line for each image that cannot be read.
        fingerprint: Of the people whose images can be read.
    """

    def __init__(
        self, people: People, config: PoseConfig, engine: Engine, folder: Path, accelerator: Accelerator
    ) -> None:
        self._workers = engine.workers
        self._bar = engine.progress and bool(accelerator.is_main_process)
        self._images: Tensor | None = None
        cutter = _Cutter(people, config)
        if engine.keep == "stream":
            rows, problems = self._read(cutter, None)
            self.unreadable = _require_readable(len(people), problems)
        else:
            rows, problems = self._share(cutter, folder, accelerator)
            if engine.keep == "device" and self._images is not None:
                self._images = self._images.to(accelerator.device, copy=True)
        self.people = people.select(rows) if problems else people
        self._cutter = _Cutter(self.people, config)
        self._keypoints = geometry.transform_points(self._cutter.matrices, self.people.keypoints).float()
        self.fingerprint = fingerprint(self.people)

    def __len__(self) -> int:
        return len(self.people)

    def batches(self, rows: Sequence[Tensor]) -> Iterator[Crops]:
        """The crops of each group of rows, in turn."""
        if self._images is not None:
            for group in rows:
                yield self._crops(group, self._images[group.to(self._images.device)])
            return
        sampler = [group.tolist() for group in rows]
        loader = DataLoader(self._cutter, batch_sampler=sampler, num_workers=self._workers, collate_fn=_stack)
        for group, (images, problems) in zip(rows, loader, strict=True):
            if problems:  # it could be read when the run began
                raise RuntimeError(f"Images cannot be read any more: {first_few(problems)}.")
            yield self._crops(group, images)

    def _crops(self, rows: Tensor, images: Tensor) -> Crops:
        return Crops(images, self._keypoints[rows], self.people.labelled[rows])

    def _share(self, cutter: _Cutter, folder: Path, accelerator: Accelerator) -> tuple[list[int], list[str]]:
        """All crops, in a file that is mapped into memory, so that a machine's processes share one copy.

        The first process of a machine writes the file, and removes it as soon as all have mapped it: its space is
        freed when the last process ends, however that comes. On Windows, which removes no file in use, it stays.
        """
        from accelerate.utils import gather_object

        first = accelerator.process_index - accelerator.local_process_index  # of this machine
        file, mine = folder / f"crops{first}.bin", None
        try:
            if accelerator.is_local_main_process:
                mine = self._read(cutter, file)
            rows, problems = gather_object([mine])[first]
            self.unreadable = _require_readable(len(cutter), problems)
            images = torch.from_file(str(file), shared=True, size=len(rows) * cutter.bytes, dtype=torch.uint8)
            self._images = images.view(len(rows), *cutter.shape)
            accelerator.wait_for_everyone()
        finally:
            if accelerator.is_local_main_process:
                with suppress(OSError):
                    file.unlink()
        return rows, problems

    def _read(self, cutter: _Cutter, file: Path | None) -> tuple[list[int], list[str]]:
        """The rows whose images can be read, whose crops go into a file, if one is given; what is wrong with others.

        The file is written, not mapped: on a full disk that raises, where a map would end the process.
        """
        rows: list[int] = []
        problems: list[str] = []
        loader = DataLoader(cutter, batch_size=None, num_workers=self._workers)
        hidden = None if self._bar else True
        bar = tqdm(loader, "reading people", len(cutter), disable=hidden, leave=False, unit=" people")
        try:
            with file.open("wb") if file else nullcontext() as stream:
                for row, (crop, problem) in enumerate(bar):
                    if problem is not None:
                        problems.append(problem)
                        continue
                    rows.append(row)
                    if stream is not None:
                        stream.write(crop.numpy().data)
        except OSError as error:  # what is wrong with an image is in problems
            raise OSError(
                f"The people's crops cannot be written to {file}: {error}. They need "
                f"{len(cutter) * cutter.bytes / 2**30:.1f} GiB; free as much, or train with keep='stream'."
            ) from None
        return rows, problems


class _Cutter(Dataset[tuple[Tensor, str | None]]):
    """Each person's stored crop (C, S, S'), uint8, and what is wrong with their image, if anything."""

    def __init__(self, people: People, config: PoseConfig) -> None:
        self.images, self.in_chans, self.size = people.images, config.in_chans, margin_size(config)
        self.shape = (config.in_chans, *self.size)
        self.bytes = math.prod(self.shape)  # of a crop
        self.matrices = geometry.box_to_crop(people.boxes, self.size, BOX_SCALE * CROP_MARGIN)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, str | None]:
        try:
            pixels = load_image(self.images[row], self.in_chans)
        except (OSError, ValueError) as error:
            return torch.zeros(self.shape, dtype=torch.uint8), str(error).rstrip(".")
        return geometry.crop(pixels, self.matrices[row : row + 1], self.size)[0].round().byte(), None


def _require_readable(count: int, problems: list[str]) -> list[str]:
    """A line for each image that cannot be read; raise ValueError if that affects too many of the people."""
    images = list(dict.fromkeys(problems))
    if len(problems) > MAX_UNREADABLE * count:
        raise ValueError(
            f"The images of {len(problems)} of {count} people cannot be read, more than {MAX_UNREADABLE:.0%}: "
            f"{first_few(images)}."
        )
    return images


def _stack(rows: list[tuple[Tensor, str | None]]) -> tuple[Tensor, list[str]]:
    """The crops as one tensor, and what is wrong with images; not raised, since this may be a worker process."""
    return torch.stack([crop for crop, _ in rows]), [problem for _, problem in rows if problem is not None]


def margin_size(config: PoseConfig) -> tuple[int, int]:
    """(height, width) of stored crops."""
    return round(config.input_size[0] * CROP_MARGIN), round(config.input_size[1] * CROP_MARGIN)


def fingerprint(people: People) -> str:
    """A fingerprint of a table of people, the same wherever their images lie."""
    names = " ".join(image.name for image in people.images)
    digest = hashlib.sha256(names.encode(errors="surrogateescape"))  # a name may be no text
    for column in (people.keypoints, people.labelled, people.boxes):
        digest.update(column.contiguous().numpy().tobytes())
    return f"{len(people)} people, {digest.hexdigest()[:16]}"


def split_readable(people: People) -> tuple[People, list[str]]:
    """The people whose images can be read, and a line for each image that cannot be."""
    problems: dict[Path, str] = {}
    for image in dict.fromkeys(people.images):
        try:
            open_image(image)
        except (OSError, ValueError) as error:
            problems[image] = str(error).rstrip(".")
    rows = [row for row, image in enumerate(people.images) if image not in problems]
    return people.select(rows) if problems else people, list(problems.values())


def first_few(problems: list[str]) -> str:
    """The first problems, and how many more there are."""
    rest = len(problems) - _NAMED
    return "; ".join(problems[:_NAMED]) + (f"; and {rest} more" if rest > 0 else "")
