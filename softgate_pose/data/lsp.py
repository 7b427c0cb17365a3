"""Leeds Sports Pose and its extension."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from softgate_pose.data.matlab import matlab_array
from softgate_pose.data.people import People
from softgate_pose.data.schema import find_file, require_near
from softgate_pose.pose.skeleton import LSP

__all__ = ["read_lsp", "read_lspet"]

_JOINTS_MARGIN = 1.04  # box over the joints' extent: 1.25 times this is a crop of 1.3 times the extent


def read_lsp(root: Path, split: str) -> People:
    """Leeds Sports Pose: ``joints.mat`` (3, 14, 2000) and ``images/im0001.jpg``...

    Images 1 to 1,000 are ``train``, the rest ``test``. Every joint is labelled, hidden ones included.
    """
    if split not in ("train", "test"):
        raise ValueError(f"LSP has the splits train and test, got {split!r}.")
    file = find_file("LSP", root, "joints.mat")
    joints = torch.from_numpy(matlab_array(file, "joints", (3, 14, None))).permute(2, 1, 0)  # (N, 14) x, y, hidden
    rows = slice(1000) if split == "train" else slice(1000, None)
    images = [root / f"images/im{i + 1:04d}.jpg" for i in range(len(joints))]
    points = joints[rows, :, :2] - 1
    return _people_of_joints(file, split, images[rows], points, torch.ones(points.shape[:2], dtype=torch.bool))


def read_lspet(root: Path, split: str = "train") -> People:
    """Leeds Sports Pose Extended: ``joints.mat`` (14, 3, N) and ``images/im00001.jpg``...; all for training.

    People without any labelled joint are left out.
    """
    if split != "train":
        raise ValueError(f"LSP-extended has the split train alone, got {split!r}.")
    file = find_file("LSP-extended", root, "joints.mat")
    joints = torch.from_numpy(matlab_array(file, "joints", (14, 3, None))).permute(2, 0, 1)  # (N, 14) x, y, labelled
    images = [root / f"images/im{i + 1:05d}.jpg" for i in range(len(joints))]
    return _people_of_joints(file, split, images, joints[..., :2] - 1, joints[..., 2] > 0)


def _people_of_joints(file: Path, split: str, images: list[Path], points: Tensor, labelled: Tensor) -> People:
    """People with LSP's joints whose box is the square round the labelled ones."""
    require_near(points.numpy(), labelled.numpy(), LSP, lambda n: f"{file}: {images[n].name}")
    rows = labelled.any(dim=1).nonzero()[:, 0]
    if not len(rows):
        raise ValueError(f"{file} holds nobody with a labelled joint in the split {split}.")
    points, labelled = points[rows], labelled[rows]
    low = torch.where(labelled.unsqueeze(-1), points, torch.inf).amin(dim=1)
    high = torch.where(labelled.unsqueeze(-1), points, -torch.inf).amax(dim=1)
    half = (high - low).amax(dim=1, keepdim=True).clamp_min(1) * _JOINTS_MARGIN / 2
    centre = (low + high) / 2
    return People(
        LSP,
        tuple(images[i] for i in rows.tolist()),
        torch.where(labelled.unsqueeze(-1), points, 0.0).contiguous(),
        labelled,
        torch.cat((centre - half, centre + half), dim=1),
        torch.full((len(rows), 4), math.nan, dtype=torch.float64),
        (file,),
    )
