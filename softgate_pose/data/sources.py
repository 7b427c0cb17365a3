"""Readers of annotations: one for each kind of data set, all giving the same table of people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from softgate_pose.data.coco import CocoAnnotations, coco_people, find_coco, read_coco, read_coco_annotations
from softgate_pose.data.lsp import read_lsp, read_lspet
from softgate_pose.data.mpii import read_mpii_json, read_mpii_mat
from softgate_pose.data.people import People

__all__ = ["READERS", "parse_source", "read_people", "read_people_and_coco"]

READERS: dict[str, Callable[[Path, str], People]] = {
    "coco": read_coco,
    "lsp": read_lsp,
    "lspet": read_lspet,
    "mpii": read_mpii_json,
    "mpii-mat": read_mpii_mat,
}
"""The reader of each kind of data, from a folder and a split to people, with the files that were read."""


def read_people(source: str) -> People:
    """The people of ``KIND:FOLDER:SPLIT``, such as ``lsp:data/lsp:test``.

    Kinds are coco, lsp, lspet, mpii (the JSON layout) and mpii-mat (the official release).

    Raises:
        FileNotFoundError: If the folder lacks the annotations.
        ValueError: If the source is not of that form, the annotations are of another kind, or they hold nobody.
    """
    kind, folder, split = parse_source(source)
    return READERS[kind](folder, split)


def read_people_and_coco(source: str) -> tuple[People, CocoAnnotations | None]:
    """As ``read_people``; for coco: data also the annotations that the people come from."""
    kind, folder, split = parse_source(source)
    if kind != "coco":
        return READERS[kind](folder, split), None
    annotations = read_coco_annotations(find_coco(folder, split))
    return coco_people(annotations, folder, split), annotations


def parse_source(source: str) -> tuple[str, Path, str]:
    """The kind, folder and split of ``KIND:FOLDER:SPLIT``."""
    kind, _, rest = source.partition(":")
    folder, _, split = rest.rpartition(":")
    if kind not in READERS or not folder or not split:
        raise ValueError(f"Data is KIND:FOLDER:SPLIT with KIND one of {', '.join(READERS)}; got {source!r}.")
    return kind, Path(folder), split
