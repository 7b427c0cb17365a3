"""People from detectors' own outputs, and poses as supervision's key points."""

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn as DETECTOR

from softgate_pose import COCO, create_model, predict
from softgate_pose.integrations.detectors import supervision_boxes, torchvision_boxes, ultralytics_boxes
from softgate_pose.prediction.poses import Poses

BOXES = [[10.0, 5.0, 40.0, 60.0], [20.0, 5.0, 50.0, 60.0], [1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 9.0]]
SCORES = [0.9, 0.4, 0.8, 0.7]
EXAMPLES = Path(__file__).parent.parent / "examples"
TWO_MEN = json.loads((EXAMPLES / "boxes.json").read_text())["photo.jpg"]
NAMES = {0: "person", 1: "bicycle", 2: "car"}


@pytest.fixture
def supervision():
    """The real package; it warns that it runs without OpenCV, which is not our concern."""
    pytest.importorskip("supervision", reason="needs pip install 'softgate-pose[supervision]'")
    import supervision

    return supervision


needs_no_opencv = pytest.mark.filterwarnings("ignore:OpenCV")


def torchvision_output(labels):
    return {"boxes": torch.tensor(BOXES), "labels": torch.tensor(labels), "scores": torch.tensor(SCORES)}


def ultralytics_results(classes, names=NAMES):
    """The attributes of ultralytics' Results that are read; its own class is not installed here (AGPL)."""
    boxes = SimpleNamespace(
        xyxy=torch.tensor(BOXES), cls=torch.tensor(classes, dtype=torch.float32), conf=torch.tensor(SCORES)
    )
    return SimpleNamespace(boxes=boxes, names=names)


@pytest.mark.parametrize(
    ("convert", "found", "other"),
    [
        (torchvision_boxes, torchvision_output([1, 1, 2, 1]), {"person": 2}),
        (ultralytics_boxes, ultralytics_results([0, 0, 1, 0]), {"person": 1}),
        (ultralytics_boxes, ultralytics_results([7, 7, 1, 7], {1: "ball", 7: "person"}), {"person": 1}),
    ],
)
def test_people_are_told_from_the_rest(convert, found, other):
    assert convert(found).tolist() == BOXES[:1]
    assert convert(found, min_score=0.4).tolist() == BOXES[:2]  # the last has no area
    assert convert(found, **other).tolist() == BOXES[2:3]
    assert convert(found, min_score=1.0).shape == (0, 4)


@needs_no_opencv
@pytest.mark.parametrize("named", [True, False])
def test_people_of_supervision(supervision, named):
    classes = np.array([0, 0, 1, 0]) if not named else np.array([5, 5, 0, 5])
    names = {"class_name": np.array(["person", "person", "car", "person"])} if named else {}
    found = supervision.Detections(xyxy=np.array(BOXES), class_id=classes, confidence=np.array(SCORES), data=names)
    assert supervision_boxes(found).tolist() == BOXES[:1]
    assert supervision_boxes(found, min_score=0).tolist() == BOXES[:2]
    assert supervision_boxes(found, person=0 if named else 1).tolist() == BOXES[2:3]
    assert supervision_boxes(supervision.Detections.empty()).shape == (0, 4)
    assert supervision_boxes(supervision.Detections(xyxy=np.array(BOXES))).tolist() == BOXES[:3]


class KnowingDetector(torch.nn.Module):
    """What a trained detector gives for examples/photo.jpg: both people, one of them twice, and something else."""

    def forward(self, images):
        assert [(image.shape[0], image.min() >= 0, image.max() <= 1) for image in images] == [(3, True, True)]
        boxes = torch.tensor([*TWO_MEN, [12.0, 160, 80, 350], [0.0, 0, 200, 100]])
        return [{"boxes": boxes, "labels": torch.tensor([1, 1, 1, 3]), "scores": torch.tensor([0.99, 0.9, 0.3, 0.95])}]


def untrained_detector():
    """torchvision's own network with random weights, made to call most things people."""
    torch.manual_seed(0)
    detector = DETECTOR(weights=None, weights_backbone=None, box_score_thresh=0.0, box_detections_per_img=9)
    with torch.no_grad():
        detector.roi_heads.box_predictor.cls_score.bias[1] += 9
    return detector


@pytest.mark.parametrize("made", [KnowingDetector, untrained_detector])
def test_the_example_goes_from_photo_to_people_to_keypoints(made, tmp_path, monkeypatch, capsys):
    """Its detector's trained weights come from the network, so the call for them is checked, and answered here."""

    def build(weights):
        assert weights == "DEFAULT"
        return made()

    monkeypatch.setattr("torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn", build)
    monkeypatch.setattr(sys, "argv", ["detect_people.py", "--out", str(tmp_path / "out" / "people.jpg")])
    runpy.run_path(str(EXAMPLES / "detect_people.py"), run_name="__main__")
    first, *people, last = capsys.readouterr().out.splitlines()
    with Image.open(tmp_path / "out" / "people.jpg") as drawn, Image.open(EXAMPLES / "photo.jpg") as photo:
        assert drawn.size == photo.size
    assert last == f"Drawn to {tmp_path / 'out' / 'people.jpg'}."
    if made is untrained_detector:
        assert len(people) > 3
        assert first.endswith(f"detections, {len(people)} of them people")
        return
    assert first == "photo.jpg: 4 detections, 2 of them people"
    model = create_model("sgpose_0m5_1s", pretrained=True)
    poses = predict(model, EXAMPLES / "photo.jpg", TWO_MEN, flip_test=True)
    assert people == [
        f"person {i}: box ({', '.join(map(str, box))}), mean score of its keypoints {poses.scores[i].mean():.2f}"
        for i, box in enumerate(TWO_MEN)
    ]


@pytest.mark.parametrize("convert", [torchvision_boxes, ultralytics_boxes, supervision_boxes])
@pytest.mark.parametrize("wrong", [None, "photo.jpg", {"boxes": []}, torch.zeros(2, 4)])
def test_anything_else_is_refused(convert, wrong):
    got = "dict with boxes" if isinstance(wrong, dict) else type(wrong).__name__
    with pytest.raises(TypeError, match=rf"(boxes, labels|Results|Detections).*{got}"):
        convert(wrong)


@pytest.mark.parametrize(
    ("convert", "found"),
    [(torchvision_boxes, torchvision_output([1] * 4)), (ultralytics_boxes, ultralytics_results([0] * 4))],
)
def test_the_list_of_a_batch_is_refused_with_the_remedy(convert, found):
    with pytest.raises(TypeError, match=r"list.*model\("):
        convert([found])


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"4 boxes.*2 classes"):
        torchvision_boxes({**torchvision_output([1] * 4), "labels": torch.tensor([1, 1])})
    with pytest.raises(ValueError, match=r"'person'.*ball, net.*person="):
        ultralytics_boxes(ultralytics_results([0] * 4, {0: "ball", 1: "net"}))
    segmented = SimpleNamespace(boxes=None, names=NAMES)  # a classifier's results have no boxes
    with pytest.raises(TypeError, match=r"Results.*boxes"):
        ultralytics_boxes(segmented)


@needs_no_opencv
def test_poses_become_key_points(supervision):
    from softgate_pose.integrations.supervision import to_key_points

    torch.manual_seed(0)
    scores = torch.rand(2, 17)
    poses = Poses(torch.rand(2, 17, 2) * 80, scores, torch.tensor([[0.0, 0, 80, 80]]).repeat(2, 1), COCO)
    points = to_key_points(poses, min_score=0.5)
    assert isinstance(points, supervision.KeyPoints)
    assert np.array_equal(points.xy, poses.keypoints.numpy())
    assert np.array_equal(points.keypoint_confidence, scores.numpy())
    assert np.array_equal(points.visible, scores.numpy() >= 0.5)
    assert points.detection_confidence == pytest.approx(scores.mean(dim=1).numpy())
    assert np.array_equal(points[1].data["box"], poses.boxes[1:].numpy())

    edges = [(a + 1, b + 1) for a, b in COCO.edge_indices]
    blank = np.zeros((90, 90, 3), np.uint8)
    drawn = supervision.EdgeAnnotator(edges=edges, thickness=1).annotate(blank.copy(), points)
    assert (drawn != blank).any()
    assert len(to_key_points(Poses(torch.zeros(0, 17, 2), torch.zeros(0, 17), torch.zeros(0, 4), COCO))) == 0


def test_key_points_say_what_to_install(monkeypatch):
    from softgate_pose.integrations.supervision import to_key_points

    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'softgate-pose\[supervision\]'"):
        to_key_points(Poses(torch.zeros(0, 17, 2), torch.zeros(0, 17), torch.zeros(0, 4), COCO))


def test_a_score_at_the_threshold_is_enough():
    for dtype in (torch.float16, torch.float32, torch.float64):
        found = {
            "boxes": torch.tensor(BOXES[:2]),
            "labels": torch.tensor([1, 1]),
            "scores": torch.tensor([0.7, 0.699], dtype=dtype),
        }
        assert torchvision_boxes(found, min_score=0.7).tolist() == BOXES[:1]
