"""Other pose networks, without weights: images (B, 3, H, W) to heatmaps (B, K, H / 4, W / 4).

Built from installed packages, or here from the paper. Each is what the paper runs at inference, no more.
"""

from collections.abc import Callable

import timm
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["RIVALS"]


class Residual(nn.Module):
    """Bottleneck of Newell et al.: norm, ReLU and convolution of 1×1, 3×3 and 1×1 at half the width."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.layers = nn.Sequential(
            *(nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True), nn.Conv2d(in_channels, half, 1)),
            *(nn.BatchNorm2d(half), nn.ReLU(inplace=True), nn.Conv2d(half, half, 3, padding=1)),
            *(nn.BatchNorm2d(half), nn.ReLU(inplace=True), nn.Conv2d(half, out_channels, 1)),
        )
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + self.skip(x)


class HourglassLevel(nn.Module):
    """One level of an hourglass: a residual beside half the resolution, added."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.skip, self.down, self.up = (Residual(width, width) for _ in range(3))
        self.inner = HourglassLevel(width, depth - 1) if depth > 1 else Residual(width, width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.up(self.inner(self.down(F.max_pool2d(x, 2))))
        return self.skip(x) + F.interpolate(inner, scale_factor=2.0, mode="nearest")


class StackedHourglass(nn.Module):
    """Newell, Yang, Deng: "Stacked hourglass networks for human pose estimation", ECCV 2016 (arXiv 1603.06937)."""

    def __init__(self, num_keypoints: int, num_stacks: int = 8, width: int = 256) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *(nn.Conv2d(3, 64, 7, stride=2, padding=3), nn.BatchNorm2d(64), nn.ReLU(inplace=True)),
            *(Residual(64, 128), nn.MaxPool2d(2), Residual(128, 128), Residual(128, width)),
        )
        stacks = range(num_stacks)
        self.hourglasses = nn.ModuleList(
            nn.Sequential(HourglassLevel(width, 4), Residual(width, width)) for _ in stacks
        )
        self.necks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)) for _ in stacks
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, num_keypoints, 1) for _ in stacks)
        self.feature_joins = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in stacks[1:])
        self.heatmap_joins = nn.ModuleList(nn.Conv2d(num_keypoints, width, 1) for _ in stacks[1:])

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for i, (hourglass, neck, head) in enumerate(zip(self.hourglasses, self.necks, self.heads, strict=True)):
            features = neck(hourglass(x))
            heatmaps = head(features)
            if i < len(self.feature_joins):
                x = x + self.feature_joins[i](features) + self.heatmap_joins[i](heatmaps)
        return heatmaps


class HRNetPose(nn.Module):
    """Sun et al., CVPR 2019: timm's HRNet, whose last fusion makes the finest branch alone, and a 1×1 head."""

    def __init__(self, name: str, num_keypoints: int) -> None:
        super().__init__()
        self.backbone = timm.create_model(name, features_only=True, feature_location="", out_indices=(1,))
        last = self.backbone.stage4[-1]
        last.fuse_layers = last.fuse_layers[:1]
        self.head = nn.Conv2d(int(name.removeprefix("hrnet_w")), num_keypoints, 1)  # the finest branch's width

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images)[0])


class SimpleBaseline(nn.Module):
    """Xiao, Wu, Wei, ECCV 2018: ResNet-50, three deconvolutions of 256 channels, and a 1×1 head."""

    def __init__(self, num_keypoints: int) -> None:
        super().__init__()
        self.backbone = timm.create_model("resnet50", features_only=True, out_indices=(4,))
        layers: list[nn.Module] = []
        for channels in (2048, 256, 256):
            deconvolution = nn.ConvTranspose2d(channels, 256, 4, stride=2, padding=1, bias=False)
            layers += [deconvolution, nn.BatchNorm2d(256), nn.ReLU(inplace=True)]
        self.head = nn.Sequential(*layers, nn.Conv2d(256, num_keypoints, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images)[0])


class ViTPoseSmall(nn.Module):
    """Xu et al., NeurIPS 2022: ViT-S of patch 16 and the classic decoder, from transformers."""

    def __init__(self, num_keypoints: int, size: tuple[int, int]) -> None:
        super().__init__()
        from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

        backbone = VitPoseBackboneConfig(
            image_size=list(size), hidden_size=384, num_hidden_layers=12, num_attention_heads=12, out_indices=[12]
        )
        config = VitPoseConfig(backbone_config=backbone, num_labels=num_keypoints, use_simple_decoder=False)
        self.model = VitPoseForPoseEstimation(config)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).heatmaps


RIVALS: dict[str, Callable[[int, tuple[int, int]], nn.Module]] = {
    "hourglass_8s": lambda num_keypoints, size: StackedHourglass(num_keypoints),
    "hrnet_w32": lambda num_keypoints, size: HRNetPose("hrnet_w32", num_keypoints),
    "hrnet_w48": lambda num_keypoints, size: HRNetPose("hrnet_w48", num_keypoints),
    "simple_baseline": lambda num_keypoints, size: SimpleBaseline(num_keypoints),
    "vitpose_s": ViTPoseSmall,
}
"""Name to what builds it, given the number of keypoints and the input size."""
