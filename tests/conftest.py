import logging
import os
import tempfile

import pytest
import torch
from hub_server import serve
from PIL import Image

from softgate_pose import LSP, PoseConfig
from softgate_pose.model.network import SoftGatePose

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
def photo():
    """A made image with structure in all directions."""
    gradient = Image.linear_gradient("L").resize((90, 70))
    return Image.merge("RGB", (gradient, gradient.transpose(Image.Transpose.ROTATE_180), gradient))


@pytest.fixture(autouse=True)
def _quiet_logs(caplog):
    caplog.set_level(logging.WARNING)
