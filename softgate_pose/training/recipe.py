"""Recipes: how a model is trained, as data; the paper's two and ours."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from softgate_pose.config import PoseConfig
from softgate_pose.training.augment import Augmentation

__all__ = ["OPTIMIZERS", "PRESETS", "Precision", "Preset", "Recipe", "Schedule", "get_preset"]

Schedule = Literal["cosine", "step"]
Precision = Literal["fp32", "bf16"]

OPTIMIZERS = ("adamw", "lion", "momentum", "nadamw", "radam", "rmsprop", "rmsproptf", "sgd")
"""The optimizers of timm that go on exactly from the tensors they keep."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        epochs: Passes over the people.
        batch_size: People per step of the optimizer, over all processes.
        accumulate: Parts that each process runs its share of a batch in, to need less memory. Batch
            norms see one part of one process at a time.
        precision: ``bf16`` runs the network in bfloat16 where that is safe; its weights stay float32.
        optimizer: One of ``OPTIMIZERS``.
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
        seed: Seed of the order and the augmentation. The model comes with its initial weights.
        augmentation: The random changes, see ``Augmentation``.

    Raises:
        ValueError: If a value is of the wrong type or out of range.
    """

    epochs: int = 12
    batch_size: int = 32
    accumulate: int = 1
    precision: Precision = "fp32"
    optimizer: str = "adamw"
    optimizer_settings: Mapping[str, float] = field(default_factory=dict)
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] = ()
    decay: float = 1.0
    warmup: float = 0.05
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    clip_grad: float = 5.0
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if not isinstance(self.milestones, (list, tuple)):
            raise ValueError(f"milestones must be a list of epochs, such as [75, 100], got {self.milestones!r}.")
        object.__setattr__(self, "milestones", tuple(self.milestones))
        self._require_numbers()
        self._require_choices()
        self._require_milestones()

    def _require_numbers(self) -> None:
        for name, low in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}.")
        if self.seed >= 2**63:
            raise ValueError(f"seed must be below 2**63, which is all that generators take, got {self.seed}.")
        ends = {"warmup": 1.0, "ema_decay": 1.0, "decay": 1.0}
        for name in ("learning_rate", "weight_decay", "clip_grad", *ends):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not 0 <= value <= ends.get(name, math.inf):
                upper = f" and at most {ends[name]:g}" if name in ends else ""
                raise ValueError(f"{name} must be a number of at least 0{upper}, got {value!r}.")
        if self.learning_rate == 0 or self.ema_decay == 1:
            raise ValueError(
                "A learning_rate of 0, or an ema_decay of 1, would leave the weights as they are; "
                f"got learning_rate={self.learning_rate:g} and ema_decay={self.ema_decay:g}."
            )

    def _require_choices(self) -> None:
        choices = {"optimizer": OPTIMIZERS, "schedule": get_args(Schedule), "precision": get_args(Precision)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}.")
        if not isinstance(self.optimizer_settings, Mapping):
            raise ValueError(f'optimizer_settings must be like {{"momentum": 0.0}}, got {self.optimizer_settings!r}.')

    def _require_milestones(self) -> None:
        whole = all(isinstance(m, int) and not isinstance(m, bool) and m >= 1 for m in self.milestones)
        if not whole or list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must be rising epochs, whole numbers from 1, got {self.milestones!r}.")
        if self.milestones and self.milestones[-1] >= self.epochs:
            remedy = f"milestones=[{self.epochs // 2}]" if self.epochs > 1 else "schedule=cosine and milestones=[]"
            raise ValueError(
                f"The learning rate would never drop at epoch {self.milestones[-1]} of a run of {self.epochs}. "
                f"Give other settings, such as {remedy}."
            )
        if (self.schedule == "step") != bool(self.milestones):
            remedy = "schedule=step, or milestones=[]"
            if self.schedule == "step":
                remedy = (f"milestones=[{self.epochs // 2}], or " if self.epochs > 1 else "") + "schedule=cosine"
            raise ValueError(
                f"The schedule 'step' needs milestones, and no other has them; got schedule={self.schedule} and "
                f"milestones={list(self.milestones)}. Give {remedy}."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**dataclasses.asdict(self), "milestones": list(self.milestones)}


@dataclass(frozen=True)
class Preset:
    """A recipe and the settings of ``create_model`` that belong to it.

    Attributes:
        recipe: The recipe.
        model: The settings of the model, such as ``{"heatmap": "gaussian"}``.
    """

    recipe: Recipe
    model: Mapping[str, Any]

    def change(self, settings: Mapping[str, Any]) -> Preset:
        """The preset with other settings: of the recipe, of its augmentation or of the model, by their names.

        Raises:
            ValueError: If a name is unknown or a value is wrong.
        """
        recipe_names = {f.name for f in dataclasses.fields(Recipe)} - {"augmentation"}
        augmentation_names = {f.name for f in dataclasses.fields(Augmentation)}
        model_names = {f.name for f in dataclasses.fields(PoseConfig)} - {"name", "skeleton", "in_chans"}
        known = sorted(recipe_names | augmentation_names | model_names)
        for name in settings:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise ValueError(f"Unknown setting {name!r}.{hint} Known are {', '.join(known)}.")

        def chosen(names: set[str]) -> dict[str, Any]:
            return {name: value for name, value in settings.items() if name in names}

        augmentation = dataclasses.replace(self.recipe.augmentation, **chosen(augmentation_names))
        recipe = dataclasses.replace(self.recipe, augmentation=augmentation, **chosen(recipe_names))
        return Preset(recipe, {**self.model, **chosen(model_names)})


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
"""By name.

- ``fast`` is ours: the most accurate for a fixed, short time, as measured (the site's page on training).
- ``paper-mpii`` is the paper's: 200 epochs of RMSprop, batches of 24, 2.5e-4 down to 1e-5 with drops at epochs
  75, 100 and 150, no weight decay, mean squared error on Gaussian heatmaps. The sizes of the drops, and the
  ranges of rotation, scale and colour, are not in our copy of the text: three equal drops, and the ranges
  that stacked hourglasses have been trained with since Newell et al. 2016.
- ``paper-lsp`` fine-tunes such a model on LSP and LSP-extended for 100 epochs, with a drop every 25.
"""


def get_preset(name: str) -> Preset:
    """The preset of that name: a recipe with the settings of its model.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"Unknown recipe {name!r}; known are {', '.join(PRESETS)}.")
    return PRESETS[name]
