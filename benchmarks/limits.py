"""How close networks come to what the machine can do: its arithmetic and its memory."""

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.contestants import Setting, build, build_module
from benchmarks.report import Table
from benchmarks.speed import measure, take_turns

__all__ = ["convolution_bytes", "limits_tables"]


def limits_tables(names: Sequence[str], setting: Setting, *, batch: int, rounds: int, seconds: float) -> list[Table]:
    """The machine's measured limits, and each contestant's share of them.

    Arithmetic is a product of two large matrices, memory a copy of an array that no cache holds.
    """
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    side = 8192 if torch.device(setting.device).type == "cuda" else 1024
    pairs = {name: torch.randn(2, side, side, device=setting.device).to(dtype) for name, dtype in dtypes.items()}
    source = torch.zeros(2**26, device=setting.device)  # 268 MB
    target = torch.empty_like(source)
    calls = {name: lambda pair=pair: torch.mm(pair[0], pair[1]) for name, pair in pairs.items()}
    calls["copy"] = lambda: target.copy_(source)
    with torch.inference_mode():
        times = take_turns(calls, rounds=rounds, seconds=seconds, synchronize=setting.synchronize)
    flops = {name: 2 * side**3 / min(times[name]) for name in dtypes}
    bandwidth = 2 * source.nbytes / min(times["copy"])
    limits = [(f"arithmetic, {name}", flops[name] / 1e9, "GFLOP/s") for name in dtypes]
    limits.append(("memory, read and written", bandwidth / 1e9, "GB/s"))

    contestants = [build(name, setting) for name in names]
    found = measure(contestants, setting, batch=batch, rounds=rounds, seconds=seconds)
    rows = []
    for contestant in contestants:
        middle = statistics.median(found[contestant.name])
        dtype = "bfloat16" if "bf16" in contestant.name.split("+") else "float32"
        operations = 2 * contestant.macs * batch
        module = build_module(contestant.name, setting)
        moved = convolution_bytes(module, setting.images(1), batch, dtypes[dtype])
        rows.append(
            (
                contestant.name,
                1e3 * middle,
                operations / middle / 1e9,
                f"{operations / middle / flops[dtype]:.0%}",
                moved / middle / 1e9,
                f"{moved / middle / bandwidth:.0%}",
            )
        )
    columns = ("network", "ms", "GFLOP/s", "of the limit", "GB/s of its convolutions", "of the limit")
    return [
        Table("What the machine can do, the best of the rounds", ("limit", "measured", "unit"), limits),
        Table(f"What networks reach, batch {batch}, median of {len(next(iter(found.values())))} rounds", columns, rows),
    ]


def convolution_bytes(module: nn.Module, image: Tensor, batch: int, dtype: torch.dtype) -> int:
    """What the convolutions of a forward pass must read and write at least: inputs and outputs, and weights once."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        numbers = batch * (math.prod(inputs[0].shape[1:]) + math.prod(output.shape[1:]))
        total += dtype.itemsize * (numbers + sum(parameter.numel() for parameter in layer.parameters()))

    hooks = [
        layer.register_forward_hook(count)
        for layer in module.modules()
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))
    ]
    with torch.no_grad():
        module(image)
    for hook in hooks:
        hook.remove()
    return total
