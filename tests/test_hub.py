"""Weights from a Hub, over HTTP, through huggingface_hub itself."""

import json

import pytest
from hub_server import TINY_NETWORK, assert_same_weights

from softgate_pose import create_model, push_to_hub, save_pretrained, zoo


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


def test_the_network_alone_needs_no_download_of_its_weights(hub, saved, tiny_model, tmp_path):
    hub.commit("someone/tiny", saved)
    save_pretrained(tiny_model, tmp_path)
    assert create_model("hf-hub:someone/tiny", pretrained=False).config == tiny_model.config
    assert_same_weights(create_model("hf-hub:someone/tiny", checkpoint=tmp_path), tiny_model)
    assert not any("safetensors" in request for request in hub.requests)


def test_a_pinned_revision_in_the_cache_needs_no_request(hub, saved, tiny_model):
    revision = hub.commit("someone/tiny", saved)
    hub.commit("someone/tiny", {"config.json": b"{}"})
    create_model(f"hf-hub:someone/tiny@{revision}")
    hub.requests.clear()
    assert_same_weights(create_model(f"hf-hub:someone/tiny@{revision}"), tiny_model)
    assert hub.requests == []


def test_missing_things_are_named(hub, saved):
    hub.commit("someone/pickled", {"config.json": saved["config.json"], "pytorch_model.bin": b"\x80\x02"})
    with pytest.raises(FileNotFoundError, match=r"someone/nothing"):
        create_model("hf-hub:someone/nothing")
    with pytest.raises(FileNotFoundError, match=r"someone/pickled@0123"):
        create_model("hf-hub:someone/pickled@0123456789012345678901234567890123456789")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors of someone/pickled .*safetensors"):
        create_model("hf-hub:someone/pickled")
    with pytest.raises(ValueError, match=r"'some one/too/many'.*owner/name"):
        create_model("hf-hub:some one/too/many")


def test_a_damaged_file_is_named(hub, saved):
    hub.commit("someone/torn", {**saved, "model.safetensors": saved["model.safetensors"][:100]})
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        create_model("hf-hub:someone/torn")
    hub.commit("someone/html", {**saved, "config.json": b"<html>Sign in</html>"})
    with pytest.raises(ValueError, match=r"config\.json.*JSON"):
        create_model("hf-hub:someone/html")
    with pytest.raises(ValueError, match=r"config\.json.*JSON"):
        create_model("hf-hub:someone/html", pretrained=False)


def test_published_weights_are_downloaded_pinned_and_verified(hub, published, tiny_model):
    assert zoo.list_pretrained() == ["sgpose_0m5_1s.test"]
    for name in ("sgpose_0m5_1s", "sgpose_0m5_1s.test"):
        assert_same_weights(create_model(name, pretrained=True, **TINY_NETWORK), tiny_model)
    assert all(published.revision in request for request in hub.requests)


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


def test_pushing_without_a_connection_says_what_was_not_published(hub, tiny_model, monkeypatch):
    from huggingface_hub import HfApi

    class Refused(Exception):  # an HTTP client's own, which is no OSError
        pass

    def refuse(*_, **__):
        raise Refused("Connection refused")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(OSError, match=r"someone/pushed.*Refused: Connection refused"):
        push_to_hub(tiny_model, "someone/pushed", token="hf_test")


def test_the_card_is_valid_for_the_hub(hub, tiny_model, tmp_path):
    from huggingface_hub import ModelCard

    folder = save_pretrained(tiny_model, tmp_path / "card", training={"licence": "Research: only, 'really'"})
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "softgate_pose"
    assert card.data.to_dict()["license_name"] == "Research: only, 'really'"
    assert "Not stated." in card.text
