"""The models in timm's registry: ``register()``, then ``timm.create_model("sgpose_small_4s")``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from timm.models import DefaultCfg, FeatureInfo, PretrainedCfg, is_model, register_model
from torch import Tensor, nn

from softgate_pose import zoo
from softgate_pose.config import PoseConfig
from softgate_pose.factory import create_model
from softgate_pose.model.base import PoseModel
from softgate_pose.model.softgate import SoftGatePose
from softgate_pose.weights.record import WEIGHTS_FILE, read_config

__all__ = ["PyramidFeatures", "register"]

default_cfgs: dict[str, DefaultCfg] = {}
"""What timm's registry looks for in the module of a model's function."""


def register() -> None:
    """Add the models to timm's registry, for this process.

    ``timm.create_model`` and ``timm.list_models("sgpose_*")`` then know them, with these arguments:

    - ``pretrained``, and names with a tag such as ``sgpose_0m5_1s.sports``: our weights.
    - ``in_chans``: input channels; the stem's weights are adapted.
    - ``num_classes``: keypoints. 14, 16 and 17 are LSP's, MPII's and COCO's.
    - ``features_only``, ``out_indices``: a ``PyramidFeatures`` in place of the pose network.
    - other settings of ``softgate_pose.create_model``, such as ``gate`` or ``input_size``.

    Called again, it does nothing.
    """
    for name in zoo.list_models():
        if not is_model(name):
            default_cfgs[name] = _default_cfg(name)
            register_model(_entry(name))


class PyramidFeatures(nn.Module):
    """The last hourglass as a feature pyramid, at strides 4, 8, 16, 32 and 64 for a network of depth 4.

    ``out_indices`` says which levels to give; negative ones count from the coarsest. The model's last neck and head,
    which the features do not pass, are frozen. ``feature_info`` is timm's.
    """

    def __init__(self, model: PoseModel, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        if not isinstance(model, SoftGatePose):
            raise ValueError(f"features_only takes a softgate network, got {model.config.name}.")
        self.model = model
        last, depth = model.config.num_stacks - 1, model.config.depth
        for unused in (model.necks[last], model.heads[last]):
            unused.requires_grad_(False)  # DistributedDataParallel refuses what never has a gradient
        count = depth + 1
        indices = range(count) if out_indices is None else out_indices
        if not isinstance(indices, Sequence) or any(not -count <= i < count for i in indices):
            raise ValueError(f"out_indices must be levels from {-count} to {depth}, such as (0, 1); got {indices!r}.")
        info = [
            {
                "num_chs": model.config.width,
                "reduction": model.stride * 2**i,
                "module": f"hourglasses.{last}{'.inner' * i}{'.merge' if i < depth else ''}",  # at the bottom, a block
            }
            for i in range(count)
        ]
        self.feature_info = FeatureInfo(info, tuple(i % count for i in indices))
        self.train(model.training)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, C, H, W), normalised, to one map (B, N, H / reduction, W / reduction) for each level given."""
        levels = self.model.forward_features(images)
        return [levels[i] for i in self.feature_info.out_indices]

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should leave alone, for timm's optimizers: the gates."""
        return {f"model.{name}" for name in self.model.no_weight_decay()}


def _entry(name: str) -> Callable[..., nn.Module]:
    """The function that timm calls to build a model."""

    def build(
        pretrained: bool = False,
        pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
        num_classes: int | None = None,
        features_only: bool = False,
        out_indices: Sequence[int] | None = None,
        **settings: Any,
    ) -> nn.Module:
        settings.pop("cache_dir", None)
        cfg = pretrained_cfg.to_dict() if isinstance(pretrained_cfg, PretrainedCfg) else pretrained_cfg or {}
        source = {"tag": cfg} if isinstance(cfg, str) else dict(cfg)
        source |= settings.pop("pretrained_cfg_overlay", None) or {}
        full = f"{name}.{source['tag']}" if source.get("tag") and pretrained else name
        if pretrained and not _is_published(name, source):
            if not source.get("file"):
                raise ValueError(f"Weights of {name} from elsewhere are given as checkpoint=, a safetensors file.")
            settings["checkpoint"], pretrained, full = source["file"], False, name
        model = create_model(full, pretrained, num_keypoints=num_classes, **settings)
        built = PyramidFeatures(model, out_indices) if features_only else model
        cfg = _cfg(model.config, architecture=model.config.name).to_dict()
        built.pretrained_cfg = built.default_cfg = cfg  # timm.data reads them
        built.num_classes = model.config.num_keypoints  # type: ignore[assignment]
        return built

    build.__name__, build.__qualname__ = name, name
    return build


def _is_published(name: str, source: Mapping[str, Any]) -> bool:
    """Whether a config names no weights but those of the zoo, as ``_default_cfg`` does."""
    named = {key: source[key] for key in ("file", "hf_hub_id", "url", "state_dict") if source.get(key)}
    return not named or any(
        all(getattr(cfg, key) == value for key, value in named.items()) for cfg in _default_cfg(name).cfgs.values()
    )


def _default_cfg(name: str) -> DefaultCfg:
    cfgs = {}
    for weights in zoo.pretrained_entries(name):
        file = None if weights.folder is None else str(weights.folder / WEIGHTS_FILE)
        config = read_config(weights) or zoo.get_entry(name).config
        cfgs[weights.tag] = _cfg(config, file=file, hf_hub_id=weights.repo)
    return DefaultCfg(
        tags=deque(cfgs or [""]), cfgs=cfgs or {"": _cfg(zoo.get_entry(name).config)}, is_pretrained=bool(cfgs)
    )


def _cfg(config: PoseConfig, **source: Any) -> PretrainedCfg:
    """What timm keeps of a model, and where its weights are."""
    return PretrainedCfg(
        input_size=(config.in_chans, *config.input_size),
        mean=config.mean,
        std=config.std,
        num_classes=config.num_keypoints,
        crop_pct=1.0,
        interpolation="bilinear",
        first_conv="stem.0",
        classifier=None,
        **source,
    )
