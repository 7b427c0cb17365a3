"""Weights from a Hub, over HTTP, through huggingface_hub itself."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from softgate_pose import create_model, push_to_hub, save_pretrained, zoo


@pytest.fixture
def hub(request):
    """The session's Hub, empty, and an empty cache."""
    hub = request.config.hub
    hub.clear()
    shutil.rmtree(os.environ["HF_HUB_CACHE"], ignore_errors=True)
    yield hub
    hub.clear()


@pytest.fixture
def saved(tiny_model, tmp_path):
    """The files of a saved model, by name."""
    folder = save_pretrained(tiny_model, tmp_path / "saved")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


TINY = {"num_stacks": 2, "width": 8, "depth": 2}


def assert_same_weights(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key


def test_download_gives_config_and_weights(hub, saved, tiny_model):
    hub.commit("someone/tiny", saved)
    model = create_model("hf-hub:someone/tiny")
    assert model.config == tiny_model.config
    assert_same_weights(model, tiny_model)
    assert not model.training


def test_nothing_but_data_is_fetched(hub, saved):
    hub.commit("someone/tiny", {**saved, "setup.py": b"raise SystemExit", "pytorch_model.bin": b"\x80\x02"})
    create_model("hf-hub:someone/tiny")
    fetched = {request.rsplit("/", 1)[1] for request in hub.requests if request.startswith("GET /someone")}
    assert fetched == {"config.json", "model.safetensors"}


def test_a_pinned_revision_in_the_cache_needs_no_request(hub, saved, tiny_model):
    revision = hub.commit("someone/tiny", saved)
    hub.commit("someone/tiny", {"config.json": b"{}"})
    create_model(f"hf-hub:someone/tiny@{revision}")
    hub.requests.clear()
    assert_same_weights(create_model(f"hf-hub:someone/tiny@{revision}"), tiny_model)
    assert hub.requests == []


def test_offline_uses_the_cache_and_says_what_is_missing(hub, saved):
    hub.commit("someone/tiny", saved)
    code = (
        "import sys; from softgate_pose import create_model\n"
        "try: print(create_model(sys.argv[1]).config.name)\n"
        "except OSError as error: print(type(error).__name__, error)"
    )

    def run(name, **extra):
        return subprocess.run(
            [sys.executable, "-c", code, name], env={**os.environ, **extra}, capture_output=True, text=True, check=True
        ).stdout

    assert "tiny" in run("hf-hub:someone/tiny")
    hub.requests.clear()
    assert "tiny" in run("hf-hub:someone/tiny", HF_HUB_OFFLINE="1")
    message = run("hf-hub:someone/other", HF_HUB_OFFLINE="1")
    assert "not in the cache" in message
    assert "checkpoint=" in message
    assert hub.requests == []


def test_a_hub_that_is_down_is_an_error_that_says_so(hub, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # huggingface_hub waits between its tries
    hub.down = True
    with pytest.raises(OSError, match=r"config\.json of someone/tiny (is not in the cache|cannot be downloaded)"):
        create_model("hf-hub:someone/tiny")


def test_missing_things_are_named(hub, saved):
    hub.commit("someone/pickled", {"config.json": saved["config.json"], "pytorch_model.bin": b"\x80\x02"})
    with pytest.raises(FileNotFoundError, match=r"no model someone/nothing"):
        create_model("hf-hub:someone/nothing")
    with pytest.raises(FileNotFoundError, match=r"no model someone/pickled@0123"):
        create_model("hf-hub:someone/pickled@0123456789012345678901234567890123456789")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors; .*safetensors alone"):
        create_model("hf-hub:someone/pickled")
    with pytest.raises(ValueError, match="owner/name"):
        create_model("hf-hub:some one/too/many")


def test_a_damaged_file_is_named(hub, saved):
    hub.commit("someone/torn", {**saved, "model.safetensors": saved["model.safetensors"][:100]})
    with pytest.raises(ValueError, match="not a valid safetensors file"):
        create_model("hf-hub:someone/torn")
    hub.commit("someone/html", {**saved, "config.json": b"<html>Sign in</html>"})
    with pytest.raises(ValueError, match=r"config of .* cannot be used: .*not JSON"):
        create_model("hf-hub:someone/html")


@pytest.fixture
def published(hub, saved, monkeypatch):
    """A zoo whose only weights are on the Hub, pinned by revision and hash."""
    revision = hub.commit("ours/sgpose", saved)
    digest = hashlib.sha256(saved["model.safetensors"]).hexdigest()
    entry = zoo.PretrainedEntry("sgpose_0m5_1s", "test", digest, None, "ours/sgpose", revision)
    monkeypatch.setattr(zoo, "_pretrained", lambda: {entry.name: entry})
    return entry


def test_published_weights_are_downloaded_pinned_and_verified(hub, published, tiny_model):
    assert zoo.list_pretrained() == ["sgpose_0m5_1s.test"]
    for name in ("sgpose_0m5_1s", "sgpose_0m5_1s.test"):
        assert_same_weights(create_model(name, pretrained=True, **TINY), tiny_model)
    assert all(published.revision in request for request in hub.requests)


def test_a_wrong_hash_is_downloaded_again_and_then_refused(hub, published, monkeypatch):
    wrong = dataclasses.replace(published, sha256="0" * 64)
    monkeypatch.setattr(zoo, "_pretrained", lambda: {wrong.name: wrong})
    with pytest.raises(RuntimeError, match=r"not the published sgpose_0m5_1s\.test: sha256 .*expected 0000"):
        create_model("sgpose_0m5_1s", pretrained=True)
    downloads = [request for request in hub.requests if request.startswith("GET") and "safetensors" in request]
    assert len(downloads) == 2


def test_a_damaged_cache_mends_itself(hub, published, tiny_model):
    create_model("sgpose_0m5_1s", pretrained=True, **TINY)
    (cached,) = Path(os.environ["HF_HUB_CACHE"]).rglob("model.safetensors")
    broken = bytearray(cached.read_bytes())
    broken[-1] ^= 1
    cached.resolve().write_bytes(broken)
    assert_same_weights(create_model("sgpose_0m5_1s", pretrained=True, **TINY), tiny_model)


def test_pushing_and_loading_round_trips(hub, tiny_model):
    training = {
        "data": ["Made data, 3 people"],
        "licence": "CC0-1.0",
        "metrics": [{"data": "made", "protocol": "PCK@0.2", "mean": 12.5}],
        "recipe": {"epochs": 1},
        "command": "softgate-pose train tiny",
    }
    revision = push_to_hub(tiny_model, "someone/pushed", training=training, token="hf_test")
    model = create_model(f"hf-hub:someone/pushed@{revision}")
    assert_same_weights(model, tiny_model)
    files = hub.repos["someone/pushed"][revision]
    assert set(files) == {"README.md", "config.json", "model.safetensors", "training.json"}
    assert json.loads(files["training.json"]) == training
    card = files["README.md"].decode()
    for text in ("Made data, 3 people", "CC0-1.0", "PCK@0.2", "12.5", "softgate-pose train tiny", "create_model("):
        assert text in card


def test_the_card_is_valid_for_the_hub(hub, tiny_model, tmp_path):
    from huggingface_hub import ModelCard

    folder = save_pretrained(tiny_model, tmp_path / "card", training={"licence": "Research: only, 'really'"})
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "softgate_pose"
    assert card.data.to_dict()["license_name"] == "Research: only, 'really'"
    assert "Not stated." in card.text
