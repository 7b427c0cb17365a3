"""PoseConfig: everything about a network that is not a weight. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from softgate_pose.pose.skeleton import MPII, Skeleton

__all__ = ["STRIDE", "Gate", "Heatmap", "Merge", "PoseConfig", "Skip"]

Gate = Literal["channel", "scalar", "fixed", "identity"]
Merge = Literal["concat", "concat_grouped", "sum"]
Skip = Literal["block", "conv"]
Heatmap = Literal["softmax", "gaussian"]

STRIDE = 4
"""Input pixels per heatmap pixel: the stem's convolution and its max-pool halve once each."""

FORMAT_VERSION = 1

_LARGEST = {"num_stacks": 64, "width": 4096, "depth": 8, "in_chans": 1024}
_SOFTGATE = ("gate", "alpha_init", "merge", "skip")
_LARGEST_SIDE = 65536
_LARGEST_NUMBER = 1e6  # of sigma and alpha_init: far beyond use, and safe to square


@dataclass(frozen=True)
class PoseConfig:
    """Architecture, input and skeleton of a pose network.

    Attributes:
        name: What the config is called in errors, tables and cards.
        architecture: Which network: a key of ``model.registry.NETWORKS``. ``gate``, ``alpha_init``, ``merge`` and
            ``skip`` are settings of ``softgate`` alone.
        num_stacks: Hourglasses in a row.
        width: Channels N of every feature map; a multiple of 4, for the block's N/2, N/4 and N/4.
        depth: Halvings inside an hourglass.
        in_chans: Channels of the input image.
        gate: The skip path's scale ``alpha``: one learned per channel, one learned per block, fixed at
            ``alpha_init``, or ``identity`` (fixed at 1). Paper, Table II.
        alpha_init: Where ``alpha`` starts, or stays with ``gate="fixed"``; ``identity`` ignores it.
        merge: How a decoder joins its skip branch. Paper, Table IV.
        skip: What a skip branch applies: a soft-gated block or a 1×1 convolution.
        skeleton: The keypoints, in channel order.
        input_size: (height, width) that the weights expect; any multiple of ``size_multiple`` runs.
        mean: The mean of each input channel, of values in 0..1.
        std: The standard deviation of each input channel, of values in 0..1.
        heatmap: What the last layer's numbers are. ``gaussian``: the heatmap itself (trained with MSE).
            ``softmax``: logits whose softmax over the pixels is the heatmap (trained with cross-entropy).
        sigma: Standard deviation of the training targets, in heatmap pixels.

    Raises:
        ValueError: If a field is out of range; the message names it.
    """

    name: str = "custom"
    num_stacks: int = 1
    width: int = 68
    depth: int = 4
    in_chans: int = 3
    gate: Gate = "channel"
    alpha_init: float = 0.0
    merge: Merge = "concat"
    skip: Skip = "block"
    skeleton: Skeleton = MPII
    input_size: tuple[int, int] = (256, 256)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    heatmap: Heatmap = "softmax"
    sigma: float = 1.0
    architecture: str = "softgate"

    def __post_init__(self) -> None:
        for key in ("num_stacks", "width", "depth", "in_chans"):
            value = getattr(self, key)
            if not _is_whole(value) or not 1 <= value <= _LARGEST[key]:
                raise ValueError(f"{key} must be a whole number from 1 to {_LARGEST[key]}, got {_short(value)}.")
        if not isinstance(self.name, str):
            raise ValueError(f"name must be a string, got {self.name!r}.")
        if not isinstance(self.architecture, str):
            raise ValueError(f"architecture must be a string, got {self.architecture!r}.")
        if self.architecture != "softgate":
            for field in dataclasses.fields(self):
                if field.name in _SOFTGATE and getattr(self, field.name) != field.default:
                    raise ValueError(f"{field.name} is a setting of softgate; {self.architecture} has none.")
        if self.width % 4:
            lower = max(4, self.width - self.width % 4)
            raise ValueError(
                f"width must be a multiple of 4 (the block splits it into 1/2, 1/4 and 1/4), "
                f"got {self.width}. Use {lower} or {self.width - self.width % 4 + 4}."
            )
        for key, options in (("gate", Gate), ("merge", Merge), ("skip", Skip), ("heatmap", Heatmap)):
            value = getattr(self, key)
            if value not in get_args(options):
                raise ValueError(f"{key} must be one of {', '.join(get_args(options))}; got {value!r}.")
        if not isinstance(self.skeleton, Skeleton):
            raise ValueError(f"skeleton must be a Skeleton, got {type(self.skeleton).__name__}.")
        if not _is_number(self.alpha_init):
            raise ValueError(f"alpha_init must be a finite number, got {_short(self.alpha_init)}.")
        if not _is_number(self.sigma) or self.sigma <= 0:
            raise ValueError(f"sigma must be a finite number above 0, got {_short(self.sigma)}.")
        for key in ("mean", "std"):
            value = getattr(self, key)
            if not isinstance(value, tuple) or not all(_is_number(v) for v in value):
                raise ValueError(f"{key} must be a tuple of finite numbers, got {_short(value)}.")
            if len(value) != self.in_chans:
                raise ValueError(f"{key} needs one value for each of the {self.in_chans} in_chans, got {value!r}.")
        if not all(0 <= v <= 1 for v in self.mean) or not all(0 < v <= 1 for v in self.std):
            raise ValueError(
                f"mean and std are of colours from 0 to 1, and std is above 0; got mean {self.mean!r} and "
                f"std {self.std!r}. Divide what was computed from colours up to 255 by 255."
            )
        if not isinstance(self.input_size, tuple) or len(self.input_size) != 2:
            raise ValueError(f"input_size must be (height, width), got {self.input_size!r}.")
        self.check_size(*self.input_size)

    @property
    def stride(self) -> int:
        """Input pixels per heatmap pixel."""
        return STRIDE

    @property
    def num_keypoints(self) -> int:
        return len(self.skeleton)

    @property
    def size_multiple(self) -> int:
        """Input heights and widths must be multiples of this: ``STRIDE * 2 ** depth``."""
        return STRIDE << self.depth

    @property
    def heatmap_size(self) -> tuple[int, int]:
        """(height, width) of the heatmaps of an image of ``input_size``."""
        return self.input_size[0] // STRIDE, self.input_size[1] // STRIDE

    def check_size(self, height: int, width: int) -> None:
        """Raise a ValueError, naming the nearest size that works, unless (height, width) works."""
        step = self.size_multiple
        if not all(_is_whole(side) and 1 <= side <= _LARGEST_SIDE for side in (height, width)):
            raise ValueError(
                f"input size must be (height, width), whole numbers above 0 and at most {_LARGEST_SIDE}; "
                f"got {_short(height)} and {_short(width)}."
            )
        if height % step or width % step:
            nearest = tuple(max(step, (side + step // 2) // step * step) for side in (height, width))
            raise ValueError(
                f"input size {(height, width)} does not fit: with depth {self.depth} height and width must be "
                f"multiples of {step}. The nearest size that works is {nearest}."
            )

    def replace(self, **changes: Any) -> PoseConfig:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def with_in_chans(self, in_chans: int) -> PoseConfig:
        """A copy for images of another number of channels.

        One channel (grey) gets the average mean and std; more channels repeat the present ones in turn.

        Raises:
            ValueError: If ``in_chans`` is not a whole number of at least 1, or is too large.
        """
        if not _is_whole(in_chans) or in_chans < 1:
            raise ValueError(f"in_chans must be a whole number of at least 1, got {in_chans!r}.")
        if in_chans == self.in_chans:
            return self

        def adapt(values: tuple[float, ...]) -> tuple[float, ...]:
            if in_chans == 1:
                return (sum(values) / len(values),)
            return tuple(values[i % len(values)] for i in range(in_chans))

        return self.replace(in_chans=in_chans, mean=adapt(self.mean), std=adapt(self.std))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, as ``config.json`` holds them."""
        return {"format_version": FORMAT_VERSION, **_plain(dataclasses.asdict(self))}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PoseConfig:
        """The config that ``to_dict`` wrote; fields left out take their defaults.

        Raises:
            ValueError: If a field is unknown, of the wrong type or out of range, or if the format is newer.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"A config must be a JSON object, got {type(data).__name__}.")
        values = dict(data)
        version = values.pop("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise ValueError(
                f"The config has format_version {version!r}, this softgate_pose reads {FORMAT_VERSION}. "
                "Upgrade softgate_pose."
            )
        known = [f.name for f in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(
                f"The config has unknown fields: {', '.join(map(str, unknown))}. Known are {', '.join(known)}."
            )
        if "skeleton" in values:
            values["skeleton"] = _skeleton_from_dict(values["skeleton"])
        for key in ("input_size", "mean", "std"):
            if key in values:
                values[key] = _tuple(key, values[key])
        return cls(**values)

    @classmethod
    def from_json(cls, text: str | bytes) -> PoseConfig:
        """The config that ``to_json`` wrote.

        Raises:
            ValueError: If it is not JSON or not a config.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"The config is not JSON: {error}") from None
        return cls.from_dict(data)


def _short(value: object) -> str:
    if isinstance(value, int) and abs(value) > 10**12:  # Python refuses to print very long ones
        return f"a number of {value.bit_length()} bits"
    text = f"({', '.join(map(_short, value))})" if isinstance(value, tuple) else repr(value)
    return text if len(text) < 80 else text[:77] + "..."


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST_NUMBER


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _tuple(key: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise ValueError(f"{key} must be a list, got {value!r}.")
    return tuple(value)


def _skeleton_from_dict(data: Any) -> Skeleton:
    if not isinstance(data, Mapping) or not set(data) <= {"name", "keypoints", "edges"} or "keypoints" not in data:
        raise ValueError(f"skeleton must be an object of name, keypoints and edges, got {data!r}.")
    keypoints = _tuple("skeleton.keypoints", data["keypoints"])
    edges = tuple(_tuple("skeleton.edges", edge) for edge in _tuple("skeleton.edges", data.get("edges", ())))
    name = data.get("name", "custom")
    names = (name, *keypoints, *(end for edge in edges for end in edge))
    if not all(isinstance(item, str) for item in names) or any(len(edge) != 2 for edge in edges):
        raise ValueError("skeleton must hold names only, and pairs of names as edges.")
    return Skeleton(name, keypoints, edges)
