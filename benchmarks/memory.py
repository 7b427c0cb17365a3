"""Peak memory for each image, in inference and in training; each measured in a process of its own."""

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.contestants import NUM_KEYPOINTS, Setting, build_module
from benchmarks.report import Table
from softgate_pose import create_model
from softgate_pose.training.losses import heatmap_loss

__all__ = ["memory_table"]

MEGABYTE = 1e6


def memory_table(names: Sequence[str], setting: Setting, *, batch: int) -> Table:
    """Megabytes of each model: what it takes by itself, and for each image of a batch above that.

    A model is measured for one image and for a batch; the difference is the images'. Training is one step of AdamW
    with the loss over all stacks.

    Raises:
        RuntimeError: If a measuring process fails, as where there is no /proc.
    """
    rows = []
    for name in names:
        row: list[object] = [name]
        for training in (False, True):
            if training and "+" in name:
                row += [None, None]
                continue
            one, many = (_measured(name, setting, n, training) for n in (1, batch))
            row += [many, (many - one) / (batch - 1)]
        rows.append(tuple(row))
    columns = ("network",)
    for what in ("inference", "training"):
        columns += (f"{what}: MB above the start, batch {batch}", f"{what}: MB for each image more")
    return Table("Peak memory", columns, rows)


def _measured(name: str, setting: Setting, batch: int, training: bool) -> float:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, name, setting, batch, training))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(f"Measuring the memory of {name} failed.") from None
    finally:
        process.join()


def _measure(sender: Connection, name: str, setting: Setting, batch: int, training: bool) -> None:
    setting.apply()
    on_gpu = torch.device(setting.device).type == "cuda"
    images = setting.images(batch)
    before = 0.0 if on_gpu else _reset_peak()
    if training:
        model = create_model(name, input_size=setting.size, device=setting.device, channels_last=True).train()
        optimizer = torch.optim.AdamW(model.parameters())
        places = torch.rand(batch, NUM_KEYPOINTS, 2, device=setting.device) * 8
        labelled = torch.ones(batch, NUM_KEYPOINTS, dtype=torch.bool, device=setting.device)
        for _ in range(2):  # the optimizer's state is there from the second step on
            heatmap_loss(model.outputs(images.to(setting.device)), places, labelled, model.config).backward()
            optimizer.step()
            optimizer.zero_grad()
    else:
        module = build_module(name.replace("+bf16", ""), setting)
        dtype = torch.bfloat16 if "+bf16" in name else torch.float32
        module.to(setting.device, dtype, memory_format=torch.channels_last)
        with torch.inference_mode():
            module(images.to(setting.device, dtype))
    peak = float(torch.cuda.max_memory_allocated(setting.device)) if on_gpu else _status("VmHWM")
    sender.send((peak - before) / MEGABYTE)


def _status(key: str) -> float:
    """A size that Linux keeps of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024.0 * int(next(line for line in lines if line.startswith(key)).split()[1])


def _reset_peak() -> float:
    """Let the peak begin at what is used now, and return that."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")
