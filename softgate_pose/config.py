"""PoseConfig: everything about a network that is not a weight. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, with_config
from typing_extensions import NotRequired, TypedDict  # pydantic reads typing's own from Python 3.12 on

from softgate_pose._files import check_fields, checked, short
from softgate_pose.pose.skeleton import MPII, Skeleton

__all__ = ["STRIDE", "Gate", "Heatmap", "Merge", "PoseConfig", "Skip"]

Gate = Literal["channel", "scalar", "fixed", "identity"]
Merge = Literal["concat", "concat_grouped", "sum"]
Skip = Literal["block", "conv"]
Heatmap = Literal["softmax", "gaussian"]

STRIDE = 4
"""Input pixels per heatmap pixel: the stem's convolution and its max-pool halve once each."""

FORMAT_VERSION = 1

_OF_SOFTGATE = ("gate", "alpha_init", "merge", "skip")


def _colour(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError("must be for colours from 0 to 1 (divide what was computed for colours up to 255 by 255)")
    return value


# the largest numbers are far beyond use, and safe to square
_Side = Annotated[int, Field(ge=1, le=65536)]
_Channels = Annotated[int, Field(ge=1, le=1024)]
_Mean = Annotated[float, AfterValidator(_colour)]
_Std = Annotated[float, Field(gt=0), AfterValidator(_colour)]


@with_config({"extra": "forbid"})
class _SkeletonFields(TypedDict):
    name: NotRequired[str]
    keypoints: tuple[str, ...]
    edges: NotRequired[tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class PoseConfig:
    """Architecture, input and skeleton of a pose network.

    Attributes:
        name: What the config is called in errors, tables and cards.
        architecture: Which network; a key of ``model.registry.NETWORKS``.
        num_stacks: Hourglasses in a row.
        width: Channels N of every feature map; a multiple of 4, for the block's N/2, N/4 and N/4.
        depth: Halvings inside an hourglass.
        in_chans: Channels of the input image.
        gate: The skip path's scale ``alpha``: one learned per channel, one learned per block, fixed at
            ``alpha_init``, or ``identity`` (fixed at 1). Paper, Table II. This and the next three are settings of
            ``architecture="softgate"`` alone.
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
    architecture: str = "softgate"
    num_stacks: Annotated[int, Field(ge=1, le=64)] = 1
    width: Annotated[int, Field(ge=4, le=4096, multiple_of=4)] = 68
    depth: Annotated[int, Field(ge=1, le=8)] = 4
    in_chans: _Channels = 3
    gate: Gate = "channel"
    alpha_init: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    merge: Merge = "concat"
    skip: Skip = "block"
    skeleton: Skeleton = MPII
    input_size: tuple[_Side, _Side] = (256, 256)
    mean: tuple[_Mean, ...] = (0.485, 0.456, 0.406)
    std: tuple[_Std, ...] = (0.229, 0.224, 0.225)
    heatmap: Heatmap = "softmax"
    sigma: Annotated[float, Field(gt=0, le=1e6)] = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.in_chans:
                raise ValueError(f"{name} must have one value for each of the {self.in_chans} in_chans, got {values}.")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _OF_SOFTGATE and self.architecture != "softgate" and value != field.default:
                raise ValueError(f"{field.name} is a setting of softgate; {self.architecture} has none, got {value!r}.")
        self.check_size(*self.input_size)

    @property
    def num_keypoints(self) -> int:
        return len(self.skeleton)

    @property
    def stride(self) -> int:
        """Input pixels per heatmap pixel."""
        return STRIDE

    @property
    def size_multiple(self) -> int:
        """Input heights and widths must be multiples of this: ``stride * 2 ** depth``."""
        return self.stride << self.depth

    @property
    def heatmap_size(self) -> tuple[int, int]:
        """(height, width) of the heatmaps of an image of ``input_size``."""
        return self.input_size[0] // self.stride, self.input_size[1] // self.stride

    def check_size(self, height: int, width: int) -> None:
        """Raise a ValueError, naming the nearest size that works, unless (height, width) works."""
        step = self.size_multiple
        if height % step or width % step or min(height, width) < step:
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
        """
        if checked(_Channels, in_chans, "in_chans") == self.in_chans:
            return self

        def adapt(values: tuple[float, ...]) -> tuple[float, ...]:
            if in_chans == 1:
                return (sum(values) / len(values),)
            return tuple(values[i % len(values)] for i in range(in_chans))

        return self.replace(in_chans=in_chans, mean=adapt(self.mean), std=adapt(self.std))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, as ``config.json`` holds them."""
        return {"format_version": FORMAT_VERSION, **json.loads(json.dumps(dataclasses.asdict(self)))}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PoseConfig:
        """The config that ``to_dict`` wrote; fields left out take their defaults."""
        if not isinstance(data, Mapping):
            raise ValueError(f"A config must be an object, got {short(data)}.")
        values = {key: _tuple(value) for key, value in data.items()}
        version = values.pop("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise ValueError(f"format_version must be {FORMAT_VERSION}, got {short(version)}. Upgrade softgate_pose.")
        fields = [field.name for field in dataclasses.fields(cls)]
        unknown = [str(key) for key in values if key not in fields]
        if unknown:
            raise ValueError(f"A config has no field {', '.join(unknown)}. Known are {', '.join(fields)}.")
        if "skeleton" in values:
            skeleton = checked(_SkeletonFields, values["skeleton"], "skeleton")
            values["skeleton"] = Skeleton(**{"name": "custom", **skeleton})
        return cls(**values)

    @classmethod
    def from_json(cls, text: str | bytes) -> PoseConfig:
        """The config that ``to_json`` wrote."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"The config is not JSON: {error}") from None
        return cls.from_dict(data)


def _tuple(value: Any) -> Any:
    """The value with tuples in place of JSON's lists, at every depth."""
    if isinstance(value, dict):
        return {key: _tuple(item) for key, item in value.items()}
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
