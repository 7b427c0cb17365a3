import hashlib
import json
import logging
import os
import shutil
import tempfile

import numpy as np
import pytest
import torch
from hub_server import serve
from made_data import mpii_row, write_images
from PIL import Image
from scipy.io import savemat

from softgate_pose import LSP, PoseConfig, save_pretrained, zoo
from softgate_pose.model.softgate import SoftGatePose

torch.set_num_threads(1)


def pytest_configure(config):
    """Start a Hub on loopback before anything imports huggingface_hub, which reads the environment once."""
    server = serve()
    config.hub = server.__enter__()
    config.add_cleanup(lambda: server.__exit__(None, None, None))
    cache = tempfile.TemporaryDirectory(prefix="hub-cache-")
    config.add_cleanup(cache.cleanup)
    os.environ.update(
        HF_ENDPOINT=config.hub.url,
        HF_HUB_CACHE=cache.name,
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_XET="1",
    )


@pytest.fixture
def tiny_config():
    """A network of a few thousand parameters, with two stacks so that every kind of layer is there."""
    return PoseConfig(name="tiny", num_stacks=2, width=8, depth=2, skeleton=LSP, input_size=(64, 48))


@pytest.fixture
def tiny_model(tiny_config):
    torch.manual_seed(0)
    return SoftGatePose(tiny_config).eval()


@pytest.fixture
def hub(request):
    """The session's Hub, empty and well, and an empty cache."""
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


@pytest.fixture
def published(hub, saved, monkeypatch):
    """A zoo whose only weights are on the Hub, pinned by revision and hash."""
    revision = hub.commit("ours/sgpose", saved)
    digest = hashlib.sha256(saved["model.safetensors"]).hexdigest()
    entry = zoo.PretrainedEntry("sgpose_0m5_1s", "test", digest, None, "ours/sgpose", revision)
    monkeypatch.setattr(zoo, "_pretrained", lambda: {entry.name: entry})
    return entry


@pytest.fixture
def unpublished(monkeypatch):
    """The name of a model of the zoo that has no weights."""
    monkeypatch.setitem(zoo.MODELS, "sgpose_new_1s", zoo.MODELS["sgpose_0m5_1s"])
    return "sgpose_new_1s"


@pytest.fixture
def photo():
    """A made image with structure in all directions."""
    gradient = Image.linear_gradient("L").resize((90, 70))
    return Image.merge("RGB", (gradient, gradient.transpose(Image.Transpose.ROTATE_180), gradient))


@pytest.fixture
def lsp_folder(tmp_path):
    folder = tmp_path / "lsp"
    folder.mkdir()
    rng = np.random.default_rng(0)
    joints = np.concatenate([rng.uniform(5, 55, (2, 14, 6)), rng.integers(0, 2, (1, 14, 6))])
    savemat(folder / "joints.mat", {"joints": joints})
    write_images(folder / "images", [f"im{i:04d}.jpg" for i in range(1, 7)])
    return folder, joints


@pytest.fixture
def lspet_folder(tmp_path):
    folder = tmp_path / "lspet"
    folder.mkdir()
    rng = np.random.default_rng(0)
    joints = np.concatenate([rng.uniform(5, 55, (14, 2, 4)), np.ones((14, 1, 4))], axis=1)
    joints[3, 2, 0] = 0
    joints[3, :2, 0] = -1e6  # where nothing is labelled, coordinates mean nothing
    joints[:, 2, 2] = 0
    savemat(folder / "joints.mat", {"joints": joints})
    write_images(folder / "images", [f"im{i:05d}.jpg" for i in range(1, 5)])
    return folder, joints


@pytest.fixture
def mpii_folder(tmp_path):
    folder = tmp_path / "mpii"
    (folder / "annot").mkdir(parents=True)
    rows = [mpii_row(), mpii_row(image="b.jpg", head_box=None), mpii_row(image="b.jpg", scale=0.3)]
    (folder / "annot" / "valid.json").write_text(json.dumps(rows))
    write_images(folder / "images", ["a.jpg", "b.jpg"])
    return folder


@pytest.fixture(autouse=True)
def _same_numbers():
    """Random numbers do not depend on what ran before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _quiet_logs(caplog):
    caplog.set_level(logging.WARNING)
