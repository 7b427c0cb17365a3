"""Files of a Hugging Face Hub repository, through its cache, with errors that say what to do."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

__all__ = ["fetch_files", "upload"]

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def fetch_files(repo: str, revision: str | None, names: tuple[str, ...], *, force: bool = False) -> Path:
    """The folder of the cache that holds these files of one revision, downloaded if missing or forced.

    With a full commit hash as revision a cached file needs no request.
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
                kind, reason = _explain(error)
                absent = "cannot be downloaded" if force else "is not in the cache and cannot be downloaded"
                raise kind(f"{name} of {where} {absent}: {reason}.") from error
    return Path(str(file)).parent


def upload(
    repo: str, files: Mapping[str, bytes], message: str, *, private: bool, token: str | None = None
) -> tuple[str, bool]:
    """Commit files to a repository, created if missing; the commit's hash, and whether anything was new."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        before = api.model_info(repo).sha
        additions = [CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit(repo, additions, commit_message=message)
    except ValueError:  # says enough: the repository's name
        raise
    except Exception as error:  # the HTTP client's own types differ between versions of huggingface_hub
        raise OSError(f"{repo} cannot be published: {type(error).__name__}: {error}") from error
    return str(commit.oid), commit.oid != before


def _is_missing(error: BaseException) -> bool:
    """Whether the Hub answered that the repository, the revision or the file does not exist."""
    from huggingface_hub import errors

    missing = (errors.EntryNotFoundError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
    # a gated repository is there, and what the cache lacks may be on the Hub
    return isinstance(error, missing) and not isinstance(error, (errors.GatedRepoError, errors.LocalEntryNotFoundError))


def _explain(error: BaseException) -> tuple[type[OSError], str]:
    """Why a download failed and what to do, and the type of error that this is."""
    from huggingface_hub import constants, errors

    # these two only describe the cache, or force; the Hub's own error is their cause
    if (isinstance(error, errors.LocalEntryNotFoundError) or type(error) is ValueError) and error.__cause__:
        error = error.__cause__
    message = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", 0)
    elsewhere = "or pass checkpoint= or local-dir: for weights on this machine"
    if isinstance(error, errors.EntryNotFoundError) and _is_missing(error):
        return FileNotFoundError, "there is no such file; what save_pretrained writes is read, safetensors alone"
    if _is_missing(error):
        there = "there is no such model or revision, or it is private"
        return FileNotFoundError, f"{there}. Check the name, or {_LOG_IN} ({message})"
    if isinstance(error, errors.GatedRepoError):
        return PermissionError, f"it is gated. Ask for access on its page on the Hub, then {_LOG_IN} ({message})"
    if status in (401, 403):
        return PermissionError, f"the Hub refuses it: {_LOG_IN} to a token that may read it ({message})"
    if status == 429 or status >= 500:
        return OSError, f"the Hub does not serve it now. Wait some minutes, then try again ({message})"
    if isinstance(error, OSError) and error.errno in _NO_SPACE + _NO_ACCESS:
        cache = f"the cache {constants.HF_HUB_CACHE} cannot be written: {message}"
        return OSError, f"{cache}. Make room, or set HF_HUB_CACHE to another folder that you may write to"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return OSError, f"HF_HUB_OFFLINE is set. Unset it, {elsewhere}"
    if isinstance(error, errors.FileMetadataError):
        page = f"what answers at {constants.ENDPOINT} is not the Hub, but perhaps a proxy or a network's sign-in page"
        return OSError, f"{page}. Sign in, {elsewhere} ({message})"
    return OSError, f"{type(error).__name__}: {message}. Check the connection and try again, {elsewhere}"
