"""Find the people in a photo with torchvision's detector, then the keypoints of each.

python examples/detect_people.py [PHOTO] [--min-score 0.7] [--out out/people.jpg]

The first run downloads the detector's weights, 74 MB.
"""

import argparse
from pathlib import Path

import torch
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

import softgate_pose
from softgate_pose.data.images import load_image
from softgate_pose.integrations.detectors import torchvision_boxes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", type=Path, default=Path(__file__).parent / "photo.jpg")
    parser.add_argument("--min-score", type=float, default=0.7, help="what a detection's score must be")
    parser.add_argument("--out", type=Path, default=Path("out/people.jpg"), help="the picture to write")
    options = parser.parse_args()

    detector = fasterrcnn_mobilenet_v3_large_320_fpn(weights="DEFAULT").eval()
    model = softgate_pose.create_model("sgpose_0m5_1s", pretrained=True)

    photo = load_image(options.photo)  # (3, H, W), upright: detector and predict see the same pixels
    with torch.inference_mode():
        (detections,) = detector([photo / 255])
    boxes = torchvision_boxes(detections, min_score=options.min_score)
    poses = softgate_pose.predict(model, photo, boxes, flip_test=True)

    print(f"{options.photo.name}: {len(detections['boxes'])} detections, {len(poses)} of them people")
    for person, (box, scores) in enumerate(zip(poses.boxes.tolist(), poses.scores, strict=True)):
        sides = ", ".join(f"{side:.0f}" for side in box)
        print(f"person {person}: box ({sides}), mean score of its keypoints {scores.mean():.2f}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    poses.draw(photo).save(options.out)
    print(f"Drawn to {options.out}.")


if __name__ == "__main__":
    main()
