"""Find two people's keypoints in a photo, print one of them, and save a picture."""

import json
from pathlib import Path

import softgate_pose

here = Path(__file__).parent
boxes = json.loads((here / "boxes.json").read_text())["photo.jpg"]

model = softgate_pose.create_model("sgpose_1m9_2s", pretrained=True)
poses = softgate_pose.predict(model, here / "photo.jpg", boxes, flip_test=True)

wrist = poses.keypoint_names.index("right_wrist")
for person in range(len(poses)):
    x, y = poses.keypoints[person, wrist].tolist()
    print(f"person {person}: right wrist at ({x:.0f}, {y:.0f}), score {poses.scores[person, wrist]:.2f}")

out = Path("out")
out.mkdir(exist_ok=True)
poses.draw(here / "photo.jpg").save(out / "poses.png")
