"""Recipes: how a model is trained, as data; the paper's two and ours. Imports no torch."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from softgate_pose._files import check_fields
from softgate_pose.config import PoseConfig

__all__ = ["PRESETS", "Augmentation", "Engine", "Keep", "Preset", "Recipe", "get_preset"]

Keep = Literal["memory", "device", "stream"]
"""Where crops are kept: all in memory, once a machine; all on the device; or none, read anew for each batch."""

Count = Annotated[int, Field(ge=1)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a training crop; each range is uniform and the same to both sides.

    Attributes:
        rotation: Largest rotation, in degrees.
        zoom: Largest factor of enlargement and of shrinking; drawn evenly in its logarithm.
        shift: Largest shift, as a share of the input's side.
        flip: Probability of mirroring.
        half_body: Probability of showing the upper or the lower half of the body alone.
        brightness: Largest relative change of all channels together.
        contrast: Largest relative change of the distance from the crop's mean colour.
        tint: Largest relative change of each channel by itself.
        patches: Number of rectangles of one colour that hide parts of the crop.
        patch_size: The rectangles' longest side, as a share of the input's.
    """

    rotation: Annotated[float, Field(ge=0, le=180)] = 60.0
    zoom: Annotated[float, Field(ge=1, le=4)] = 1.3
    shift: Share = 0.06
    flip: Share = 0.5
    half_body: Share = 0.0
    brightness: Share = 0.3
    contrast: Share = 0.3
    tint: Share = 0.15
    patches: Annotated[int, Field(ge=0, le=100)] = 0
    patch_size: Share = 0.3

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        epochs: Passes over the data.
        batch_size: People per step of the optimizer, over all processes.
        accumulate: Parts that each process runs its share of a batch in, to need less memory. Batch
            norms see one part of one process at a time.
        precision: ``bf16`` runs the network in bfloat16 where that is safe; its weights stay float32.
        optimizer: All three go on exactly from the tensors that they keep.
        optimizer_settings: Further arguments of the optimizer, such as ``{"momentum": 0.0}``.
        learning_rate: The peak, which is reached after the warm-up.
        schedule: From the peak, ``cosine`` falls to 0 along a cosine; ``step`` multiplies by ``decay`` at
            each of the ``milestones``.
        milestones: The epochs at which ``step`` drops the learning rate.
        decay: The factor on the learning rate at a milestone.
        warmup: Share of all steps over which the learning rate rises, to its peak at the last step at the latest.
        weight_decay: Decay of the convolutions' weights; never of gates, biases and batch norms.
        ema_decay: Decay of the moving average of the weights, which is then the result. 0 for none.
        clip_grad: Largest norm of the gradient. 0 for no limit.
        seed: Seed of the order and the augmentation; of ``train``, also of fresh weights.
        augmentation: The random changes, see ``Augmentation``.
    """

    epochs: Count = 12
    batch_size: Count = 32
    accumulate: Count = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    optimizer: Literal["adamw", "rmsprop", "sgd"] = "adamw"
    optimizer_settings: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[Count, ...] = ()
    decay: Share = 1.0
    warmup: Share = 0.05
    weight_decay: Number = 0.01
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    clip_grad: Number = 5.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # the range that generators accept
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if isinstance(self.milestones, list):  # JSON has no tuples
            object.__setattr__(self, "milestones", tuple(self.milestones))
        check_fields(self)
        rising = list(self.milestones) == sorted(set(self.milestones))
        inside = not self.milestones or self.milestones[-1] < self.epochs
        if not (rising and inside and (self.schedule == "step") == bool(self.milestones)):
            example = f"schedule=step and milestones=[{self.epochs // 2}], or " if self.epochs > 1 else ""
            raise ValueError(
                "milestones must be rising epochs before the end of the run, for schedule=step, and none for another; "
                f"got schedule={self.schedule}, milestones={list(self.milestones)} and epochs={self.epochs}. "
                f"Give {example}schedule=cosine and milestones=[]."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**dataclasses.asdict(self), "milestones": list(self.milestones)}


@dataclass(frozen=True)
class Engine:
    """How a run uses the machine. None of it changes what is learned, but for rounding.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:1``. With several processes, ``cuda`` means each
            process's own GPU.
        keep: Where crops are kept. ``memory`` is a file in the run's folder that the processes of a machine
            share, mapped into memory; ``device`` makes it too, and copies it. ``stream`` keeps none.
        workers: Processes that read images, per training process.
        compile: Use ``torch.compile``.
        save_minutes: Longest time between two states on disk; one is also saved after each epoch.
        sheets: Draw a contact sheet after each validation.
        progress: Show progress bars.
    """

    device: str = "cpu"
    keep: Keep = "memory"
    workers: Annotated[int, Field(ge=0)] = 0
    compile: bool = False
    save_minutes: Number = 10.0
    sheets: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Preset:
    """A recipe, and the settings of ``create_model`` that belong to it, such as ``{"heatmap": "gaussian"}``."""

    recipe: Recipe
    model: Mapping[str, Any] = field(default_factory=dict)

    def change(self, settings: Mapping[str, Any]) -> Preset:
        """The preset with other settings: of the recipe, of its augmentation or of the model, by their names."""
        recipe, augmentation, model = (
            {f.name for f in dataclasses.fields(kind)} - others
            for kind, others in (
                (Recipe, {"augmentation"}),
                (Augmentation, set()),
                (PoseConfig, {"name", "skeleton", "in_chans", "architecture"}),
            )
        )
        names = sorted(recipe | augmentation | model)
        for name in settings:
            if name not in names:
                close = difflib.get_close_matches(name, names, 1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise ValueError(f"Unknown setting {name!r}.{hint} Settings are {', '.join(names)}.")

        def of(names: set[str]) -> dict[str, Any]:
            return {name: value for name, value in settings.items() if name in names}

        changed = dataclasses.replace(self.recipe.augmentation, **of(augmentation))
        return Preset(dataclasses.replace(self.recipe, augmentation=changed, **of(recipe)), {**self.model, **of(model)})


_PAPER = Recipe(
    epochs=200,
    batch_size=24,
    optimizer="rmsprop",
    # PyTorch's own defaults; timm's are alpha 0.9 and momentum 0.9
    optimizer_settings={"alpha": 0.99, "eps": 1e-8, "momentum": 0.0},
    learning_rate=2.5e-4,
    schedule="step",
    milestones=(75, 100, 150),
    decay=25 ** (-1 / 3),  # three equal drops from 2.5e-4 to 1e-5
    warmup=0.0,
    weight_decay=0.0,
    ema_decay=0.0,
    clip_grad=0.0,
    augmentation=Augmentation(rotation=30.0, zoom=1.25, shift=0.0, brightness=0.3, contrast=0.0, tint=0.2),
)
_PAPER_MODEL = {"heatmap": "gaussian", "sigma": 1.0, "input_size": (256, 256)}

PRESETS: Mapping[str, Preset] = {
    "fast": Preset(Recipe(learning_rate=2e-3, augmentation=Augmentation(rotation=30.0)), {"alpha_init": 1.0}),
    "paper-mpii": Preset(_PAPER, _PAPER_MODEL),
    "paper-lsp": Preset(dataclasses.replace(_PAPER, epochs=100, milestones=(25, 50, 75)), _PAPER_MODEL),
}
"""By name. ``fast`` is ours, the most accurate for a fixed, short time, as measured (the site's page on training).

The others are the paper's, for MPII and for fine-tuning on LSP and LSP-extended. The sizes of the drops, and the
ranges of rotation, scale and colour, are not in our copy of its text: three equal drops, and the ranges that stacked
hourglasses have been trained with since Newell et al. 2016.
"""


def get_preset(name: str) -> Preset:
    """The recipe of that name, with the settings of its model: ``fast``, ``paper-mpii`` or ``paper-lsp``."""
    if name not in PRESETS:
        raise ValueError(f"Unknown recipe {name!r}; recipes are {', '.join(PRESETS)}.")
    return PRESETS[name]
