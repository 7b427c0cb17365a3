"""A Hub that goes wrong: every failure says what to do, and the next good download gives the right weights."""

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hub_server import TINY_NETWORK, assert_same_weights

from softgate_pose import create_model, zoo
from softgate_pose.cli import main
from softgate_pose.weights.files import weights_digest

NAME = "hf-hub:someone/tiny"
WEIGHTS = r"model\.safetensors"
GATED = {"X_Error_Code": "GatedRepo"}
NOBODY = 65534


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """huggingface_hub waits longer and longer between its tries, and has no setting for that."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def repo(hub, saved):
    """The commit of ``someone/tiny``."""
    return hub.commit("someone/tiny", saved)


def assert_recovers(hub, tiny_model, name=NAME, **settings):
    hub.recover()
    assert_same_weights(create_model(name, **settings), tiny_model)


def without_ids(text):
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "", text)


def assert_plain_error(error, name=NAME):
    """The command line prints the same, without a traceback."""
    result = CliRunner().invoke(main, ["export", name, "never.onnx"])
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert without_ids(result.output).endswith(without_ids(f"Error: {error}\n"))
    assert "Traceback" not in result.output


@pytest.mark.parametrize("on", ["HEAD .*", f"GET .*{WEIGHTS}"], ids=["HEAD", "GET"])
@pytest.mark.parametrize(
    ("status", "headers", "kind", "match"),
    [
        (401, {}, PermissionError, r"refuses.*`hf auth login`.*HF_TOKEN"),
        (401, {"X_Error_Code": "RepoNotFound"}, FileNotFoundError, r"no such model.*name.*log in"),
        (403, GATED, PermissionError, r"gated.*log in"),
        (403, {}, PermissionError, r"refuses.*log in.*403"),
        (404, {"X_Error_Code": "RepoNotFound"}, FileNotFoundError, r"no such model.*name"),
        (404, {"X_Error_Code": "RevisionNotFound"}, FileNotFoundError, r"no such model or revision"),
        (404, {"X_Error_Code": "EntryNotFound"}, FileNotFoundError, r"no such file"),
        (429, {"Retry_After": "7"}, OSError, r"not in the cache.*Wait.*429"),
        (500, {}, OSError, r"Wait.*500"),
        (503, {}, OSError, r"Wait.*503"),
    ],
)
def test_a_status_is_explained(hub, repo, tiny_model, on, status, headers, kind, match):
    hub.break_down(on, status=status, headers=headers)
    with pytest.raises(kind, match=rf"(config\.json|{WEIGHTS}) of someone/tiny .*{match}") as caught:
        create_model(NAME)
    assert type(caught.value) is kind
    assert_plain_error(caught.value)
    assert_recovers(hub, tiny_model)


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_what_is_in_the_cache_needs_no_healthy_hub(hub, repo, tiny_model, status):
    create_model(NAME)
    hub.break_down(".*", status=status)
    assert_same_weights(create_model(NAME), tiny_model)


def test_a_connection_dropped_half_way(hub, repo, tiny_model, saved):
    """huggingface_hub tries again by itself, but its oldest versions leave that to whoever called."""
    hub.break_down(f"GET .*{WEIGHTS}", cut=len(saved["model.safetensors"]) // 2, times=1)
    try:
        model = create_model(NAME)
    except OSError as error:
        assert "try again" in str(error)  # noqa: PT017
        model = create_model(NAME)
    assert_same_weights(model, tiny_model)


@pytest.mark.parametrize("cut", [0, 1000])
def test_a_file_that_never_comes_whole(hub, repo, tiny_model, cut):
    """Its status and the size it announces are right."""
    hub.break_down(f"GET .*{WEIGHTS}", cut=cut)
    with pytest.raises(OSError, match=rf"{WEIGHTS} of someone/tiny .*try again") as caught:
        create_model(NAME)
    assert_plain_error(caught.value)
    assert_recovers(hub, tiny_model)


def test_a_file_that_is_short(hub, repo, tiny_model, saved):
    hub.break_down(f"GET .*{WEIGHTS}", body=saved["model.safetensors"][:-1])
    with pytest.raises(OSError, match=rf"{WEIGHTS} of someone/tiny .*OSError.*try again") as caught:
        create_model(NAME)
    assert_plain_error(caught.value)
    assert_recovers(hub, tiny_model)


def test_a_slow_server_is_waited_for_while_it_sends(hub, repo, tiny_model, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)  # the variable takes whole seconds
    hub.break_down(f"GET .*{WEIGHTS}", pause=0.1)
    assert_same_weights(create_model(NAME), tiny_model)


def test_a_server_that_stalls(hub, repo, tiny_model, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    hub.break_down("GET .*", pause=30)
    with pytest.raises(OSError, match=r"someone/tiny .*(Timeout|ConnectionError).*try again"):
        create_model(NAME)
    assert_recovers(hub, tiny_model)


def test_a_cached_file_does_not_wait_long_for_a_server_that_stalls(hub, repo, tiny_model, monkeypatch):
    from huggingface_hub import constants

    create_model(NAME)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    hub.break_down("HEAD .*", pause=30)
    assert_same_weights(create_model(NAME), tiny_model)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_page_instead_of_a_file(hub, repo, tiny_model, saved, name):
    """A proxy's page is not taken; nor is one that passes for the file, and the cache does not keep it."""
    page = b"<html>Sign in</html>"
    hub.break_down(name, body=page, bare=True)
    with pytest.raises(OSError, match=rf"{name} of someone/tiny .*not the Hub.*Sign in") as caught:
        create_model(NAME)
    assert_plain_error(caught.value)
    hub.recover()
    hub.break_down(f"GET .*{name}", body=page.ljust(len(saved[name])))
    with pytest.raises(ValueError, match=name) as caught:
        create_model(NAME)
    assert_plain_error(caught.value)
    assert_recovers(hub, tiny_model)


def test_a_page_in_the_cache_is_kept_no_longer_than_the_hub_is_down(hub, repo, tiny_model, saved):
    pinned = f"{NAME}@{repo}"
    hub.break_down(f"GET .*{WEIGHTS}", body=b"<html>".ljust(len(saved["model.safetensors"])))
    with pytest.raises(ValueError, match=WEIGHTS):
        create_model(pinned)
    hub.recover()
    hub.break_down(".*", status=503)
    with pytest.raises(ValueError, match=rf"{WEIGHTS}.*safetensors file.*someone/tiny@\w+ .*503"):
        create_model(pinned)
    assert_recovers(hub, tiny_model, pinned)


def test_a_wrong_hash_is_downloaded_again_and_then_refused(hub, published, tiny_model, monkeypatch):
    wrong = dataclasses.replace(published, sha256="0" * 64)
    with monkeypatch.context() as patch:
        patch.setattr(zoo, "_pretrained", lambda: {wrong.name: wrong})
        with pytest.raises(RuntimeError, match=r"sgpose_0m5_1s\.test.*expected 0000") as caught:
            create_model("sgpose_0m5_1s", pretrained=True)
        downloads = [request for request in hub.requests if request.startswith("GET") and "safetensors" in request]
        assert len(downloads) == 2
        assert_plain_error(caught.value, "sgpose_0m5_1s")
    assert_recovers(hub, tiny_model, "sgpose_0m5_1s", pretrained=True, **TINY_NETWORK)


def flipped(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [flipped, lambda content: content[:100], lambda content: b""])
def test_published_weights_that_come_damaged_are_downloaded_again(hub, published, tiny_model, saved, damage):
    file = damage(saved["model.safetensors"]).ljust(len(saved["model.safetensors"]), b"\0")
    hub.break_down(f"GET .*{WEIGHTS}", body=file, times=1)
    assert_same_weights(create_model("sgpose_0m5_1s", pretrained=True, **TINY_NETWORK), tiny_model)


@pytest.mark.parametrize("damage", [flipped, lambda content: content[:100], lambda content: b""])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_cache_mends_itself(hub, published, tiny_model, name, damage):
    create_model("sgpose_0m5_1s", pretrained=True, **TINY_NETWORK)
    (cached,) = Path(os.environ["HF_HUB_CACHE"]).rglob(name)
    content = cached.read_bytes()
    cached.resolve().write_bytes(damage(content) if name == "model.safetensors" else content[:100])
    hub.down = True
    with pytest.raises((RuntimeError, ValueError), match=rf"{name}.*try again"):
        create_model("sgpose_0m5_1s", pretrained=True, **TINY_NETWORK)
    assert_recovers(hub, tiny_model, "sgpose_0m5_1s", pretrained=True, **TINY_NETWORK)


def test_a_full_disk(hub, repo, tiny_model):
    """A limit on the size of files stands for it."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match=r"File too large.*HF_HUB_CACHE") as caught:
            create_model(NAME)
        assert_plain_error(caught.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_recovers(hub, tiny_model)


@contextlib.contextmanager
def read_only(folder):
    """Nothing below may be written, by root neither."""
    paths = [folder, *(path for path in folder.rglob("*") if not path.is_symlink())]
    modes = {path: path.stat().st_mode for path in paths}
    for path, mode in modes.items():
        path.chmod(mode & 0o555 | 0o444 | (0o111 if path.is_dir() else 0))
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are of another kind here")
def test_a_read_only_cache(hub, repo, tiny_model, monkeypatch):
    from huggingface_hub import constants

    # not below tmp_path, where nobody else may look
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", folder)
        create_model(NAME)
        create_model(f"{NAME}@{repo}")
        with read_only(Path(folder)):
            hub.requests.clear()
            assert_same_weights(create_model(f"{NAME}@{repo}"), tiny_model)
            assert hub.requests == []
            assert_same_weights(create_model(NAME), tiny_model)
            hub.commit("someone/other", hub.repos["someone/tiny"][repo])
            with pytest.raises(OSError, match=r"cache .*HF_HUB_CACHE") as caught:
                create_model("hf-hub:someone/other")
            assert_plain_error(caught.value, "hf-hub:someone/other")
        assert_recovers(hub, tiny_model, "hf-hub:someone/other")


def run(code, **environment):
    code = f"from softgate_pose import create_model\nfrom softgate_pose.weights.files import weights_digest\n{code}"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_processes_download_the_same_file_at_once(hub, repo, tiny_model):
    """Neither starts before the other is there, and the first is slow."""
    hub.break_down(f"HEAD .*{WEIGHTS}", meet=threading.Barrier(2), times=2)
    hub.break_down(f"GET .*{WEIGHTS}", pause=0.05)
    processes = [run(f"print(weights_digest(create_model({NAME!r})))") for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert outputs == [f"{weights_digest(tiny_model)}\n"] * 2
    hub.requests.clear()
    assert_same_weights(create_model(f"{NAME}@{repo}"), tiny_model)
    assert hub.requests == []


def test_offline_the_cache_is_used_and_what_it_lacks_is_said(hub, repo, tiny_model):
    create_model(NAME)
    hub.requests.clear()
    code = f"print(weights_digest(create_model({NAME!r})), flush=True)\ncreate_model('hf-hub:someone/other')"
    output, _ = run(code, HF_HUB_OFFLINE="1").communicate(timeout=120)
    assert output.splitlines()[0] == weights_digest(tiny_model)
    assert re.match(r"OSError: config\.json of someone/other .*HF_HUB_OFFLINE.*local-dir:", output.splitlines()[-1])
    assert hub.requests == []


@pytest.mark.parametrize("how", ["hangs up", "nobody listens"])
def test_a_hub_that_cannot_be_reached(hub, repo, tiny_model, monkeypatch, how):
    create_model(NAME)
    hub.commit("someone/other", hub.repos["someone/tiny"][repo])
    with monkeypatch.context() as patch:
        if how == "hangs up":
            hub.down = True
        else:
            from huggingface_hub import constants, file_download

            nowhere = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
            for module in (constants, file_download):  # of HF_ENDPOINT, when it was imported; old versions copy it
                patch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere, raising=False)
        assert_same_weights(create_model(NAME), tiny_model)
        with pytest.raises(OSError, match=r"config\.json of someone/other .*try again") as caught:
            create_model("hf-hub:someone/other")
        assert_plain_error(caught.value, "hf-hub:someone/other")
    assert_recovers(hub, tiny_model, "hf-hub:someone/other")
