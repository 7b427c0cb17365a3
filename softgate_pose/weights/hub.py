"""Files of a Hugging Face Hub repository, through its cache, with errors that say what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["download", "explained_upload"]

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def download(repo: str, revision: str | None, names: tuple[str, ...], *, force: bool = False) -> Path:
    """The folder of the cache that holds these files of one revision, downloaded where it lacks them.

    Args:
        repo: ``owner/name``.
        revision: A branch, a tag or a commit; None for ``main``. With a full commit hash a cached file
            needs no request.
        names: The files' names. The folder is that of the last one.
        force: Whether to download them even if the cache has them.

    Raises:
        FileNotFoundError: If the repository, the revision or a file does not exist.
        OSError: If a file cannot be downloaded and the cache has no copy; ``PermissionError`` if the Hub
            refuses it.
        ValueError: If the repository's name is malformed.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache  # slow to load, and only the Hub needs it
    from huggingface_hub.errors import HFValidationError

    where = f"{repo}@{revision}" if revision else repo
    file: object = None
    for name in names:
        try:
            file = hf_hub_download(repo, name, revision=revision, force_download=force)
        except HFValidationError as error:
            raise ValueError(f"{repo!r} is not a Hub repository, expected owner/name: {error}") from None
        except Exception as error:  # the HTTP client's own types differ between versions of huggingface_hub
            # after some of them, such as a server that hangs up, it does not look into the cache itself
            file = None if force or _is_missing(error) else try_to_load_from_cache(repo, name, revision=revision)
            if not isinstance(file, str):
                raise _explain(error, name, where, force) from error
    return Path(str(file)).parent


@contextmanager
def explained_upload(repo: str, *, clear: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Raise what goes wrong in an upload as an OSError that names the repository.

    Args:
        repo: ``owner/name``.
        clear: Errors that say enough, and are raised as they are.
    """
    try:
        yield
    except clear:
        raise
    except Exception as error:  # the HTTP client's own types differ between versions of huggingface_hub
        raise OSError(f"{repo} cannot be published: {type(error).__name__}: {error}") from error


def _is_missing(error: Exception) -> bool:
    """Whether the Hub answered that the repository, the revision or the file does not exist."""
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    return isinstance(error, (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError))


def _explain(error: Exception, name: str, where: str, force: bool) -> OSError:
    """What to raise for a download's error: what failed, why, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        FileMetadataError,
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cause = error
    # these two only tell of the cache, or of force; the Hub's own error is their cause
    if (isinstance(error, LocalEntryNotFoundError) or type(error) is ValueError) and error.__cause__ is not None:
        cause = error.__cause__  # type: ignore[assignment]
    said = " ".join(str(cause).split()).rstrip(".") or type(cause).__name__
    status = getattr(getattr(cause, "response", None), "status_code", None)
    number = cause.errno if isinstance(cause, OSError) else None
    absent = "cannot be downloaded" if force else "is not in the cache and cannot be downloaded"
    failed = f"{name} of {where} {absent}"

    if isinstance(cause, GatedRepoError):
        return PermissionError(f"{where} is gated: ask for access on its page on the Hub, then {_LOG_IN}. ({said})")
    if isinstance(cause, (RepositoryNotFoundError, RevisionNotFoundError)):
        return FileNotFoundError(
            f"The Hub has no model {where}, or it is private and you are not logged in: "
            f"check the name, or {_LOG_IN}. ({said})"
        )
    if _is_missing(cause) and not isinstance(cause, LocalEntryNotFoundError):
        return FileNotFoundError(
            f"{where} has no {name}; softgate_pose loads what save_pretrained or push_to_hub wrote, "
            "as safetensors alone."
        )
    if status in (401, 403):
        return PermissionError(f"{failed}: the Hub refuses it: {_LOG_IN} to a token that may read it. ({said})")
    if status == 429:
        return OSError(f"{failed}: too many requests. Wait some minutes, then try again, or {_LOG_IN}. ({said})")
    if isinstance(status, int) and status >= 500:
        return OSError(f"{failed}: the Hub itself fails. Try again later. ({said})")
    if number in _NO_SPACE:
        return OSError(f"{failed}: {said}. Make room, or set HF_HUB_CACHE to a folder on another disk.")
    if number in _NO_ACCESS:
        return OSError(
            f"{failed}: the cache {constants.HF_HUB_CACHE} cannot be written: {said}. "
            "Set HF_HUB_CACHE to a folder that you may write to."
        )
    elsewhere = "or pass checkpoint= or local-dir: for weights on this machine"
    if isinstance(cause, OfflineModeIsEnabled):
        return OSError(f"{failed}: HF_HUB_OFFLINE is set. Unset it, {elsewhere}.")
    if isinstance(cause, FileMetadataError):
        return OSError(
            f"{failed}: what answers at {constants.ENDPOINT} is not the Hub, but perhaps a proxy or a network's "
            f"sign-in page. Sign in, {elsewhere}. ({said})"
        )
    return OSError(f"{failed}: {type(cause).__name__}: {said}. Check the connection and try again, {elsewhere}.")
