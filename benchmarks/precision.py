"""How far keypoints move with the batch and with the precision: python -m benchmarks.precision.

The people of examples/photo.jpg at three sizes of crop, on the CPU, in photo pixels.
"""

import json
from pathlib import Path

import torch

import softgate_pose
from softgate_pose.model.base import PoseModel
from softgate_pose.prediction.draw import MIN_SCORE

EXAMPLES = Path(__file__).parent.parent / "examples"
SCALES = (1.0, 1.25, 1.5)


def keypoints(model: PoseModel, batch_size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Keypoints (96, 2) and scores (96,)."""
    (boxes,) = json.loads((EXAMPLES / "boxes.json").read_text(encoding="utf-8")).values()
    runs = [
        softgate_pose.predict(model, EXAMPLES / "photo.jpg", boxes, batch_size=batch_size, box_scale=scale)
        for scale in SCALES
    ]
    return torch.cat([poses.keypoints.flatten(0, 1) for poses in runs]), torch.cat([p.scores.flatten() for p in runs])


def main() -> None:
    for name in softgate_pose.list_pretrained():
        model = softgate_pose.create_model(name, pretrained=True)
        exact, scores = keypoints(model)
        drawn = scores >= MIN_SCORE
        others = {"float32, one by one": keypoints(model, 1)[0]}
        for dtype in (torch.float16, torch.bfloat16):
            half = softgate_pose.create_model(name, pretrained=True, dtype=dtype)
            others[str(dtype).removeprefix("torch.")] = keypoints(half)[0]
        print(f"{name}: {len(exact)} keypoints, {int(drawn.sum())} of them with a score of at least {MIN_SCORE}")
        for label, points in others.items():
            moved = (points - exact).norm(dim=1)
            summaries = [f"median {part.median():.3g}, largest {part.max():.3g}" for part in (moved, moved[drawn])]
            print(f"  {label:<20} all: {summaries[0]}; those: {summaries[1]}")


if __name__ == "__main__":
    main()
