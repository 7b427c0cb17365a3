"""Decoding beside a loop over joints as it is often written, and beside the smallest model."""

import numpy as np
import torch

from benchmarks.contestants import Contestant, Setting
from benchmarks.report import Table
from benchmarks.speed import quartiles, ratios, take_turns
from softgate_pose import decode_heatmaps, render_heatmaps

__all__ = ["decode_joint_by_joint", "decoding_table"]


def decode_joint_by_joint(heatmaps: np.ndarray) -> np.ndarray:
    """DARK with NumPy, one joint after the other: blur the map, take its log, and one Newton step.

    Args:
        heatmaps: (B, K, H, W).

    Returns:
        Keypoints (B, K, 2) as (x, y).
    """
    radius = 3
    kernel = np.exp(-(np.arange(-radius, radius + 1) ** 2) / 2.0)
    kernel /= kernel.sum()
    keypoints = np.zeros((*heatmaps.shape[:2], 2), dtype=np.float32)
    for person in range(heatmaps.shape[0]):
        for joint in range(heatmaps.shape[1]):
            heatmap = heatmaps[person, joint]
            height, width = heatmap.shape
            y, x = np.unravel_index(np.argmax(heatmap), heatmap.shape)
            padded = np.pad(heatmap, radius, mode="edge")
            rows = sum(k * padded[i : i + height] for i, k in enumerate(kernel))
            blurred = sum(k * rows[:, i : i + width] for i, k in enumerate(kernel))
            log = np.log(np.maximum(blurred / heatmap[y, x], 1e-12))
            step = np.zeros(2)
            if 0 < x < width - 1 and 0 < y < height - 1:
                dx, dy = (log[y, x + 1] - log[y, x - 1]) / 2, (log[y + 1, x] - log[y - 1, x]) / 2
                dxx = log[y, x + 1] - 2 * log[y, x] + log[y, x - 1]
                dyy = log[y + 1, x] - 2 * log[y, x] + log[y - 1, x]
                dxy = (log[y + 1, x + 1] - log[y + 1, x - 1] - log[y - 1, x + 1] + log[y - 1, x - 1]) / 4
                hessian = np.array([[dxx, dxy], [dxy, dyy]])
                if dxx < 0 and np.linalg.det(hessian) > 1e-12:
                    step = -np.linalg.solve(hessian, np.array([dx, dy]))
            keypoints[person, joint] = x + step[0], y + step[1]
    return keypoints


def decoding_table(network: Contestant, setting: Setting, *, people: int, rounds: int, seconds: float) -> Table:
    """Decoding with DARK, in one run with the loop and with the network's forward pass of as many people."""
    size = (setting.size[0] // 4, setting.size[1] // 4)
    torch.manual_seed(0)
    places = torch.rand(people, 16, 2) * torch.tensor([size[1] - 9.0, size[0] - 9.0]) + 4
    heatmaps = (render_heatmaps(places, size) + 0.05 * torch.rand(people, 16, *size)).to(setting.device)
    array, images = heatmaps.cpu().numpy(), network.prepare(setting.images(people))
    calls = {
        "decode_heatmaps": lambda: decode_heatmaps(heatmaps, "dark"),
        "a NumPy loop over the joints": lambda: decode_joint_by_joint(array),
        f"forward pass of {network.name}": lambda: network.run(images),
    }
    times = take_turns(calls, rounds=rounds, seconds=seconds, synchronize=setting.synchronize)
    rows = []
    for name, values in times.items():
        low, middle, high = quartiles([1e3 * value for value in values])
        rows.append((name, middle, f"{low:.3g}–{high:.3g}", ratios(times, "decode_heatmaps", name)))
    title = f"Decoding {people} × 16 heatmaps of {size[0]} × {size[1]} with DARK; {len(values)} rounds"
    return Table(title, ("what", "ms", "quartiles", "times as long as decode_heatmaps"), rows)
