"""Random changes to training crops, drawn for a whole batch and applied on the device."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from softgate_pose.config import PoseConfig
from softgate_pose.data.images import normalize
from softgate_pose.pose import geometry
from softgate_pose.training.crops import Crops, margin_size
from softgate_pose.training.recipe import Augmentation

__all__ = ["Augmentation", "Changes", "augment", "sample_changes"]

_LOWER_BODY = frozenset(f"{side}_{joint}" for side in ("left", "right") for joint in ("hip", "knee", "ankle"))
_FEWEST = 3  # labelled keypoints that make half a body
_HALF_MARGIN = 1.5  # what a half-body crop shows over those keypoints' extent
_LARGEST_HALF_ZOOM = 2.0  # stored crops have no finer detail


@dataclass(frozen=True)
class Changes:
    """Random values for B crops, drawn before the crops are read."""

    angle: Tensor  # (B,) radians
    zoom: Tensor  # (B,)
    shift: Tensor  # (B, 2) in shares of the input's sides
    mirrored: Tensor  # (B,) bool
    half: Tensor  # (B,) 1 for the upper half of the body, -1 for the lower, 0 for all of it
    contrast: Tensor  # (B,) factors
    tint: Tensor  # (B, C) factors
    patches: Tensor  # (B, P, 4) as (x0, y0, x1, y1) in shares of the input's sides
    patch_colours: Tensor  # (B, P, C) in 0..255

    def part(self, rows: slice) -> Changes:
        """The changes of some of the crops."""
        return Changes(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})


def sample_changes(count: int, in_chans: int, augmentation: Augmentation, generator: torch.Generator) -> Changes:
    """Changes for ``count`` crops.

    They are drawn on the CPU for a whole batch, so that a seed gives the same ones on every device and
    however many processes share the batch.
    """

    def draw(reach: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape, generator=generator) * 2 - 1) * reach

    def chance(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    number = augmentation.patches
    corner, sides = chance(number, 2), chance(number, 2) * augmentation.patch_size
    half = chance()
    return Changes(
        angle=draw(math.radians(augmentation.rotation)),
        zoom=torch.exp(draw(math.log(augmentation.zoom))),
        shift=draw(augmentation.shift, 2),
        mirrored=chance() < augmentation.flip,
        half=(half < augmentation.half_body / 2).int() - (half > 1 - augmentation.half_body / 2).int(),
        contrast=1 + draw(augmentation.contrast),
        tint=(1 + draw(augmentation.brightness, 1)) * (1 + draw(augmentation.tint, in_chans)),
        patches=torch.cat((corner - sides / 2, corner + sides / 2), dim=-1),
        patch_colours=chance(number, in_chans) * 255,
    )


def augment(crops: Crops, changes: Changes, config: PoseConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Network inputs from a batch of stored crops, by one affine warp and a change of colours.

    Returns images (B, C, H, W), normalised; keypoints (B, K, 2) as (x, y) in input pixels; and labelled
    (B, K), false also for keypoints that have left the input. All on the crops' device.
    """
    device = crops.images.device
    matrices = _matrices(crops, changes, config)

    images = geometry.warp(crops.images.float(), matrices, config.input_size)
    average = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - average) * changes.contrast.to(device)[:, None, None, None] + average
    images = (images * changes.tint.to(device)[:, :, None, None]).clamp(0, 255)
    images = normalize(_paint_patches(images, changes), config)

    mirrored, swap = changes.mirrored[:, None], torch.tensor(config.skeleton.mirror)
    keypoints = geometry.transform_points(matrices, crops.keypoints)
    keypoints = torch.where(mirrored[..., None], keypoints[:, swap], keypoints)
    labelled = torch.where(mirrored, crops.labelled[:, swap], crops.labelled)
    labelled = labelled & geometry.inside(keypoints, config.input_size)
    return images, keypoints.to(device), labelled.to(device)


def _matrices(crops: Crops, changes: Changes, config: PoseConfig) -> Tensor:
    """(B, 2, 3): stored crop to network input."""
    height, width = config.input_size
    middle = geometry.image_centre(height, width)
    margin = margin_size(config)
    # the stored crop's centre is the input's, at the same scale
    scale = min(height / margin[0], width / margin[1])
    to_input = geometry.box_to_crop(torch.tensor([geometry.image_box(*margin)]), config.input_size, scale)
    if changes.half.any():
        to_input = _show_half(crops, changes.half, to_input.expand(len(crops), -1, -1), config)
    rotation = geometry.rotate_scale_about(changes.angle, changes.zoom, middle)
    rotation[:, :, 2] += changes.shift * torch.tensor([width, height])
    return geometry.compose(geometry.mirror_crop(changes.mirrored, width), geometry.compose(rotation, to_input))


def _show_half(crops: Crops, half: Tensor, matrices: Tensor, config: PoseConfig) -> Tensor:
    """The maps (B, 2, 3), changed to show half a body where that was drawn and enough of it is labelled."""
    lower = torch.tensor([name in _LOWER_BODY for name in config.skeleton.keypoints])
    used = crops.labelled & torch.where(half[:, None] > 0, ~lower, lower)
    low = torch.where(used[..., None], crops.keypoints, torch.inf).amin(dim=1)
    high = torch.where(used[..., None], crops.keypoints, -torch.inf).amax(dim=1)
    chosen = (half != 0) & (used.sum(dim=1) >= _FEWEST) & ((high - low).amax(dim=1) > 1)
    if not chosen.any():
        return matrices
    side = (high - low)[chosen].amax(dim=1, keepdim=True) / 2
    smallest = min(config.input_size) / (2 * _HALF_MARGIN * _LARGEST_HALF_ZOOM)
    middle, reach = ((low + high) / 2)[chosen], side.clamp_min(smallest)
    boxes = torch.cat((middle - reach, middle + reach), dim=1)
    matrices = matrices.clone()
    matrices[chosen] = geometry.box_to_crop(boxes, config.input_size, _HALF_MARGIN)
    return matrices


def _paint_patches(images: Tensor, changes: Changes) -> Tensor:
    """Images (B, C, H, W) with the patches painted on them."""
    count = changes.patches.shape[1]
    if not count:
        return images
    height, width = images.shape[-2:]
    boxes, colours = changes.patches.to(images.device), changes.patch_colours.to(images.device)
    x = (torch.arange(width, device=images.device) + 0.5) / width
    y = (torch.arange(height, device=images.device) + 0.5) / height
    for i in range(count):
        x0, y0, x1, y1 = boxes[:, i, :, None].unbind(1)  # (B, 1) each
        covered = ((y >= y0) & (y < y1))[:, None, :, None] & ((x >= x0) & (x < x1))[:, None, None, :]
        images = torch.where(covered, colours[:, i, :, None, None], images)
    return images
