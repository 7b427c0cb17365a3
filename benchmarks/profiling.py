"""Where the time of a forward pass goes, by kind of operation."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.contestants import Setting, build
from benchmarks.report import Table

__all__ = ["profile_table"]

KINDS = {
    "conv2d": "convolution",
    "conv_transpose2d": "transposed convolution",
    "batch_norm": "batch norm",
    "relu": "ReLU",
    "relu_": "ReLU",
    "cat": "concatenation",
    "addcmul": "multiply-add",
    "addcmul_": "multiply-add",
    "max_pool2d": "max pool",
    "upsample_nearest2d": "upsampling",
    "add": "addition",
    "add_": "addition",
    "softmax": "softmax",
}
"""Operations as a module calls them, below ``aten::``; all others are "other"."""


def profile_table(names: Sequence[str], setting: Setting, *, batch: int, repeats: int) -> Table:
    """Milliseconds of each kind of operation in each contestant, the median over the repeats.

    The contestants take turns. On a GPU the time is that of its kernels.
    """
    contestants = [build(name, setting) for name in names]
    images = {contestant.name: contestant.prepare(setting.images(batch)) for contestant in contestants}
    passes: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for repeat in range(repeats + 1):
        for contestant in contestants:
            found = _profile(contestant.run, images[contestant.name], setting)
            if repeat:  # the first is to warm up
                passes[contestant.name].append(found)
    kinds = list(dict.fromkeys([*KINDS.values(), "other"]))
    medians = {name: {kind: statistics.median(p[kind] for p in passes[name]) for kind in kinds} for name in names}
    columns = ["operation"] + [heading for name in names for heading in (f"{name}, ms", "share")]
    rows = []
    for kind in kinds:
        row: list[object] = [kind]
        for name in names:
            total = sum(medians[name].values())
            row += [medians[name][kind], f"{medians[name][kind] / total:.1%}"]
        if any(medians[name][kind] > 0 for name in names):
            rows.append(tuple(row))
    rows.append(("all", *(cell for name in names for cell in (sum(medians[name].values()), "100.0%"))))
    return Table(f"Time by kind of operation, batch {batch}, median of {repeats} passes", tuple(columns), rows)


def _profile(run: Callable[[Any], Any], images: Any, setting: Setting) -> dict[str, float]:
    gpu = torch.device(setting.device).type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if gpu else [])
    with profile(activities=activities) as recorded:
        run(images)
        setting.synchronize()
    found: dict[str, float] = defaultdict(float)
    for event in recorded.events():
        if event.cpu_parent is None and event.name.startswith("aten::"):  # what it calls is part of its time
            kind = KINDS.get(event.name.removeprefix("aten::"), "other")
            found[kind] += (event.device_time_total if gpu else event.cpu_time_total) / 1e3
    return found
