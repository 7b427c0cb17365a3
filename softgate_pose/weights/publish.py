"""Publish the weights of the package on the Hugging Face Hub, byte for byte, each in a repository of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

from softgate_pose import zoo
from softgate_pose.weights import files as weights
from softgate_pose.weights.card import model_card
from softgate_pose.weights.hub import upload
from softgate_pose.weights.record import CARD_FILE, CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE, read_training
from softgate_pose.zoo import PretrainedEntry

__all__ = ["Publication", "index_row", "plan", "publish"]


@dataclasses.dataclass(frozen=True)
class Publication:
    """A repository as it will be published.

    Attributes:
        weights: The bundled weights.
        repo: ``owner/model.tag``.
        files: Name to content: the bundled files as they are, and a model card that names ``repo``.
    """

    weights: PretrainedEntry
    repo: str
    files: dict[str, bytes]


def plan(owner: str, pattern: str = "*") -> list[Publication]:
    """What ``publish`` would upload: the bundled weights that match a wildcard, checked against their sha256."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    bundled = [entry for entry in zoo.pretrained_entries() if entry.folder is not None]
    entries = [entry for entry in zoo.pretrained_entries(pattern) if entry in bundled]
    if not entries:
        names = ", ".join(entry.name for entry in bundled)
        raise ValueError(f"No bundled weights match {pattern!r}; there are: {names or 'none'}.")
    publications = []
    for entry in entries:
        assert entry.folder is not None
        repo = f"{owner}/{entry.name}"
        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise ValueError(
                f"{owner!r} cannot be an owner on the Hub, expected a user or organisation: {error}"
            ) from None
        checkpoint = weights.fetch_published(entry)
        assert checkpoint.config is not None
        text = model_card(checkpoint.config, read_training(entry), f"hf-hub:{repo}", entry.sha256)
        files = {name: (entry.folder / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE, TRAINING_FILE)}
        publications.append(Publication(entry, repo, {CARD_FILE: text.encode(), **files}))
    return publications


def publish(publication: Publication, *, private: bool = False) -> tuple[PretrainedEntry, bool]:
    """Upload in one commit, with the token that you logged in with, and download the weights again to check them.

    A repository that exists stays public or private, and gets a commit with the files that differ, or none.

    Returns:
        The weights with the repository and the commit's hash, to be pinned, and whether anything was new.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise PermissionError(
            "Not logged in to the Hub: run `hf auth login`, or set HF_TOKEN to a token that may write."
        )
    repo, message = publication.repo, f"Publish {publication.weights.name}"
    revision, changed = upload(repo, publication.files, message, private=private)
    published = dataclasses.replace(publication.weights, folder=None, repo=repo, revision=revision)
    weights.fetch_published(published)
    return published, changed


def index_row(entry: PretrainedEntry) -> dict[str, Any]:
    """The row of ``pretrained/index.json`` for bundled weights that are published, too."""
    row = {"model": entry.model, "tag": entry.tag, "sha256": entry.sha256, "bundled": True}
    return row | ({"repo": entry.repo, "revision": entry.revision} if entry.repo is not None else {})
