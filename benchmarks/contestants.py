"""Networks in the forms they are run in, by names such as ``sgpose_small_4s+deploy+bf16``."""

import dataclasses
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rivals import RIVALS
from softgate_pose import create_model, deploy, list_models, zoo
from softgate_pose.config import PoseConfig
from softgate_pose.export import export_model, load_onnx
from softgate_pose.model.base import PoseModel

__all__ = ["FORMS", "Contestant", "Setting", "build", "missing_package"]

FORMS = {
    "deploy": "softgate_pose.deploy",
    "bf16": "bfloat16 weights and images; in OpenVINO its own bfloat16 mode",
    "nchw": "not in channels-last layout",
    "compile": "torch.compile, weights frozen",
    "onnx": "in ONNX Runtime",
    "int8": "8-bit integers, in ONNX Runtime",
    "openvino": "in OpenVINO",
}
_RUNTIMES = {"onnx", "int8", "openvino"}
_PACKAGES = {"onnx": "onnxruntime", "int8": "onnxruntime", "openvino": "openvino", "vitpose_s": "transformers"}
NUM_KEYPOINTS = 16


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all contestants of a run share."""

    size: tuple[int, int] = (256, 256)
    threads: int = 1
    device: str = "cpu"

    def apply(self) -> None:
        torch.set_num_threads(self.threads)
        torch.backends.cudnn.benchmark = True  # sizes do not change: let cuDNN choose; without a GPU it does nothing

    def images(self, batch: int) -> Tensor:
        torch.manual_seed(0)
        return torch.randn(batch, 3, *self.size)

    def synchronize(self) -> None:
        """Wait for a GPU: its work is only queued when a call returns."""
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A network in a form.

    Attributes:
        name: Of the network, and its forms.
        prepare: Images as this form takes them; not timed.
        run: From there to heatmaps, on the device.
        params: Numbers that are learned, of this form.
        macs: Multiply-adds of one image, counted by torch's flop counter (2 FLOPs each).
        ours: Whether it is the paper's network.
    """

    name: str
    prepare: Callable[[Tensor], Any]
    run: Callable[[Any], Any]
    params: int
    macs: int
    ours: bool


def missing_package(name: str) -> str | None:
    """The package that a contestant needs and that is not installed, if any."""
    for part in name.split("+"):
        package = _PACKAGES.get(part)
        if package is not None and importlib.util.find_spec(package) is None:
            return package
    return None


def build_module(name: str, setting: Setting) -> nn.Module:
    """The network of a contestant in PyTorch, deployed where the name says so, on the CPU in float32.

    Raises:
        ValueError: If there is no such network or form.
    """
    base, *forms = name.split("+")
    unknown = [form for form in forms if form not in FORMS]
    model_name = base.partition(".")[0]
    if unknown or (model_name not in list_models() and base not in RIVALS):
        known = ", ".join([*list_models(), *zoo.list_pretrained(), *RIVALS])
        raise ValueError(f"Unknown contestant {name!r}: NAME[+FORM...], names {known}; forms {', '.join(FORMS)}.")
    if len(_RUNTIMES & set(forms)) > 1 or (_RUNTIMES & set(forms) and "compile" in forms):
        raise ValueError(f"{name}: choose one of {', '.join(sorted(_RUNTIMES))} and compile.")
    torch.manual_seed(0)
    module = (
        RIVALS[base](NUM_KEYPOINTS, setting.size) if base in RIVALS else create_model(base, input_size=setting.size)
    )
    if "deploy" in forms:
        if not isinstance(module, PoseModel):
            raise ValueError(f"{name}: deploy is a form of the zoo's models.")
        module = deploy(module)
    return module.eval().requires_grad_(False)


def build(name: str, setting: Setting) -> Contestant:
    """A contestant, ready to run."""
    base, *forms = name.split("+")
    module = build_module(name, setting)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(setting.images(1))
    numbers = sum(parameter.numel() for parameter in module.parameters())
    if _RUNTIMES & set(forms):
        if setting.device != "cpu":
            raise ValueError(f"{name} runs on the CPU alone.")
        prepare, run = _runtime(module, forms, setting)
    else:
        prepare, run = _torch(module, forms, setting)
    return Contestant(name, prepare, run, numbers, counter.get_total_flops() // 2, base.startswith("sgpose"))


def _torch(
    module: nn.Module, forms: list[str], setting: Setting
) -> tuple[Callable[[Tensor], Any], Callable[[Any], Any]]:
    dtype = torch.bfloat16 if "bf16" in forms else torch.float32
    layout = torch.contiguous_format if "nchw" in forms else torch.channels_last
    module = module.to(setting.device, dtype, memory_format=layout)
    # Freezing folds weights into the compiled code; it exists for inference without gradients, and on the CPU.
    options = {"freezing": True} if setting.device == "cpu" else {"triton.cudagraphs": True}
    run = torch.compile(module, dynamic=False, options=options) if "compile" in forms else module

    def prepare(images: Tensor) -> Tensor:
        return images.to(setting.device, dtype, memory_format=layout)

    def forward(images: Tensor) -> Any:
        with torch.no_grad() if "compile" in forms else torch.inference_mode():
            return run(images)

    return prepare, forward


def _runtime(
    module: nn.Module, forms: list[str], setting: Setting
) -> tuple[Callable[[Tensor], Any], Callable[[Any], Any]]:
    calibration = setting.images(2) if "int8" in forms else None  # the ranges matter to accuracy, not to speed
    with tempfile.TemporaryDirectory() as folder:
        file = export_model(_AsModel(module, setting.size), Path(folder) / "model.onnx", calibration=calibration)
        if "openvino" in forms:
            import openvino

            hints = {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": setting.threads,
                "INFERENCE_PRECISION_HINT": "bf16" if "bf16" in forms else "f32",
            }
            core = openvino.Core()
            return Tensor.numpy, core.compile_model(core.read_model(file), "CPU", hints)
        if "bf16" in forms:
            raise ValueError("ONNX Runtime has no bfloat16 convolutions on the CPU; choose openvino or PyTorch.")
        session = load_onnx(file, threads=setting.threads).session
    return Tensor.numpy, lambda images: session.run(None, {"images": images})


class _AsModel(PoseModel):
    """Any network, with the config that exporting writes into the file."""

    def __init__(self, module: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.module, self.config = module, PoseConfig(input_size=size)

    def forward(self, images: Tensor) -> Tensor:
        return self.module(images)
