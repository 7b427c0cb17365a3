"""The network for inference alone: fewer passes over memory and fewer multiply-adds, the same heatmaps."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from softgate_pose.config import PoseConfig
from softgate_pose.model.base import PoseModel
from softgate_pose.model.softgate import MergeBlock, SoftGatedBlock, SoftGatePose

__all__ = ["DeployedPose", "deploy"]


def deploy(model: PoseModel) -> PoseModel:
    """A faster form of a model, for inference: the same heatmaps, up to rounding.

    In float32 they agree to 1e-5 of the largest value. ``predict``, ``evaluate``, ``export_model`` and
    ``torch.compile`` take it like the model itself. It cannot be trained or saved, so keep the model.

    Args:
        model: From ``create_model``; it is left as it is.

    Returns:
        A network on the model's device and of its dtype, in evaluation mode, with channels-last weights.

    Raises:
        TypeError: If ``model`` is not a ``PoseModel``.
    """
    if not isinstance(model, PoseModel):
        raise TypeError(f"deploy takes a model from create_model, got {type(model).__name__}.")
    return model.deploy()


class DeployedPose(PoseModel):
    """What ``deploy`` returns.

    A batch norm in evaluation mode is ``s * x + t`` per channel. What follows from that:

    - The stem's and the necks' follow a convolution whose output nobody else reads: they go into its weights.
    - A block's cannot. Its bn1 follows a sum that the skip path reads, too; bn2 and bn3 follow o1 and o2, which
      are parts of the output. Taking ``s * o + t`` back out of the output would divide by ``s``, and some ``s``
      are next to 0. They stay, as one multiply-add.
    - A merge's first convolution is linear in its two inputs, so ``conv(concat(skip, up(x)))`` is
      ``conv_a(skip) + conv_b(up(x))``. Norm and ReLU act on each pixel alone and come before the doubling, on a
      quarter of the pixels; the doubling and ``conv_b`` together are one transposed convolution.
    - Between stacks, features and heatmaps reach the next stack through 1×1 convolutions with nothing between:
      ``join_f(f) + join_h(head(f))`` is one 1×1 convolution, and only the last stack's head is left.

    Attributes:
        config: The model's config.
    """

    def __init__(self, model: SoftGatePose) -> None:
        super().__init__()
        self.config: PoseConfig = model.config
        stem: Any = model.stem
        necks: Any = model.necks
        joins: Any = zip(model.feature_joins, model.heatmap_joins, model.heads, strict=False)
        self.stem = nn.Sequential(_fold(stem[0], stem[1]), nn.ReLU(inplace=True), nn.MaxPool2d(2), _Block(stem[4]))
        self.hourglasses = nn.ModuleList(_with_fast_blocks(copy.deepcopy(level)) for level in model.hourglasses)
        self.necks = nn.ModuleList(nn.Sequential(_fold(neck[0], neck[1]), nn.ReLU(inplace=True)) for neck in necks)
        self.joins = nn.ModuleList(_fold_join(*join) for join in joins)
        self.head = copy.deepcopy(model.heads[-1])

    def forward(self, images: Tensor) -> Tensor:
        """Heatmaps (B, K, H / 4, W / 4) of normalised images (B, C, H, W), as the model itself gives them."""
        self._check_images(images)
        x = self.stem(images)
        for i, join in enumerate(self.joins):
            x = x + join(self.necks[i](self.hourglasses[i](x)))
        return self._to_heatmaps(self.head(self.necks[-1](self.hourglasses[-1](x))))


class _NormReLU(nn.Module):
    """ReLU(s * x + t), of some of a batch norm's channels."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm2d, channels: slice = slice(None)) -> None:
        super().__init__()
        for name, value in zip(("scale", "shift"), _affine(norm), strict=True):
            self.register_buffer(name, value[channels].view(1, -1, 1, 1).to(norm.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, self.scale, x).relu_()


class _Outputs(nn.Module):
    """A block's o1 to concat(o1, o2, o3)."""

    def __init__(self, block: SoftGatedBlock) -> None:
        super().__init__()
        self.norm2, self.conv2 = _NormReLU(block.bn2), copy.deepcopy(block.conv2)
        self.norm3, self.conv3 = _NormReLU(block.bn3), copy.deepcopy(block.conv3)

    def forward(self, o1: Tensor) -> Tensor:  # (B, N / 2, h, w) -> (B, N, h, w)
        o2 = self.conv2(self.norm2(o1))
        return torch.cat((o1, o2, self.conv3(self.norm3(o2))), dim=1)


class _Block(nn.Module):
    """A soft-gated block."""

    alpha: Tensor | None

    def __init__(self, block: SoftGatedBlock) -> None:
        super().__init__()
        self.norm1, self.conv1 = _NormReLU(block.bn1), copy.deepcopy(block.conv1)
        self.outputs = _Outputs(block)
        self.register_buffer("alpha", None if block.alpha is None else block.alpha.detach().clone())

    def forward(self, x: Tensor) -> Tensor:  # (B, N, h, w) -> (B, N, h, w)
        y: Tensor = self.outputs(self.conv1(self.norm1(x)))
        return y if self.alpha is None else y.addcmul_(self.alpha, x)


class _ConcatMerge(nn.Module):
    """Doubles, concatenates and applies the decoder's block, without a doubled or a concatenated tensor."""

    def __init__(self, block: SoftGatedBlock) -> None:
        super().__init__()
        width = block.conv1.in_channels // 2
        self.norm_skip = _NormReLU(block.bn1, slice(width))
        self.norm_x = _NormReLU(block.bn1, slice(width, None))
        # With two groups the first half of the outputs reads the skip branch alone, and the other half x.
        self.grouped = block.conv1.groups == 2
        weight = block.conv1.weight.detach()
        of_skip, of_x = weight.chunk(2, dim=0 if self.grouped else 1)
        self.conv_skip = _filled(nn.Conv2d(width, len(of_skip), 3, padding=1, bias=False), of_skip, None, weight)
        self.conv_x = _doubling_conv(of_x)
        self.outputs = _Outputs(block)

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:  # (B, N, h, w), (B, N, h / 2, w / 2) -> (B, N, h, w)
        a, b = self.conv_skip(self.norm_skip(skip)), self.conv_x(self.norm_x(x))
        out: Tensor = self.outputs(torch.cat((a, b), dim=1) if self.grouped else a.add_(b))
        return out


def _with_fast_blocks(module: nn.Module) -> nn.Module:
    """Change a module's blocks and merges, in place."""
    for name, child in module.named_children():
        if isinstance(child, MergeBlock) and not child.sums:
            setattr(module, name, _ConcatMerge(child.block))
        elif isinstance(child, SoftGatedBlock):
            setattr(module, name, _Block(child))
        else:
            _with_fast_blocks(child)
    return module


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The scale and shift (C,) of a batch norm in evaluation mode, in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - scale * norm.running_mean.double()


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """``norm(conv(x))`` as one convolution."""
    scale, shift = _affine(norm)
    folded = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)  # type: ignore[arg-type]
    return _filled(folded, conv.weight.detach().double() * scale.view(-1, 1, 1, 1), shift, conv.weight)


def _fold_join(feature_join: nn.Conv2d, heatmap_join: nn.Conv2d, head: nn.Conv2d) -> nn.Conv2d:
    """``feature_join(x) + heatmap_join(head(x))`` as one 1×1 convolution."""
    # two 1×1 convolutions in a row are one matrix product, (N, K) @ (K, N)
    join, inner = (conv.weight.detach().double().flatten(1) for conv in (heatmap_join, head))
    weight = feature_join.weight.detach().double() + (join @ inner)[..., None, None]
    bias = _bias(feature_join) + _bias(heatmap_join) + join @ _bias(head)
    return _filled(nn.Conv2d(head.in_channels, len(bias), 1), weight, bias, head.weight)


def _doubling_conv(weight: Tensor) -> nn.ConvTranspose2d:
    """Nearest doubling and then a 3×3 convolution of padding 1, as one transposed convolution.

    Along an axis, output u reads with tap k the doubled pixel v = u + k - 1, a copy of pixel i = v // 2. A
    transposed convolution of stride 2 and padding 1 adds its tap m of pixel i to the output u = 2 i + m - 1. Of
    the two copies v = 2 i and 2 i + 1, that output reads k = 2 - m and k = 3 - m: its tap m is w[2 - m] + w[3 - m],
    of those that exist. Each output meets 2×2 of the 4×4 taps, in place of 3×3. ``weight`` is (O, I, 3, 3).
    """
    taps = weight.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float64)  # (4, 3)
    out_channels, in_channels = weight.shape[:2]
    conv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
    return _filled(conv, (taps @ weight.detach().double() @ taps.T).transpose(0, 1), None, weight)


_Conv = TypeVar("_Conv", nn.Conv2d, nn.ConvTranspose2d)


def _filled(conv: _Conv, weight: Tensor, bias: Tensor | None, like: Tensor) -> _Conv:
    """A convolution with these values, of the dtype and on the device of ``like``."""
    conv.weight = nn.Parameter(weight.to(like.dtype))
    conv.bias = None if bias is None else nn.Parameter(bias.to(like.dtype))
    return conv


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias.detach().double()
