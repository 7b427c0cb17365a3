"""The zoo: the named configs, and which of them have weights. Imports no torch."""

from __future__ import annotations

import difflib
import fnmatch
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from softgate_pose.config import PoseConfig

__all__ = [
    "MODELS",
    "ModelEntry",
    "PretrainedEntry",
    "get_entry",
    "get_pretrained",
    "list_models",
    "list_pretrained",
    "pretrained_entries",
]

BUNDLED = Path(__file__).parent / "pretrained"
"""Weights inside the package: one folder for each ``model.tag``, as ``save_pretrained`` writes it."""


@dataclass(frozen=True)
class ModelEntry:
    """A named config and its budget.

    Attributes:
        config: The architecture at the paper's input of 256×256 and MPII's 16 keypoints.
        params: Learned parameters of that network, counted.
        macs: Multiply-adds of one 256×256 image, counted with torch's flop counter (2 FLOPs each).
        paper_params: Millions, as the paper reports them; None where it does not.
        paper_macs: Billions, as the paper reports them; None where it does not.
        paper_pckh: The paper's PCKh@0.5 on MPII, with its own training; None where it does not give one.
    """

    config: PoseConfig
    params: int
    macs: int
    paper_params: float | None
    paper_macs: float | None
    paper_pckh: str | None


@dataclass(frozen=True)
class PretrainedEntry:
    """Published weights of a named config.

    Attributes:
        model: The name in the zoo.
        tag: Distinguishes these weights from others of the same model.
        sha256: The SHA-256 of ``model.safetensors``.
        folder: Where they lie inside the package, or None.
        repo: Hub repository ``owner/name``, or None.
        revision: The Hub commit they are pinned to.
    """

    model: str
    tag: str
    sha256: str
    folder: Path | None = None
    repo: str | None = None
    revision: str | None = None

    @property
    def name(self) -> str:
        return f"{self.model}.{self.tag}"


def _entry(
    name: str,
    num_stacks: int,
    width: int,
    counted: tuple[int, int],
    paper: tuple[float | None, float | None, str | None],
    architecture: str = "softgate",
) -> tuple[str, ModelEntry]:
    config = PoseConfig(name=name, architecture=architecture, num_stacks=num_stacks, width=width)
    return name, ModelEntry(config, *counted, paper[0], paper[1], paper[2])


# stacks, width, (parameters, MACs) as counted, (million parameters, billion MACs, PCKh) as the paper reports
MODELS: Mapping[str, ModelEntry] = dict(
    (
        # the paper's budgets for its comparison with CU-Net, and its two larger networks
        _entry("sgpose_0m5_1s", 1, 68, (504_338, 768_213_408), (0.5, 0.80, "81.6")),
        _entry("sgpose_1m0_2s", 2, 68, (975_475, 1_278_858_048), (1.0, 1.39, "84.8")),
        _entry("sgpose_1m4_2s", 2, 80, (1_345_432, 1_733_268_480), (1.4, 1.75, "85.7")),
        _entry("sgpose_1m9_2s", 2, 96, (1_931_024, 2_445_889_536), (1.9, 2.43, "86.4")),
        _entry("sgpose_2m4_2s", 2, 108, (2_439_455, 3_060_410_688), (2.4, 3.10, "86.7")),
        _entry("sgpose_2m9_2s", 2, 120, (3_007_232, 3_743_550_720), (2.9, 3.75, "87.1")),
        _entry("sgpose_3m4_2s", 2, 128, (3_418_720, 4_237_099_008), (3.4, 4.27, "88.0")),
        _entry("sgpose_small_4s", 4, 144, (8_514_568, 9_853_396_992), (8.5, 9.9, "89.5 val, 91.1 test")),
        _entry("sgpose_wide_4s", 4, 256, (26_804_672, 30_570_708_992), (26.0, None, "92.4 test")),
        # what the paper compares itself with; CU-Net at those of its budgets that its design meets within 5 %
        _entry("cunet_1m0_2s", 2, 92, (985_780, 1_420_559_488), (1.0, 1.39, None), "cunet"),
        _entry("cunet_2m9_2s", 2, 156, (2_794_740, 3_808_851_072), (2.9, 3.75, None), "cunet"),
        _entry("cunet_3m4_2s", 2, 168, (3_236_520, 4_384_547_328), (3.4, 4.27, None), "cunet"),
        _entry("cunet_4s", 4, 128, (4_126_848, 5_383_127_040), (4.0, 5.17, None), "cunet"),
        _entry("cunet_8s", 8, 128, (9_698_944, 12_242_649_088), (10.1, 12.7, None), "cunet"),
        _entry("hourglass_8s", 8, 256, (25_434_112, 27_440_185_344), (25.4, None, None), "hourglass"),
    )
)


def list_models(pattern: str = "*") -> list[str]:
    """The names in the zoo that match a wildcard such as ``"sgpose_*_2s"``: ours, smallest first, then others'."""
    return [name for name in MODELS if fnmatch.fnmatchcase(name, pattern)]


def list_pretrained(pattern: str = "*") -> list[str]:
    """The names ``model.tag`` of all published weights that match a wildcard.

    A pattern without a dot is matched against the model's name.
    """
    return [entry.name for entry in pretrained_entries(pattern)]


def pretrained_entries(pattern: str = "*") -> list[PretrainedEntry]:
    """The entries of the weights that ``list_pretrained`` names."""
    return [
        entry
        for name, entry in _pretrained().items()
        if fnmatch.fnmatchcase(name if "." in pattern else entry.model, pattern)
    ]


def get_entry(name: str) -> ModelEntry:
    """The entry of a named config."""
    if name not in MODELS:
        close = " or ".join(map(repr, difflib.get_close_matches(name, MODELS, n=2, cutoff=0.6)))
        hint = f" Did you mean {close}?" if close else ""
        raise ValueError(f"Unknown model {name!r}.{hint} list_models() shows all {len(MODELS)}.")
    return MODELS[name]


def get_pretrained(name: str) -> PretrainedEntry:
    """The published weights ``model`` (its first) or ``model.tag``."""
    model, dot, tag = name.partition(".")
    get_entry(model)
    published = [entry for entry in _pretrained().values() if entry.model == model]
    if not published:
        raise ValueError(
            f"No weights of {model!r} are published yet. Weights exist for: {', '.join(_pretrained()) or 'none'}. "
            "Build the network without them (pretrained=False), or load your own (checkpoint=...)."
        )
    for entry in published:
        if not dot or entry.tag == tag:
            return entry
    raise ValueError(f"No weights {name!r}; {model} has {', '.join(repr(entry.name) for entry in published)}.")


@cache
def _pretrained() -> Mapping[str, PretrainedEntry]:
    """All published weights, in the order of ``index.json``.

    A model's first are its default, and the first of all are the command line's.
    """
    rows = json.loads((BUNDLED / "index.json").read_text(encoding="utf-8"))
    entries = [
        PretrainedEntry(folder=BUNDLED / f"{row['model']}.{row['tag']}" if row.pop("bundled", False) else None, **row)
        for row in rows
    ]
    return {entry.name: entry for entry in entries}
