"""Measure the decoders on clean Gaussians, whose centres are known exactly, and print the errors as a table."""

from typing import get_args

import torch

from softgate_pose import decode_heatmaps, render_heatmaps
from softgate_pose.pose.heatmaps import DecodeMethod

SIZE = (32, 32)  # height, width of the heatmaps
STEPS = 41  # centres on a grid over one pixel, its edges included
SIGMAS = (1.0, 2.0)  # the training targets' and a blunter peak

offsets = torch.linspace(-0.5, 0.5, STEPS, dtype=torch.float64)
x, y = torch.meshgrid(15 + offsets, 15 + offsets, indexing="xy")
centres = torch.stack((x, y), dim=-1).view(-1, 1, 2)  # (B, 1, 2)

print("| `decode` | " + " | ".join(f"sigma {sigma:g}: largest | mean" for sigma in SIGMAS) + " |")
print("|---|" + "---:|" * (2 * len(SIGMAS)))
for method in get_args(DecodeMethod):
    cells = [f"`{method}`"]
    for sigma in SIGMAS:
        keypoints, _ = decode_heatmaps(render_heatmaps(centres, SIZE, sigma), method)
        errors = (keypoints - centres).abs()  # per axis
        cells += [f"{errors.max():.3f}", f"{errors.mean():.3f}"]
    print("| " + " | ".join(cells) + " |")
