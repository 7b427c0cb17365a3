"""The state of a training run on disk: written whole or not at all, and restored exactly."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from softgate_pose._files import written_whole

__all__ = ["Progress", "TrainingState"]

logger = logging.getLogger(__name__)

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"

_LATER = {"model.architecture": "softgate", "teacher.model.architecture": "softgate"}
"""Settings missing from older states, and the values that all runs had then."""


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0  # of the optimizer, as many as are done
    loss: float = 0.0  # the sum over the steps of this epoch
    seconds: float = 0.0  # of this epoch
    people: str = ""  # a fingerprint of the samples that are trained on; empty before the first step
    history: list[dict[str, Any]] = field(default_factory=list)  # a row for each epoch that is done


class TrainingState:
    """Everything that a run needs to go on, as one safetensors file in its folder; ``run`` must stay the same."""

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        ema: nn.Module | None,
        optimizer: torch.optim.Optimizer,
        run: Mapping[str, Any],
    ) -> None:
        self.folder, self.optimizer, self.run = folder, optimizer, json.loads(json.dumps(run))
        self.modules = {"model": model} | ({} if ema is None else {"ema": ema})
        self._last_is_whole = True

    def save(self, progress: Progress) -> None:
        """Replace the state on disk as a whole; the one before becomes ``previous.safetensors``."""
        tensors = {f"{name}.{k}": v for name, module in self.modules.items() for k, v in module.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in values.items()}
        metadata = {"run": json.dumps(self.run), "progress": json.dumps(vars(progress))}
        last = self.folder / LAST
        try:
            with written_whole(last) as scratch:
                save_file({key: value.contiguous() for key, value in tensors.items()}, scratch, metadata=metadata)
                with scratch.open("rb+") as stream:
                    os.fsync(stream.fileno())  # the data must be on the disk before the name is
                if self._last_is_whole and last.exists():
                    os.replace(last, self.folder / PREVIOUS)
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"The state of the run cannot be written to {last}: {error}. The one before it is kept; "
                "give the same command again to go on from there."
            ) from None
        self._last_is_whole = True

    def load(self) -> Progress:
        """Restore the run in the folder, if it holds one; ValueError if that is another run, or none can be read."""
        files = [self.folder / name for name in (LAST, PREVIOUS) if (self.folder / name).exists()]
        problems = []
        for file in files:
            try:
                with safe_open(file, framework="pt") as stored:
                    metadata = stored.metadata()
                    tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
                run, progress = json.loads(metadata["run"]), Progress(**json.loads(metadata["progress"]))
            except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
                problems.append(f"{file} cannot be read ({error})")
                continue
            if problems:
                logger.warning("%s; going on from %s.", problems[0], file)
            self._check_same_run(run, file)
            self._restore(tensors)
            self._last_is_whole = file.name == LAST
            return progress
        if files:
            raise ValueError(f"{' and '.join(problems)}. Train into another folder, or delete this one to start again.")
        return Progress()

    def _check_same_run(self, run: Mapping[str, Any], file: Path) -> None:
        here = _flat(self.run)
        there = {key: value for key, value in _LATER.items() if key in here} | _flat(run)
        lines = [
            f"{key} is {there.get(key)!r} there, {here.get(key)!r} here"
            for key in dict.fromkeys((*there, *here))
            if there.get(key) != here.get(key)
        ]
        if lines:
            raise ValueError(
                f"{file} belongs to another run: {'; '.join(lines)}. Give the settings of that run to go on with it, "
                "train into another folder, or delete this one to start again."
            )

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        def under(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        for name, module in self.modules.items():
            module.load_state_dict(under(f"{name}."))
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in under("optimizer.").items():
            index, _, name = key.partition(".")
            like = parameters[int(index)]
            if value.shape == like.shape:  # in the parameter's memory format, or steps would be slower than before
                value = torch.empty_like(like, dtype=value.dtype, device="cpu").copy_(value)
            states.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted keys."""
    if not isinstance(value, dict):
        return {name: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{name}.{key}" if name else key)
    return flat
