"""From people to training batches: crops held in memory, and batched augmentation on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from softgate_pose.config import PoseConfig
from softgate_pose.images import load_image, normalize
from softgate_pose.people import People
from softgate_pose.pose import geometry
from softgate_pose.prediction import BOX_SCALE

__all__ = ["Augmentation", "Crops", "augment", "batches", "crop_people"]

CROP_MARGIN = 1.5
"""Stored crops show this much more than the network's input per side, for rotation, zoom and shift."""


@dataclass(frozen=True)
class Crops:
    """People cut out of their images, at the network's scale with a margin.

    Attributes:
        images: (N, C, S, S') uint8.
        keypoints: (N, K, 2) float32 in pixels of these crops.
        labelled: (N, K) bool.
    """

    images: Tensor
    keypoints: Tensor
    labelled: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> Crops:
        """The same with the images on a device; the few keypoints stay on the CPU."""
        return Crops(self.images.to(device), self.keypoints, self.labelled)


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a training crop; each range is uniform and the same to both sides.

    Attributes:
        rotation: Degrees.
        zoom: Largest factor of enlargement and of shrinking; drawn evenly in its logarithm.
        shift: Share of the input's side.
        flip: Probability of mirroring.
        brightness: Relative change of all channels.
        contrast: Relative change of the distance from the crop's mean colour.
        tint: Relative change of each channel by itself.
    """

    rotation: float = 60.0
    zoom: float = 1.3
    shift: float = 0.06
    flip: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.3
    tint: float = 0.15


def crop_people(people: People, config: PoseConfig, *, progress: bool = False) -> Crops:
    """Cut all people out of their images, once, for the memory of the device."""
    size = _margin_size(config)
    matrices = geometry.box_to_crop(people.boxes, size, BOX_SCALE * CROP_MARGIN)
    images = torch.zeros(len(people), config.in_chans, *size, dtype=torch.uint8)
    for i, file in enumerate(tqdm(people.images, "cropping", unit="person", disable=not progress, leave=False)):
        pixels = load_image(file, config.in_chans)
        images[i] = geometry.crop(pixels, matrices[i : i + 1], size)[0].round().byte()
    keypoints = geometry.transform_points(matrices, people.keypoints).float()
    return Crops(images, keypoints, people.labelled)


def batches(crops: Crops, batch_size: int, generator: torch.Generator) -> Iterator[Crops]:
    """One epoch in random order; the last, smaller batch is left out."""
    order = torch.randperm(len(crops), generator=generator)
    for rows in torch.split(order, batch_size):
        if len(rows) == batch_size:
            images = crops.images[rows.to(crops.images.device)]
            yield Crops(images, crops.keypoints[rows], crops.labelled[rows])


def augment(
    crops: Crops, config: PoseConfig, augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Random network inputs from a batch of stored crops, by one affine warp and a change of colours.

    Args:
        crops: A batch from ``batches``.
        config: Input size, mean, std and mirror pairs.
        augmentation: The ranges.
        generator: On the CPU, so that a seed gives the same batch on every device.

    Returns:
        Images (B, C, H, W), normalised; keypoints (B, K, 2) as (x, y) in input pixels; and labelled
        (B, K), false also for keypoints that have left the input.
    """
    device, count = crops.images.device, len(crops)
    height, width = config.input_size

    def draw(reach: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape, generator=generator) * 2 - 1) * reach

    mirrored = torch.rand(count, generator=generator) < augmentation.flip
    turn = geometry.rotate_scale_about(
        draw(math.radians(augmentation.rotation)),
        torch.exp(draw(math.log(augmentation.zoom))),
        geometry.image_centre(height, width),
    )
    turn[:, :, 2] += draw(augmentation.shift, 2) * torch.tensor([width, height])
    margin = _margin_size(config)
    # the stored crop's centre is the input's, at the same scale
    scale = min(height / margin[0], width / margin[1])
    centre = geometry.box_to_crop(torch.tensor([geometry.image_box(*margin)]), config.input_size, scale)
    matrices = geometry.compose(geometry.mirror_crop(mirrored, width), geometry.compose(turn, centre))

    images = geometry.warp(crops.images.float(), matrices, config.input_size)
    average = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - average) * (1 + draw(augmentation.contrast, 1, 1, 1).to(device)) + average
    tint = (1 + draw(augmentation.brightness, 1, 1, 1)) * (1 + draw(augmentation.tint, config.in_chans, 1, 1))
    images = normalize((images * tint.to(device)).clamp(0, 255), config)

    swap = torch.tensor(config.skeleton.mirror)
    keypoints = geometry.transform_points(matrices, crops.keypoints)
    keypoints = torch.where(mirrored[:, None, None], keypoints[:, swap], keypoints)
    labelled = torch.where(mirrored[:, None], crops.labelled[:, swap], crops.labelled)
    labelled = labelled & geometry.inside(keypoints, config.input_size)
    return images, keypoints.to(device), labelled.to(device)


def _margin_size(config: PoseConfig) -> tuple[int, int]:
    return round(config.input_size[0] * CROP_MARGIN), round(config.input_size[1] * CROP_MARGIN)
