"""Tables of what was measured: printed, and kept with the command and the machine for docs/speed.md."""

import csv
import dataclasses
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

__all__ = ["Table", "machine", "publish"]

PACKAGES = ("torch", "softgate-pose", "timm", "transformers", "onnxruntime", "openvino", "numpy", "pillow")


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of texts and numbers below a header; a number is shown to three digits."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def to_markdown(self) -> list[str]:
        numeric = [bool(self.rows) and not isinstance(self.rows[0][i], str) for i in range(len(self.columns))]
        lines = ["| " + " | ".join(self.columns) + " |"]
        lines.append("|" + "".join("---:|" if right else "---|" for right in numeric))
        return lines + ["| " + " | ".join(map(_shown, row)) + " |" for row in self.rows]


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def machine(device: str, threads: int) -> dict[str, Any]:
    """Processor, its instructions, threads, and versions."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    gpu = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16, int8 instructions": ", ".join(sorted(_flags() & {"avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"})),
        "processors": os.cpu_count(),
        "threads": threads,
        "gpu": gpu or "none",
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def _cpuinfo(key: str) -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or "unknown"


def _flags() -> set[str]:
    return set(_cpuinfo("flags").split())


def publish(name: str, tables: Sequence[Table], about: dict[str, Any], out: Path | None) -> None:
    """Print the tables and, into a folder, write them: ``NAME.json`` for the docs, and a CSV file of each."""
    click.echo(", ".join(f"{key} {value}" for key, value in about.items() if key != "versions"))
    click.echo(", ".join(f"{key} {value}" for key, value in about["versions"].items()))
    for table in tables:
        click.echo("\n".join(["", table.title, "", *table.to_markdown()]))
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    arguments = [a for i, a in enumerate(sys.argv[1:]) if a != "--out" and sys.argv[i] != "--out"]
    data = {
        "command": shlex.join(["python", "-m", "benchmarks", *arguments]),
        "machine": about,
        "tables": [dataclasses.asdict(table) for table in tables],
    }
    (out / f"{name}.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for number, table in enumerate(tables):
        with (out / f"{name}{number or ''}.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([table.columns, *table.rows])
    click.echo(f"\nWritten to {out}.")
