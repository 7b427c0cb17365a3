"""Other pose networks, without weights: images (B, 3, H, W) to heatmaps (B, K, H / 4, W / 4).

Built from installed packages. Each is what its paper runs at inference, no more. The stacked hourglass and CU-Net are
in the zoo.
"""

from collections.abc import Callable

import timm
from torch import Tensor, nn

__all__ = ["RIVALS"]


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
    "hrnet_w32": lambda num_keypoints, size: HRNetPose("hrnet_w32", num_keypoints),
    "hrnet_w48": lambda num_keypoints, size: HRNetPose("hrnet_w48", num_keypoints),
    "simple_baseline": lambda num_keypoints, size: SimpleBaseline(num_keypoints),
    "vitpose_s": ViTPoseSmall,
}
"""Name to what builds it, given the number of keypoints and the input size."""
