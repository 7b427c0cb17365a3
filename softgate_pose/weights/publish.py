"""Publish the weights of the package on the Hugging Face Hub, byte for byte, each in a repository of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

from softgate_pose import zoo
from softgate_pose.weights import files as weights
from softgate_pose.weights.card import model_card
from softgate_pose.weights.hub import explained_upload
from softgate_pose.weights.record import CARD_FILE, CONFIG_FILE, TRAINING_FILE
from softgate_pose.zoo import PretrainedEntry

__all__ = ["Publication", "index_row", "plan", "publish"]


@dataclasses.dataclass(frozen=True)
class Publication:
    """One repository, as it is to be.

    Attributes:
        weights: The bundled weights.
        repo: ``owner/model.tag``.
        files: Name to content: the bundled files as they are, and a model card that names ``repo``.
    """

    weights: PretrainedEntry
    repo: str
    files: dict[str, bytes]


def plan(owner: str, pattern: str = "*") -> list[Publication]:
    """What ``publish`` would upload: the bundled weights that match a wildcard, checked against their sha256.

    Args:
        owner: A user or organisation of the Hub.
        pattern: See ``list_pretrained``.

    Raises:
        RuntimeError: If bundled weights are not those that the index names.
        ValueError: If nothing matches, or the Hub allows no such owner.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    entries = [entry for entry in zoo.pretrained_entries(pattern) if entry.folder is not None]
    if not entries:
        bundled = [entry.name for entry in zoo.pretrained_entries() if entry.folder is not None]
        raise ValueError(f"No bundled weights match {pattern!r}; there are: {', '.join(bundled) or 'none'}.")
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
        config = zoo.read_config(entry)
        assert config is not None
        text = model_card(config, zoo.read_training(entry), f"hf-hub:{repo}", entry.sha256)
        files = {CARD_FILE: text.encode()}
        for file in (entry.folder / CONFIG_FILE, weights.find_published(entry).file, entry.folder / TRAINING_FILE):
            files[file.name] = file.read_bytes()
        publications.append(Publication(entry, repo, files))
    return publications


def publish(publication: Publication, *, private: bool = False) -> tuple[PretrainedEntry, bool]:
    """Upload in one commit, with the token that you logged in with, and download the weights again to check them.

    A repository that exists gets a commit with the files that differ, and none if all are there already.

    Args:
        publication: From ``plan``.
        private: Whether a new repository is private; one that exists stays as it is.

    Returns:
        The weights with the repository and the commit's hash, to be pinned, and whether anything was new.

    Raises:
        OSError: If the Hub cannot be reached or refuses; PermissionError if you are not logged in.
        RuntimeError: If the weights on the Hub are not the bundled ones afterwards.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if get_token() is None:
        raise PermissionError(
            "Not logged in to the Hub: run `hf auth login`, or set HF_TOKEN to a token that may write."
        )
    api, repo = HfApi(), publication.repo
    with explained_upload(repo):
        api.create_repo(repo, private=private, exist_ok=True)
        before = api.model_info(repo).sha
        commit = api.create_commit(
            repo,
            [CommitOperationAdd(name, content) for name, content in publication.files.items()],
            commit_message=f"Publish {publication.weights.name}",
        )
    published = dataclasses.replace(publication.weights, folder=None, repo=repo, revision=commit.oid)
    weights.find_published(published)
    return published, commit.oid != before


def index_row(entry: PretrainedEntry) -> dict[str, Any]:
    """The row of ``pretrained/index.json`` for bundled weights that are published, too."""
    row = {"model": entry.model, "tag": entry.tag, "sha256": entry.sha256, "bundled": True}
    return row | ({"repo": entry.repo, "revision": entry.revision} if entry.repo is not None else {})
