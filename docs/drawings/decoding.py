"""Draw the five decoders on real heatmaps: python docs/drawings/decoding.py writes decoding.png to docs/images.

The bundled model looks at the right man of examples/photo.jpg. Above, a keypoint's heatmap over the crop; below, the
pixels round its peak with what each decoder makes of them.
"""

import json
import sys
from pathlib import Path

import matplotlib
import torch

from softgate_pose import create_model, decode_heatmaps
from softgate_pose.config import STRIDE
from softgate_pose.data.images import load_image, normalize
from softgate_pose.pose import geometry
from softgate_pose.pose.geometry import BOX_SCALE
from softgate_pose.prediction.predict import infer_heatmaps

matplotlib.use("agg")
from matplotlib import pyplot

ROOT = Path(__file__).parent.parent.parent
MODEL = "sgpose_0m5_1s.sports"
KEYPOINTS = ("head_top", "right_elbow", "left_knee")
STYLES = {
    "argmax": {"marker": "s", "color": "#ffffff", "markersize": 8, "markeredgecolor": "black"},
    "quarter": {"marker": "D", "color": "#ffeb3b", "markersize": 8, "markeredgecolor": "black"},
    "soft": {"marker": "o", "color": "none", "markersize": 13, "markeredgecolor": "#40c4ff", "markeredgewidth": 2.5},
    "dark": {"marker": "x", "color": "#d50000", "markersize": 8, "markeredgewidth": 2.5},
    "mass": {"marker": "+", "color": "#00c853", "markersize": 14, "markeredgewidth": 2.5},
}
RADIUS = 2  # heatmap pixels shown round the peak


def main(folder: Path) -> None:
    model = create_model(MODEL)
    size = model.config.input_size
    box = json.loads((ROOT / "examples" / "boxes.json").read_text())["photo.jpg"][1]
    matrix = geometry.box_to_crop(torch.tensor([box]), size, BOX_SCALE)
    crops = geometry.crop(load_image(ROOT / "examples" / "photo.jpg"), matrix, size)
    heatmaps = infer_heatmaps(model, normalize(crops, model.config), flip_test=True)
    decoded = {method: decode_heatmaps(heatmaps, method) for method in STYLES}
    pixels = crops[0].round().byte().permute(1, 2, 0).numpy()

    figure, axes = pyplot.subplots(2, len(KEYPOINTS), figsize=(6.4, 4.9), layout="constrained")
    for column, name in enumerate(KEYPOINTS):
        k = model.config.skeleton.keypoints.index(name)
        heatmap = heatmaps[0, k]
        score = float(decoded["argmax"][1][0, k])
        above, below = axes[:, column]
        above.imshow(pixels)
        edges = (-0.5, size[1] - 0.5, size[0] - 0.5, -0.5)
        above.imshow(heatmap.numpy(), extent=edges, cmap="inferno", alpha=0.55, vmin=0, interpolation="nearest")
        above.set_title(f"{name}\nscore {score:.2f}", fontsize=11)
        above.set_axis_off()

        below.imshow(heatmap.numpy(), cmap="inferno", vmin=0, interpolation="nearest")
        x, y = decoded["argmax"][0][0, k].tolist()
        below.set_xlim(x - RADIUS - 0.5, x + RADIUS + 0.5)
        below.set_ylim(y + RADIUS + 0.5, y - RADIUS - 0.5)
        below.tick_params(labelsize=9)
        print(f"{name}, score {score:.2f}")
        for method, style in STYLES.items():
            x, y = decoded[method][0][0, k].tolist()
            below.plot(x, y, linestyle="none", label=method, **style)
            there = geometry.heatmap_to_input(decoded[method][0][0, k], STRIDE)
            back = geometry.transform_points(geometry.invert(matrix), there.view(1, 1, 2))[0, 0].tolist()
            print(f"  {method:<8} heatmap ({x:5.2f}, {y:5.2f})  photo ({back[0]:6.1f}, {back[1]:6.1f})")
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, facecolor="#90a4ae")
    figure.savefig(folder / "decoding.png", dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
