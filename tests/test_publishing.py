"""Publishing the bundled weights, over HTTP, to a Hub on loopback."""

import hashlib
import json
import os
import shutil

import pytest
import torch
from click.testing import CliRunner
from hub_server import assert_same_weights

from softgate_pose import create_model, save_pretrained, zoo
from softgate_pose.cli import main
from softgate_pose.weights.publish import plan

OTHER = (8).to_bytes(8, "little") + b"{}      "
"""A valid safetensors file, of no tensors."""


@pytest.fixture
def hub(hub, monkeypatch):
    """The session's Hub, that asks for a token; we are logged in."""
    hub.token = "hf_owner"
    monkeypatch.setenv("HF_TOKEN", hub.token)
    return hub


@pytest.fixture
def two_bundled(tiny_model, tmp_path, monkeypatch):
    """A zoo of two bundled weights and of one that is on the Hub alone."""
    entries = []
    for model in ("sgpose_0m5_1s", "sgpose_1m0_2s"):
        with torch.no_grad():
            tiny_model.stem[0].weight.add_(1)
        folder = save_pretrained(tiny_model, tmp_path / model, training={"licence": "CC0-1.0"}, dtype=torch.float16)
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        entries.append(zoo.PretrainedEntry(model, "made", digest, folder))
    entries.append(zoo.PretrainedEntry("sgpose_1m4_2s", "made", "0" * 64, None, "other/repo", "0" * 40))
    monkeypatch.setattr(zoo, "_pretrained", lambda: {entry.name: entry for entry in entries})
    return entries[:2]


def publish(*arguments):
    """Exit status, and what was printed."""
    result = CliRunner().invoke(main, ["publish", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def rows_of(output):
    return json.loads(output[output.index("[\n") :])


def test_every_bundled_model_would_be_published_byte_for_byte():
    publications = plan("owner")
    assert [publication.weights.name for publication in publications] == zoo.list_pretrained()
    for publication in publications:
        name, folder = publication.weights.name, publication.weights.folder
        assert publication.repo == f"owner/{name}"
        assert set(publication.files) == {file.name for file in folder.iterdir()}
        for file in ("config.json", "model.safetensors", "training.json"):
            assert publication.files[file] == (folder / file).read_bytes()
        card = (folder / "README.md").read_text("utf-8")
        assert publication.files["README.md"].decode() == card.replace(f'"{name}"', f'"hf-hub:owner/{name}"')


def test_a_published_model_is_what_was_planned_and_loads_pinned(hub):
    status, output = publish("owner", "sgpose_0m5_1s")
    assert status == 0
    (row,) = rows_of(output)
    name = f"{row['model']}.{row['tag']}"
    assert f"uploaded as commit {row['revision']}" in output
    (publication,) = plan("owner", name)
    assert hub.repos == {f"owner/{name}": {row["revision"]: publication.files}}
    assert row["repo"] == f"owner/{name}"
    digest = hashlib.sha256(publication.files["model.safetensors"]).hexdigest()
    assert digest == row["sha256"] == zoo.get_pretrained(name).sha256
    assert_same_weights(create_model(f"hf-hub:{row['repo']}@{row['revision']}"), create_model(name))


def test_the_rows_are_what_the_index_takes(hub, two_bundled, tmp_path, monkeypatch):
    rows = rows_of(publish("owner")[1])
    (tmp_path / "index.json").write_text(json.dumps(rows))
    monkeypatch.undo()
    monkeypatch.setattr(zoo, "BUNDLED", tmp_path)
    read = zoo._pretrained.__wrapped__()
    for entry in two_bundled:
        assert read[entry.name].sha256 == entry.sha256
        assert read[entry.name].repo == f"owner/{entry.name}"
        assert list(hub.repos[f"owner/{entry.name}"]) == [read[entry.name].revision]


def test_a_dry_run_sends_nothing_and_shows_the_same_files(hub, two_bundled, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    status, output = publish("owner", "--dry-run")
    assert status == 0
    assert hub.requests == []
    for entry in two_bundled:
        assert f"owner/{entry.name}\n" in output
        assert entry.sha256 in output
    assert output.endswith("Nothing was sent. Without --dry-run these files are uploaded.\n")


def test_a_pattern_chooses(hub, two_bundled):
    assert publish("owner", "*_2s")[0] == 0
    assert list(hub.repos) == ["owner/sgpose_1m0_2s.made"]
    status, output = publish("owner", "sgpose_9*")
    assert status == 1
    assert "'sgpose_9*'" in output
    assert "sgpose_0m5_1s.made, sgpose_1m0_2s.made" in output


def test_again_uploads_only_what_differs(hub, two_bundled):
    first = rows_of(publish("owner")[1])
    status, output = publish("owner")
    assert status == 0
    assert output.count("was there already, as commit") == 2
    assert rows_of(output) == first

    hub.commit("owner/sgpose_0m5_1s.made", {"README.md": b"edited by hand"})
    output = publish("owner")[1]
    assert output.count("was there already, as commit") == 1
    again = rows_of(output)
    assert again[0]["revision"] != first[0]["revision"]
    assert again[1] == first[1]


def test_a_failure_half_way_keeps_what_is_done_and_goes_on_when_given_again(hub, two_bundled):
    hub.refused = "owner/sgpose_1m0_2s.made"
    status, output = publish("owner")
    assert status == 1
    assert output.count("uploaded as commit") == 1
    assert "Error: owner/sgpose_1m0_2s.made cannot be published: HfHubHTTPError" in output
    hub.refused = None
    status, output = publish("owner")
    assert status == 0
    assert output.count("was there already") == output.count("uploaded as commit") == 1
    assert [row["model"] for row in rows_of(output)] == ["sgpose_0m5_1s", "sgpose_1m0_2s"]


def test_private_repositories_are_seen_by_their_owner_alone(hub, two_bundled, monkeypatch):
    assert publish("owner", "--private")[0] == 0
    assert hub.private == set(hub.repos)
    shutil.rmtree(os.environ["HF_HUB_CACHE"], ignore_errors=True)
    assert create_model("hf-hub:owner/sgpose_0m5_1s.made").config.name == "tiny"
    monkeypatch.setenv("HF_TOKEN", "hf_somebody")
    shutil.rmtree(os.environ["HF_HUB_CACHE"], ignore_errors=True)
    with pytest.raises(FileNotFoundError, match=r"owner/sgpose_0m5_1s\.made.*private.*HF_TOKEN"):
        create_model("hf-hub:owner/sgpose_0m5_1s.made")


def test_without_the_right_token_nothing_is_published(hub, two_bundled, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_somebody")
    status, output = publish("owner")
    assert status == 1
    assert "Error: owner/sgpose_0m5_1s.made cannot be published" in output
    assert "401" in output
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "Not logged in to the Hub: run `hf auth login`" in publish("owner")[1]
    assert hub.repos == {}


def test_what_does_not_arrive_as_it_was_sent_is_an_error(hub, two_bundled, monkeypatch):
    commit = hub.commit
    monkeypatch.setattr(hub, "commit", lambda repo, files: commit(repo, {**files, "model.safetensors": OTHER}))
    status, output = publish("owner")
    assert status == 1
    assert "is not the published sgpose_0m5_1s.made: sha256" in output


def test_weights_that_are_not_the_bundled_ones_are_not_sent(hub, two_bundled):
    (two_bundled[1].folder / "model.safetensors").write_bytes(OTHER)
    status, output = publish("owner")
    assert status == 1
    assert "is not the published sgpose_1m0_2s.made" in output
    assert hub.requests == []


@pytest.mark.parametrize("owner", ["some one", "owner/repo", ""])
def test_an_owner_that_cannot_be_is_refused(owner):
    with pytest.raises(ValueError, match=f"{owner!r}.*owner"):
        plan(owner)
