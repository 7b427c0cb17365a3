"""Leave PyTorch: networks as ONNX or ``torch.export`` files, and ONNX files back as models that ``predict`` takes."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from softgate_pose._files import written_whole
from softgate_pose.config import PoseConfig
from softgate_pose.data.images import normalize
from softgate_pose.data.people import People
from softgate_pose.model.base import PoseModel
from softgate_pose.pose.heatmaps import DecodeMethod
from softgate_pose.prediction.predict import crop_people, decode_crops

__all__ = ["OnnxPose", "calibration_images", "export_model", "load_onnx"]

_CONFIG_KEY = "softgate_pose.config"
_INSTALL = "pip install 'softgate-pose[export]'"

_CALIBRATION_IMAGES = 64  # enough for ranges that cost no accuracy


class _Decoded(nn.Module):
    """A network with the decoder behind it: images to keypoints in input pixels, and scores."""

    def __init__(self, model: PoseModel, method: DecodeMethod) -> None:
        super().__init__()
        self.model, self.method = model, method
        decode_crops(torch.zeros(1, 1, 1, 1), method)  # an unknown method fails now, not while exporting

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return decode_crops(self.model(images), self.method)


def export_model(
    model: PoseModel,
    file: str | os.PathLike[str],
    *,
    decode: DecodeMethod | None = None,
    calibration: Tensor | None = None,
) -> Path:
    """Write a model for other runtimes, in float32, for any number of images of its config's input size.

    | | shape | meaning |
    |---|---|---|
    | input ``images`` | (B, C, H, W) | normalised by the config's mean and std, see ``softgate_pose.normalize`` |
    | output ``heatmaps`` | (B, K, H / 4, W / 4) | as ``model(images)`` returns them |
    | with ``decode``: ``keypoints`` | (B, K, 2) | (x, y) in input pixels |
    | and ``scores`` | (B, K) | in 0..1 |

    An ONNX file holds the model's config in its metadata; ``load_onnx`` reads it.

    Args:
        model: From ``create_model`` or ``deploy``; it is left as it is.
        file: ``.onnx``, or ``.pt2`` for what ``torch.export.load`` reads.
        decode: Build this decoder into the file. None: it gives heatmaps.
        calibration: Write an ONNX file whose convolutions compute in 8-bit integers, which CPUs with such
            instructions run much faster, at a small loss. The ranges of all activations are measured on these
            images, (N, C, H, W), normalised; a few dozen typical ones are enough.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If the folder of the file does not exist.
        ImportError: If the file is to be ONNX, which is not installed.
        IsADirectoryError: If the file is a folder.
        TypeError: If the model is another module, such as ``torch.compile`` gives.
        ValueError: If the file has another suffix, the decoder is unknown, ``calibration`` is not what the model
            takes, or 8-bit integers are asked for in a ``.pt2`` file, with a decoder or without images.
    """
    file = Path(file)
    if not isinstance(model, PoseModel) or isinstance(model, OnnxPose):
        raise TypeError(f"export_model takes a model from create_model or deploy, got {type(model).__name__}.")
    if file.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"A model is exported to .onnx or .pt2, got {file.name!r}.")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {file.parent} to export to.")
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder; name a file to export to.")
    images = torch.zeros(2, model.config.in_chans, *model.config.input_size)
    if calibration is not None:
        _check_calibration(calibration, images.shape[1:])
        if file.suffix != ".onnx" or decode is not None:
            raise ValueError(f"8-bit integers take a .onnx file and decode=None; got {file.name!r}, decode={decode!r}.")
    plain = copy.deepcopy(model).to("cpu", torch.float32, memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    module = plain if decode is None else _Decoded(plain, decode).eval()
    shapes = {"images": {0: torch.export.Dim("batch")}}
    with written_whole(file) as scratch, torch.inference_mode():
        if file.suffix == ".pt2":
            with scratch.open("wb") as stream:
                torch.export.save(torch.export.export(module, (images,), dynamic_shapes=shapes), stream)
        else:
            program = _to_onnx(module, images, shapes, ["heatmaps"] if decode is None else ["keypoints", "scores"])
            program.model.metadata_props[_CONFIG_KEY] = model.config.to_json()
            program.save(scratch)
            if calibration is not None:
                _quantize(scratch, calibration)
    return file


def calibration_images(people: People, config: PoseConfig) -> Tensor:
    """Normalised crops of people from all over a table, (N, C, H, W), for ``export_model(calibration=)``."""
    count = min(len(people), _CALIBRATION_IMAGES)
    crops, _ = crop_people(people, [i * len(people) // count for i in range(count)], config)
    return normalize(crops, config)


def _check_calibration(images: object, shape: Sequence[int]) -> None:
    fits = isinstance(images, Tensor) and images.is_floating_point() and images.shape[1:] == shape and len(images) > 0
    if not fits or not bool(images.isfinite().all()):  # type: ignore[attr-defined]
        got = f"{tuple(images.shape)}, {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(
            f"calibration must be normalised images (N, {', '.join(map(str, shape))}), a tensor of finite floating "
            f"point numbers, N at least 1, got {got}."
        )


def _to_onnx(module: nn.Module, images: Tensor, shapes: dict[str, Any], outputs: list[str]) -> Any:
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ImportError(f"Exporting to ONNX needs more packages: {_INSTALL}.") from None
    names: Any = {"input_names": ["images"], "output_names": outputs}
    return torch.onnx.export(module, (images,), dynamic_shapes=shapes, dynamo=True, verbose=False, **names)


def _quantize(file: Path, images: Tensor) -> None:
    """Turn the convolutions of an ONNX file to 8-bit integers, in place."""
    try:
        from onnxruntime.quantization import QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        raise ImportError(f"8-bit integers need ONNX Runtime: {_INSTALL}.") from None
    batches = ({"images": batch.numpy()} for batch in torch.split(images.float().cpu(), 8))
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "model.onnx"
        quant_pre_process(file, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            file,
            SimpleNamespace(get_next=lambda: next(batches, None)),  # what ONNX Runtime reads images from
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


class OnnxPose(PoseModel):
    """An exported model that runs in ONNX Runtime, for ``predict`` and ``evaluate`` as if it were the original.

    Attributes:
        config: That of the model that was exported.
    """

    def __init__(self, file: Path, threads: int) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError:
            raise ImportError(f"Running ONNX files needs ONNX Runtime: {_INSTALL}.") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own types, that share no base
            raise ValueError(f"{file} cannot be read as an ONNX file: {error}") from None
        described = self.session.get_modelmeta().custom_metadata_map.get(_CONFIG_KEY)
        if described is None:
            raise ValueError(f"{file} carries no config; export it with softgate-pose export.")
        self.config = PoseConfig.from_json(described)
        outputs = [output.name for output in self.session.get_outputs()]
        if outputs != ["heatmaps"]:
            raise ValueError(f"{file} gives {' and '.join(outputs)}; export it without --decode to predict with it.")

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def deploy(self) -> PoseModel:
        """The model itself, which is for inference already."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Heatmaps (B, K, H / 4, W / 4) of images (B, C, H, W) of the config's input size."""
        expected = (self.config.in_chans, *self.config.input_size)
        if images.dim() != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"{self.config.name} was exported for images (B, {', '.join(map(str, expected))}), "
                f"got {tuple(images.shape)}."
            )
        (heatmaps,) = self.session.run(None, {"images": images.float().cpu().numpy()})
        return torch.from_numpy(heatmaps)


def load_onnx(file: str | os.PathLike[str], *, threads: int = 0) -> OnnxPose:
    """Load an ONNX file of ``export_model`` as a model that predicts, on the CPU, at the exported input size.

    Args:
        file: Exported without a decoder.
        threads: For ONNX Runtime; 0 for its own choice.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If ONNX Runtime is not installed.
        ValueError: If it is not such a file, or has a decoder built in.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"No ONNX file {file}.")
    return OnnxPose(file, threads)
