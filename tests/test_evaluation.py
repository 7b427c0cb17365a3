import io
import json
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pycocotools.coco
import pytest
import torch
from click.testing import CliRunner
from made_data import mpii_rect, write_images, write_release
from PIL import Image
from pycocotools.cocoeval import COCOeval
from scipy.io import savemat

from softgate_pose import COCO, LSP, MPII, PoseConfig, Skeleton, predict, save_pretrained
from softgate_pose.cli import evaluate as cli_evaluate
from softgate_pose.cli import main
from softgate_pose.data.coco import read_coco_annotations
from softgate_pose.data.people import People, Predictions
from softgate_pose.data.sources import READERS, read_people, read_people_and_coco
from softgate_pose.evaluation.files import read_predictions, write_predictions
from softgate_pose.evaluation.oks import coco_results, require_pycocotools, score_oks
from softgate_pose.evaluation.pck import evaluate, mean_pose_keypoints, person_errors, score_keypoints
from softgate_pose.evaluation.run import evaluate_source
from softgate_pose.model.softgate import SoftGatePose
from softgate_pose.prediction.predict import predict_people
from softgate_pose.zoo import BUNDLED

ROOT = Path(__file__).parent.parent
PAWS = Skeleton("paws", ("nose", "left_paw", "right_paw", "hip", "tail"))


def people_of(skeleton, count, folder=None, *, seed=0, **columns):
    """Random people, all labelled, each in an 80 x 60 image of its own if there is a folder for them."""
    generator = torch.Generator().manual_seed(seed)
    images = tuple((folder or Path()) / f"{i}.png" for i in range(count))
    for i, file in enumerate(images if folder else ()):
        pixels = np.random.default_rng(i).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    defaults = {
        "keypoints": 5 + 50 * torch.rand(count, len(skeleton), 2, generator=generator, dtype=torch.float64),
        "labelled": torch.ones(count, len(skeleton), dtype=torch.bool),
        "boxes": torch.tensor([[4.0, 4.0, 56.0, 56.0]], dtype=torch.float64).repeat(count, 1),
        "head_boxes": torch.full((count, 4), math.nan, dtype=torch.float64),
        "files": (),
    }
    return People(skeleton, images, **{**defaults, **columns})


def head_boxes(*rows):
    return torch.tensor([row or [math.nan] * 4 for row in rows], dtype=torch.float64)


def test_perfect_predictions_score_full_marks():
    lsp = people_of(LSP, 6)
    result = score_keypoints(lsp.keypoints, lsp)
    assert (result.protocol, result.table["mean"], result.people) == ("PCK@0.2", 100, 6)
    mpii = people_of(MPII, 3, head_boxes=head_boxes([10, 10, 18, 16], None, [5, 5, 9, 9]))
    result = score_keypoints(mpii.keypoints, mpii)
    assert (result.protocol, result.table["mean"], result.table["mean@0.1"]) == ("PCKh@0.5", 100, 100)
    assert (result.people, result.left_out) == (2, 1)  # one has no head box


def test_pckh_by_hand():
    """Head size 30: correct within 15, the tie included; one is missing, one not labelled, one has no head box."""
    people = people_of(MPII, 3, head_boxes=head_boxes([10, 20, 40, 60], [0, 0, 30, 40], None))
    ankle, knee, hip, pelvis, top = MPII.indices(("right_ankle", "right_knee", "right_hip", "pelvis", "head_top"))
    people.labelled[:] = False
    people.labelled[:, [ankle, knee, hip, pelvis]] = True
    people.labelled[1, hip] = False
    people.keypoints[:] = torch.tensor([100.0, 100.0], dtype=torch.float64)
    predictions = people.keypoints.clone()
    predictions[0, ankle] += torch.tensor([9.0, 12.0])  # 15 away: 0.5 exactly
    predictions[1, ankle] += torch.tensor([9.0, 12.001])
    predictions[0, knee] = math.nan
    predictions[1, knee] += torch.tensor([3.0, 0.0])  # 0.1 exactly
    predictions[:2, pelvis] += 500
    predictions[:, top] = math.nan  # not labelled
    result = score_keypoints(predictions, people)
    assert result.table == {"hip": 100, "knee": 50, "ankle": 50, "mean": 60, "limbs": 60, "mean@0.1": 40}
    assert (result.people, result.left_out) == (2, 1)
    errors = person_errors(predictions, people)
    assert errors[0] == math.inf
    assert float(errors[1]) == pytest.approx((math.hypot(9, 12.001) + 3 + math.hypot(500, 500)) / 30 / 3)
    assert errors[2].isnan()


def test_pck_by_hand():
    """Torso 15: correct within 3, the tie included; one has no torso, one nothing labelled."""
    people = people_of(LSP, 3)
    shoulder, hip, wrist = LSP.indices(("left_shoulder", "right_hip", "left_wrist"))
    people.labelled[:] = False
    people.labelled[0, [shoulder, hip, wrist]] = True
    people.labelled[1, [shoulder, wrist]] = True
    people.keypoints[0, shoulder], people.keypoints[0, hip] = torch.tensor([[1.0, 2.0], [10.0, 14.0]]).double()
    predictions = people.keypoints.clone()
    predictions[0, shoulder, 0] += 3
    predictions[0, hip, 1] += 3.001
    predictions[0, wrist] = math.nan
    result = score_keypoints(predictions, people)
    assert {part: round(value) for part, value in result.table.items()} == {
        "shoulder": 100, "wrist": 0, "hip": 0, "mean": 33, "limbs": 33,
    }  # fmt: skip
    assert (result.people, result.left_out) == (1, 2)


def test_the_length_is_head_else_torso_else_box():
    mpii = people_of(MPII, 2, head_boxes=head_boxes(None, [1, 1, 5, 4]))
    assert score_keypoints(mpii.keypoints, mpii).protocol == "PCKh@0.5"
    for skeleton in (MPII, LSP, COCO):
        people = people_of(skeleton, 2)
        assert score_keypoints(people.keypoints, people).protocol == "PCK@0.2"
    torsoless = people_of(LSP, 2)
    torsoless.labelled[:, LSP.indices(("right_hip",))] = False
    assert score_keypoints(torsoless.keypoints, torsoless).protocol == "PCK@0.1 of the box"


def test_definitions_say_what_the_mean_leaves_out():
    mpii, lsp = people_of(MPII, 1), people_of(LSP, 1)
    assert "without pelvis and thorax" in score_keypoints(mpii.keypoints, mpii).definition
    assert "without" not in score_keypoints(lsp.keypoints, lsp).definition


def test_own_keypoints_are_scored_by_the_box():
    """Boxes of 40 x 30: correct within 4."""
    boxes = torch.tensor([[0.0, 0, 40, 30], [0, 0, 30, 40]], dtype=torch.float64)
    people = people_of(PAWS, 2, boxes=boxes)
    people.labelled[:, 4] = False
    predictions = people.keypoints.clone()
    predictions[0, 0, 0] += 4
    predictions[1, 1, 1] += 4.01
    result = score_keypoints(predictions, people)
    assert result.table == {"nose": 100, "left_paw": 50, "right_paw": 100, "hip": 100, "mean": 87.5}
    assert result.to_dict() == {"protocol": "PCK@0.1 of the box", "people": 2, "left_out": 0, **result.table}
    torch.testing.assert_close(person_errors(predictions, people), torch.tensor([0.1, 4.01 / 40]).double() / 4)


def test_nobody_to_score_is_no_nan():
    people = people_of(MPII, 2, labelled=torch.zeros(2, 16, dtype=torch.bool))
    assert score_keypoints(people.keypoints, people).to_dict() == {
        "protocol": "PCK@0.1 of the box", "people": 0, "left_out": 2,
    }  # fmt: skip
    assert person_errors(people.keypoints, people).isnan().all()


def test_evaluating_predicts_in_image_pixels(tiny_model, tmp_path):
    people = people_of(LSP, 6, tmp_path)
    keypoints = predict_people(tiny_model, people, batch_size=4).keypoints
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"batch_size.* {size}"):
            predict_people(tiny_model, people, batch_size=size)
    assert keypoints.shape == (6, 14, 2)
    assert evaluate(tiny_model, people, flip_test=True).people == 6
    single = predict(tiny_model, people.images[3], people.boxes[3:4])
    torch.testing.assert_close(single.keypoints[0], keypoints[3], atol=1e-3, rtol=0)


def test_a_model_that_lacks_a_keypoint_cannot_be_scored(tiny_model):
    with pytest.raises(ValueError, match="pelvis, thorax"):
        evaluate(tiny_model, people_of(MPII, 1))


def test_the_mean_pose_fills_each_box():
    people = people_of(LSP, 6)
    people = people_of(LSP, 6, boxes=people.boxes * torch.linspace(0.5, 1, 6, dtype=torch.float64)[:, None])
    found = mean_pose_keypoints(people, people)
    sizes = people.boxes[:, 2:] - people.boxes[:, :2]
    relative = (people.keypoints - people.boxes[:, None, :2]) / sizes[:, None]
    torch.testing.assert_close(found, relative.mean(0) * sizes[:, None] + people.boxes[:, None, :2])


# --- files of predictions -------------------------------------------------------------------------


def own_json(people, **changes):
    return {"keypoint_names": list(people.skeleton.keypoints), "keypoints": people.keypoints.tolist(), **changes}


def written(file, data):
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    return file


@pytest.mark.parametrize("scores", [None, torch.rand(3, 14)])
def test_written_predictions_come_back_exactly(tmp_path, scores):
    people = people_of(LSP, 3)
    points = (people.keypoints + 1 / 3).float()
    points[1, 4] = math.nan
    write_predictions(tmp_path / "p.json", Predictions(LSP.keypoints, points, scores))
    found = read_predictions(tmp_path / "p.json", people)
    assert found.keypoint_names == LSP.keypoints
    torch.testing.assert_close(found.keypoints, points.double(), equal_nan=True, rtol=0, atol=0)
    assert (found.scores is None) == (scores is None)
    assert scores is None or torch.equal(found.scores, scores.double())
    assert score_keypoints(found.keypoints, people) == score_keypoints(points, people)
    assert [file.name for file in tmp_path.iterdir()] == ["p.json"]


def test_keypoints_are_matched_by_name_and_others_ignored(tmp_path):
    people = people_of(PAWS, 2)
    order = [4, 2, 0, 3, 1]
    data = {
        "keypoint_names": ["whisker", *(PAWS.keypoints[k] for k in order)],
        "keypoints": [[[0, 0], *(person[k] for k in order)] for person in people.keypoints.tolist()],
    }
    found = read_predictions(written(tmp_path / "p.json", data), people)
    assert torch.equal(found.select_keypoints(PAWS.keypoints).keypoints, people.keypoints)
    with pytest.raises(ValueError, match=r"p\.json.* right_ankle,"):
        read_predictions(tmp_path / "p.json", people_of(LSP, 2))


def test_mpii_s_matlab_file_becomes_zero_based(tmp_path):
    people = people_of(MPII, 3)
    savemat(tmp_path / "pred.mat", {"preds": people.keypoints.numpy() + 1})
    found = read_predictions(tmp_path / "pred.mat", people)
    torch.testing.assert_close(found.keypoints, people.keypoints)
    lsp = people.to_skeleton(LSP)
    assert read_predictions(tmp_path / "pred.mat", lsp).select_keypoints(LSP.keypoints).keypoints.shape == (3, 14, 2)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"preds": np.zeros((2, 14, 2))}, r"preds.*\(N, 16, 2\).* \(2, 14, 2\)"),
        ({"preds": np.zeros((2, 16))}, r"preds.* \(2, 16\)"),
        ({"pred": np.zeros((2, 16, 2))}, "'preds'.*'pred'"),
        ({"preds": np.full((2, 16, 2), np.nan)}, "nan for person 0, right_ankle"),
        ({"preds": np.full((2, 16, 2), 1e16)}, r"1e\+16 for person 0, right_ankle"),
        ({"preds": np.zeros((5, 16, 2))}, "for 5 people.* have 2"),
    ],
)
def test_broken_matlab_files(tmp_path, arrays, match):
    savemat(tmp_path / "pred.mat", arrays)
    with pytest.raises(ValueError, match=match):
        read_predictions(tmp_path / "pred.mat", people_of(MPII, 2))


def test_predictions_that_are_not_there_or_no_predictions(tmp_path):
    people = people_of(MPII, 2)
    with pytest.raises(FileNotFoundError, match=r"p\.json"):
        read_predictions(tmp_path / "p.json", people)
    with pytest.raises(ValueError, match="'preds'"):
        read_predictions(written(tmp_path / "p.mat", "text"), people)


POINTS = [[[1, 2]] * 5] * 2


def paws(keypoints=POINTS, **changes):
    return {"keypoint_names": PAWS.keypoints, "keypoints": keypoints, **changes}


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"keypoint_names": ["a"], "keypoints": [[[NaN, 1]]]}', "NaN"),
        ("3", "3"),
        ({"keypoints": POINTS}, "keypoint_names"),
        (paws(POINTS + POINTS), "for 4 people.* have 2"),
        (paws(keypoint_names=["a"] * 5), "keypoint_names.* a, a"),
        (paws(keypoint_names=[]), "keypoint_names .* 0"),
        (paws(keypoint_names=["a", 5]), r"keypoint_names\[1\].* 5"),
        (paws(keypoint_names=list("abcd")), r"keypoints\[0\].* 4 .* 5"),
        (paws(keypoints=[]), "keypoints .* 0"),
        (paws(keypoints=5), "keypoints .*5"),
        (paws(keypoints=[None, None]), r"keypoints\[0\].* None"),
        (paws(keypoints=[[[1, 2, 3]] * 5] * 2), r"keypoints\[0\]\[0\].* 2 .* 3"),
        (paws(keypoints=[[["1", 2]] * 5] * 2), r"keypoints\[0\]\[0\]\[0\].* '1'"),
        (paws(keypoints=[[[2, True]] * 5] * 2), r"keypoints\[0\]\[0\]\[1\].* True"),
        (paws(keypoints=[[[10**400, 2]] * 5] * 2), r"keypoints\[0\]\[0\]\[0\]"),
        (paws(keypoints=[[[-1e16, 2]] * 5] * 2), r"keypoints\[0\]\[0\]\[0\].* -1e\+16"),
        (paws(scores=[[1] * 5]), "scores .*2 people.* 1"),
        (paws(scores=[[1] * 4] * 2), r"scores\[0\] .*5 .* 4"),
        (paws(scores=[[None] * 5] * 2), r"scores\[0\]\[0\].* None"),
    ],
)
def test_broken_predictions(tmp_path, data, match):
    with pytest.raises(ValueError, match=match) as caught:
        read_predictions(written(tmp_path / "p.json", data), people_of(PAWS, 2))
    assert "p.json" in str(caught.value)


RESULT = {"image_id": 1, "category_id": 1, "keypoints": [1] * 15, "score": 0.5}


# --- COCO's average precision ---------------------------------------------------------------------


def coco_annotation(number, keypoints, *, image_id=1, side=100, visible=2, **changes):
    """An annotation of area side x side; a keypoint that is None is not labelled."""
    flat = [value for point in keypoints for value in ((*point, visible) if point else (0, 0, 0))]
    row = {
        "id": number, "image_id": image_id, "category_id": 1, "keypoints": flat, "bbox": [0, 0, side, side],
        "area": side * side, "iscrowd": 0, "num_keypoints": sum(map(bool, keypoints)),
    }  # fmt: skip
    return {**row, **changes}


def coco_source(folder, annotations, names=COCO.keypoints, images=4):
    """coco:FOLDER:val, with 80 x 60 images."""
    data = {
        "categories": [{"id": 1, "name": "person", "keypoints": list(names), "skeleton": []}],
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(1, images + 1)],
        "annotations": annotations,
    }
    for name in ("annotations", "val"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "annotations" / "person_keypoints_val.json").write_text(json.dumps(data))
    for i in range(1, images + 1):
        Image.new("RGB", (80, 60), (40 * i, 90, 120)).save(folder / "val" / f"{i}.png")
    return f"coco:{folder}:val"


def annotations_of(source):
    return read_people_and_coco(source)[1]


def points_17(seed=0, extent=60):
    return np.random.default_rng(seed).uniform(5, extent, (17, 2)).round(1).tolist()


def many_annotations():
    """Nine people in three images, some small, some with few labels, one crowd and one without labels."""
    rows = []
    for n in range(9):
        points = [p if (n + k) % 4 or n % 2 else None for k, p in enumerate(points_17(n))]
        rows.append(coco_annotation(n + 1, points, image_id=1 + n % 3, side=(20, 50, 150)[n % 3]))
    crowd = coco_annotation(10, points_17(10), iscrowd=1)
    return [crowd, *rows, coco_annotation(11, [None] * 17, image_id=2)]


def perturbed(people, size, seed=1):
    generator = torch.Generator().manual_seed(seed)
    noise = size * torch.randn(people.keypoints.shape, generator=generator, dtype=torch.float64)
    scores = torch.rand(people.keypoints.shape[:2], generator=generator)
    return Predictions(people.skeleton.keypoints, people.keypoints + noise, scores)


def test_oks_of_one_person_by_hand(tmp_path):
    """Nose off by d with exp(-d2 / (2 area (2 sigma)2)) = 0.44, an ankle exact: OKS 0.72, so 5 of 10 thresholds."""
    points = [None] * 17
    nose, ankle = COCO.indices(("nose", "left_ankle"))
    points[nose], points[ankle] = (30.0, 20.0), (50.0, 50.0)
    source = coco_source(tmp_path, [coco_annotation(1, points)])
    people = read_people(source)
    off = math.sqrt(-math.log(0.44) * 2 * 100**2 * (2 * 0.026) ** 2)
    predictions = Predictions(COCO.keypoints, people.keypoints.clone())
    predictions.keypoints[0, nose, 0] += off
    predictions.keypoints[0, 5] = 1e6  # not labelled
    result = score_oks(predictions, annotations_of(source))
    assert result.table == pytest.approx({"AP": 50, "AP50": 100, "AP75": 0, "APL": 50, "AR": 50})
    assert (result.protocol, result.people, result.left_out) == ("OKS AP on annotated boxes", 1, 0)
    predictions.keypoints[0, nose] = math.nan  # infinitely far: OKS 0.5
    assert score_oks(predictions, annotations_of(source)).table["AP"] == pytest.approx(10)


@pytest.mark.parametrize("ids", [(1, "two", 3.5), (-1, 2**63, 2**63 + 1)], ids=["mixed", "large"])
def test_images_may_have_ids_of_any_kind(tmp_path, ids):
    """pycocotools sorts them, and makes floats of large ones, which are then not found."""
    source = coco_source(tmp_path, many_annotations())
    file = annotations_of(source).file
    data = json.loads(file.read_text())
    names = dict(zip((1, 2, 3), ids, strict=True))
    for image in data["images"]:
        image["id"] = names.get(image["id"], image["id"])
    for row in data["annotations"]:
        row["image_id"] = names[row["image_id"]]
    numbered, annotations = annotations_of(source), None
    file.write_text(json.dumps(data))
    annotations = annotations_of(source)
    predictions = perturbed(read_people(source), 4)
    table = score_oks(predictions, annotations).table
    assert table == score_oks(predictions, numbered).table
    assert 5 < table["AP"] < 95


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_results_whose_keypoints_are_missing_or_far_away_match_nobody(tmp_path, value):
    annotations = annotations_of(coco_source(tmp_path, [coco_annotation(1, points_17())]))
    assert (
        score_oks([{**RESULT, "keypoints": [value, value, 1, 5, 5, 1] * 8 + [value] * 3}], annotations).table["AP"] == 0
    )


def test_perfect_predictions_have_full_average_precision(tmp_path):
    source = coco_source(tmp_path, many_annotations())
    people = read_people(source)
    result = score_oks(Predictions(COCO.keypoints, people.keypoints), annotations_of(source))
    assert result.table == pytest.approx(dict.fromkeys(("AP", "AP50", "AP75", "APM", "APL", "AR"), 100))
    assert (result.people, result.left_out) == (9, 2)


def test_average_precision_is_what_pycocotools_gives_for_the_file(tmp_path, capsys):
    """The plain use of pycocotools, on the annotations and the results as files."""
    source = coco_source(tmp_path, many_annotations())
    predictions = perturbed(read_people(source), 4)
    annotations = annotations_of(source)
    results = coco_results(predictions, annotations)
    file = written(tmp_path / "results.json", results)
    found = score_oks(predictions, annotations)
    assert capsys.readouterr().out == ""

    truth = pycocotools.coco.COCO(annotations.file)
    evaluator = COCOeval(truth, truth.loadRes(str(file)), "keypoints")
    evaluator.evaluate(), evaluator.accumulate(), evaluator.summarize()
    assert list(found.table.values()) == pytest.approx([100 * value for value in evaluator.stats[:6]], abs=1e-9)
    assert 5 < found.table["AP"] < 95

    again = read_predictions(file, read_people(source))
    assert score_oks(again, annotations).table == found.table
    boxed = [{**row, "bbox": [0, 0, 1, 1]} for row in again]
    assert score_oks(boxed, annotations).table == found.table
    assert score_oks([], annotations).table["AP"] == 0


def test_ids_of_zero_and_fields_left_out_are_no_trouble(tmp_path):
    rows = [coco_annotation(n, points_17(n), image_id=n + 1) for n in range(3)]
    for row in rows:
        for key in ("area", "iscrowd", "num_keypoints", "id"):
            del row[key]
    rows[0]["id"] = 0
    source = coco_source(tmp_path, rows)
    annotations = annotations_of(source)
    result = score_oks(Predictions(COCO.keypoints, read_people(source).keypoints), annotations)
    assert result.table["AP"] == pytest.approx(100)
    assert "no area is annotated it is the box's" in result.definition


def test_own_keypoints_have_one_sigma(tmp_path):
    source = coco_source(tmp_path, [coco_annotation(1, [(10, 10), (20, 20), None, (30, 40), None])], PAWS.keypoints)
    people, annotations = read_people(source), annotations_of(source)
    predictions = Predictions(PAWS.keypoints, people.keypoints)
    result = score_oks(predictions, annotations)
    assert (result.protocol, result.table["AP"]) == ("OKS AP on annotated boxes, sigma 0.05", pytest.approx(100))
    shifted = Predictions(PAWS.keypoints, people.keypoints + torch.tensor([6.0, 8.0]))  # exp(-1/2 (10 / (100 · 2σ))²)
    assert score_oks(shifted, annotations).table["AP"] == pytest.approx(30)  # 0.607: 0.5, 0.55, 0.6
    assert score_oks(shifted, annotations, sigmas=0.1).table["AP"] == pytest.approx(80)  # 0.882
    assert score_oks(shifted, annotations, sigmas=np.float32(0.1)).table["AP"] == pytest.approx(80)
    assert score_oks(shifted, annotations, sigmas=[0.1] * 4 + [1]).protocol.endswith(", own sigmas")
    for sigmas in (0, [0.1] * 4, math.nan):
        with pytest.raises(ValueError, match=r"sigmas .* 5.* (0|\[0.1, |nan)"):
            score_oks(predictions, annotations, sigmas=sigmas)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"category_id": 3}, "category_id must be 1.* 3"),
        ({"image_id": "1"}, "image_id .*'1'"),
        ({"image_id": [1]}, r"image_id .*\[1\]"),
        ({"keypoints": [1.0] * 48}, "keypoints must be 3 x 17 .* nose to right_ankle, got 48"),
        ({"keypoints": np.ones(3)}, "keypoints .* 3"),
        ({"keypoints": [1.0, "1"] * 51}, r"keypoints\[1\].* '1'"),
        ({"keypoints": [1.0, None] * 51}, r"keypoints\[1\].* None"),
        ({"keypoints": [[1.0], [1.0, 2.0]]}, r"keypoints\[0\].* \[1.0\]"),
        ({"keypoints": None}, "keypoints .*None"),
        ({"score": "1"}, "score .*'1'"),
        ({"score": math.nan}, "score .*nan"),
        ({"score": True}, "score .*True"),
    ],
)
def test_results_that_do_not_fit_the_annotations(tmp_path, changes, match):
    annotations = annotations_of(coco_source(tmp_path, [coco_annotation(1, points_17())]))
    result = {**RESULT, "keypoints": [1.0] * 51}
    with pytest.raises(ValueError, match=rf"\[1\]\.{match}"):
        score_oks([result, {**result, **changes}], annotations)


def test_predictions_that_do_not_fit_the_annotations(tmp_path):
    annotations = annotations_of(coco_source(tmp_path, [coco_annotation(1, points_17())]))
    with pytest.raises(ValueError, match=r"\[0\].* \[\]"):
        score_oks([[]], annotations)
    with pytest.raises(ValueError, match=r"\[0\]\.keypoints is missing.* 2 "):
        score_oks([{"image_id": 1, "category_id": 1}], annotations)
    with pytest.raises(ValueError, match=r"of 1 people .* 2"):
        score_oks(Predictions(COCO.keypoints, torch.zeros(2, 17, 2)), annotations)
    with pytest.raises(ValueError, match="nose"):
        score_oks(Predictions(LSP.keypoints, torch.zeros(1, 14, 2)), annotations)


def test_results_may_hold_numpy_numbers(tmp_path):
    source = coco_source(tmp_path, many_annotations())
    annotations = annotations_of(source)
    results = coco_results(perturbed(read_people(source), 4), annotations)
    arrays = [{**row, "keypoints": np.array(row["keypoints"]), "score": np.float64(row["score"])} for row in results]
    assert score_oks(arrays, annotations).table == score_oks(results, annotations).table


@pytest.mark.parametrize("data", ["[]", '{"categories": []}', '{"categories": [{"id": 1, "keypoints": ["a"]}]}'])
def test_annotations_that_are_not_coco_s(tmp_path, data):
    with pytest.raises(ValueError, match=r"a\.json"):
        read_coco_annotations(written(tmp_path / "a.json", data))


def test_annotations_without_keypoints_count_as_unlabelled(tmp_path):
    rows = [coco_annotation(1, points_17()), {**coco_annotation(2, []), "iscrowd": 1}, coco_annotation(3, [])]
    source = coco_source(tmp_path, rows)
    people = read_people(source)
    result = score_oks(Predictions(COCO.keypoints, people.keypoints), annotations_of(source))
    assert result.table["AP"] == pytest.approx(100)
    assert (result.people, result.left_out) == (1, 2)


def test_who_is_labelled_is_what_the_visibilities_say(tmp_path):
    """Whatever num_keypoints says; and a visibility below 0 is none."""
    rows = [coco_annotation(n, points_17(n), image_id=n, num_keypoints=0) for n in (1, 2)]
    rows.append(coco_annotation(3, points_17(3), image_id=3, visible=-1, num_keypoints=17))
    source = coco_source(tmp_path, rows)
    people = read_people(source)
    result = score_oks(Predictions(COCO.keypoints, people.keypoints), annotations_of(source))
    assert len(people) == result.people == 2
    assert result.table["AP"] == pytest.approx(100)


def test_what_is_null_is_left_out_and_who_has_no_keypoint_needs_no_box(tmp_path):
    rows = [coco_annotation(1, points_17(), area=None, iscrowd=None, num_keypoints=None)]
    rows.append({"id": 2, "image_id": 1, "category_id": 1})
    source = coco_source(tmp_path, rows)
    result = score_oks(Predictions(COCO.keypoints, read_people(source).keypoints), annotations_of(source))
    assert (result.people, result.left_out) == (1, 1)
    assert result.table["AP"] == pytest.approx(100)
    assert "no area is annotated it is the box's" in result.definition


def test_an_area_of_0_is_none(tmp_path):
    points = points_17()
    tables = []
    for name, area in (("zero", {"area": 0}), ("box", {"area": 100 * 100})):
        source = coco_source(tmp_path / name, [coco_annotation(1, points, **area)])
        predictions = perturbed(read_people(source), 4)
        result = score_oks(predictions, annotations_of(source))
        assert ("it is the box's" in result.definition) == (name == "zero")
        tables.append(result.table)
    assert tables[0] == tables[1]
    assert tables[0]["AP"] > 5


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"area": "large"}, "area.* 'large'"),
        ({"area": math.inf}, "area.* inf"),
        ({"bbox": [0, 0, 1]}, "bbox"),
        ({"bbox": []}, "bbox"),
        ({"bbox": None}, "bbox"),
        ({"keypoints": [1, 2, 2]}, "keypoints.*51"),
    ],
)
def test_an_annotation_that_cannot_be_scored_on_is_named(tmp_path, changes, match):
    rows = [coco_annotation(1, points_17()), {**coco_annotation(2, points_17()), **changes}]
    with pytest.raises(ValueError, match=rf"\[1\].*{match}"):
        annotations_of(coco_source(tmp_path, rows))


def test_without_pycocotools_the_error_says_what_to_install(tmp_path, monkeypatch):
    source = coco_source(tmp_path, [coco_annotation(1, points_17())])
    predictions, annotations = Predictions(COCO.keypoints, read_people(source).keypoints), annotations_of(source)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    for needing in (require_pycocotools, lambda: score_oks(predictions, annotations)):
        with pytest.raises(ImportError, match=r"pip install 'softgate-pose\[coco\]'"):
            needing()


# --- the command ----------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def failing(*arguments):
    """Run what must end in an error message, never in a traceback."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    return " ".join(result.output.split())


def scored(tmp_path, *arguments):
    """What is printed, and the JSON beside it."""
    result = run(*arguments, "--json", tmp_path / "table.json")
    assert result.exit_code == 0, result.output
    return result.stdout, json.loads((tmp_path / "table.json").read_text())


@pytest.fixture
def mpii_source(tmp_path):
    """Three people, one without a head box, in 1-based pixels."""
    folder = tmp_path / "mpii"
    for name in ("annot", "images"):
        (folder / name).mkdir(parents=True)
    joints = np.random.default_rng(0).uniform(6, 55, (3, 16, 2))
    rows = [
        {
            "image": "a.png", "center": [40, 30], "scale": 0.25, "joints": points.tolist(), "joints_vis": [1] * 16,
            "head_box": [11, 11, 19, 17] if n else None,
        }
        for n, points in enumerate(joints)
    ]  # fmt: skip
    (folder / "annot" / "valid.json").write_text(json.dumps(rows))
    Image.linear_gradient("L").resize((80, 60)).convert("RGB").save(folder / "images" / "a.png")
    return f"mpii:{folder}:valid"


def model_of(skeleton, folder):
    torch.manual_seed(0)
    config = PoseConfig(name="tiny", num_stacks=1, width=8, depth=2, skeleton=skeleton, input_size=(64, 64))
    return f"local-dir:{save_pretrained(SoftGatePose(config), folder)}"


def test_the_table_is_printed_with_what_it_counts(mpii_source, tmp_path):
    people = read_people(mpii_source)
    savemat(tmp_path / "pred.mat", {"preds": people.keypoints.numpy() + 1})
    output, table = scored(tmp_path, "--predictions", tmp_path / "pred.mat", "--data", mpii_source)
    assert output == (
        f"model       {tmp_path / 'pred.mat'}\n"
        f"data        {mpii_source}\n"
        "\n"
        "protocol    PCKh@0.5\n"
        "            HRNet's evaluation: distance <= 0.5 of the head size, which is 0.6\n"
        "            of the head box's diagonal; the mean is weighted by labels, without\n"
        "            pelvis and thorax; mean@0.1 is the same at 0.1\n"
        "people      2 scored, 1 left out\n"
        "\n"
        "   head  shoulder  elbow  wrist    hip   knee  ankle   mean  limbs  mean@0.1\n"
        "  100.0     100.0  100.0  100.0  100.0  100.0  100.0  100.0  100.0     100.0\n"
    )
    assert (table["protocol"], table["mean"], table["mean@0.1"], table["left_out"]) == ("PCKh@0.5", 100, 100, 1)
    assert "flip_test" not in table


def test_saved_predictions_score_the_same(mpii_source, tmp_path):
    model = model_of(MPII, tmp_path / "model")
    saved = tmp_path / "p.json"
    command = ("--model", model, "--data", mpii_source, "--flip-test", "--decode", "soft", "--save-predictions", saved)
    first, table = scored(tmp_path, *command)
    assert "(soft, with flip test)" in first
    assert (table.pop("flip_test"), table.pop("decode")) == (True, "soft")
    second, again = scored(tmp_path, "--predictions", saved, "--data", mpii_source)
    assert first.splitlines()[1:] == second.splitlines()[1:]
    assert {**again, "model": model} == table


def test_the_model_s_average_precision_is_that_of_its_files(tmp_path):
    source = coco_source(tmp_path, many_annotations(), images=3)
    saved, model = tmp_path / "p.json", model_of(COCO, tmp_path / "model")
    output, table = scored(tmp_path, "--model", model, "--data", source, "--save-predictions", saved)
    assert table["protocol"] == "PCK@0.2"
    assert "OKS AP on annotated boxes\n            COCO's evaluation, by pycocotools" in output
    _, again = scored(tmp_path, "--predictions", saved, "--data", source)
    assert again["oks"] == table["oks"]
    results = coco_results(read_predictions(saved, read_people(source)), annotations_of(source))
    results = written(tmp_path / "r.json", results)
    output, of_results = scored(tmp_path, "--predictions", results, "--data", source)
    assert "protocol" not in of_results  # results do not say whom they are for, so there is no PCK
    assert of_results["oks"].pop("protocol") == "OKS AP"
    assert table["oks"].pop("protocol") == "OKS AP on annotated boxes"
    assert of_results["oks"] == table["oks"]


def test_own_keypoints_are_listed_by_name(tmp_path):
    names = (*PAWS.keypoints, *(f"vertebra_number_{i}" for i in range(5)))
    rows = [coco_annotation(1, np.random.default_rng(0).uniform(5, 55, (10, 2)).tolist())]
    source = coco_source(tmp_path, rows, names, images=1)
    output, table = scored(tmp_path, "--model", model_of(Skeleton("own", names), tmp_path / "model"), "--data", source)
    assert set(names) < set(table)
    assert table["protocol"] == "PCK@0.1 of the box"
    assert table["oks"]["protocol"] == "OKS AP on annotated boxes, sigma 0.05"
    assert max(map(len, output.splitlines()[2:])) <= 80
    assert "vertebra_number_4" in output


def test_the_mean_pose_of_coco_data(tmp_path):
    source = coco_source(tmp_path, many_annotations())
    _, table = scored(tmp_path, "--mean-pose", source, "--data", source, "--save-predictions", tmp_path / "p.json")
    assert table["model"] == "mean pose"
    assert scored(tmp_path, "--predictions", tmp_path / "p.json", "--data", source)[1]["oks"] == table["oks"]


def test_a_mean_pose_lacks_what_nobody_has_labelled(tmp_path, mpii_source):
    people, training = read_people(mpii_source), read_people(mpii_source)
    training.labelled[:, 3] = False
    found = mean_pose_keypoints(training, people)
    assert found[:, 3].isnan().all()
    assert found[:, :3].isfinite().all()
    fish = coco_source(tmp_path / "fish", [coco_annotation(1, [(1.0, 2.0), (3.0, 4.0)])], names=("gill", "tail"))
    with pytest.raises(ValueError, match=r"mean_pose.* gill, tail"):
        evaluate_source(fish, mean_pose=[mpii_source])


def test_a_table_is_written_though_nobody_reads_what_is_printed(tmp_path, mpii_source, monkeypatch):
    def left(*given, **more):
        raise BrokenPipeError

    monkeypatch.setattr(cli_evaluate, "_print_table", left)
    run("--mean-pose", mpii_source, "--data", mpii_source, "--json", tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())["model"] == "mean pose"


def test_names_that_an_encoding_lacks_are_printed_in_another_way(tmp_path, monkeypatch):
    source = coco_source(tmp_path, [coco_annotation(1, [(1.0, 2.0), (3.0, 4.0)])], names=("鼻", "tail"))
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", terminal)
    main(["evaluate", "--mean-pose", source, "--data", source], standalone_mode=False)
    terminal.flush()
    assert rb"\u9f3b" in terminal.buffer.getvalue()


def test_options_that_do_not_go_together(mpii_source, tmp_path):
    file = written(tmp_path / "p.json", own_json(read_people(mpii_source)))
    command = ("--predictions", file, "--data", mpii_source)
    assert "leave out --model, --checkpoint" in failing(*command, "--model", "x", "--checkpoint", "y")
    for option in (("--mean-pose", mpii_source), ("--save-predictions", tmp_path / "q.json"), ("--flip-test",)):
        assert f"scores a file as it is; leave out {option[0]}." in failing(*command, *option)
    assert "scores no model; leave out --model" in failing(
        "--mean-pose", mpii_source, "--data", mpii_source, "--model", "x"
    )
    results = written(tmp_path / "r.json", [{**RESULT, "keypoints": [1] * 48}])
    assert f"{results} holds COCO's results" in failing("--predictions", results, "--data", mpii_source)


def test_one_thing_is_scored_at_a_time(mpii_source, tiny_model, tmp_path):
    file = written(tmp_path / "p.json", own_json(read_people(mpii_source)))
    for subjects in ({}, {"model": tiny_model, "mean_pose": [mpii_source]}, {"model": tiny_model, "predictions": file}):
        with pytest.raises(ValueError, match="model, predictions and mean_pose"):
            evaluate_source(mpii_source, **subjects)


OUTPUTS = ("json_file", "save_predictions", "sheet")


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_scored(mpii_source, tmp_path, output):
    for file in (tmp_path / "no" / "file.png", tmp_path):
        with pytest.raises(ValueError, match=f"{output} {file}: .*folder"):
            evaluate_source(mpii_source, mean_pose=[mpii_source], **{output: file})


def deep_release(folder):
    """mpii-mat: data whose annotations lie a folder deeper than the folder that names them."""
    write_release(folder / "mpii_human_pose_v1_u12_2" / "mpii_human_pose_v1_u12_1.mat", ("a.jpg", mpii_rect()))
    write_images(folder / "images", ["a.jpg"])
    return f"mpii-mat:{folder}:train"


def sticks(folder, monkeypatch):
    """Data of the reader that CONTRIBUTING shows."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    (block,) = (
        block
        for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        if "read_sticks" in block
    )
    names = {}
    exec(block, names)
    monkeypatch.setitem(READERS, "sticks", names["read_sticks"])
    write_images(folder / "images", ["a.jpg"])
    (folder / "train.csv").write_text("image,x0,y0,x1,y1,lx,ly,rx,ry\na.jpg,5,5,45,45,10,12.5,40,40")
    return f"sticks:{folder}:train"


@pytest.fixture(params=["mpii", "mpii-mat", "coco", "lsp", "sticks"])
def any_source(request, mpii_source, lsp_folder, tmp_path, monkeypatch):
    return {
        "mpii": lambda: mpii_source,
        "mpii-mat": lambda: deep_release(tmp_path / "release"),
        "coco": lambda: coco_source(tmp_path / "coco", [coco_annotation(1, points_17())], images=1),
        "lsp": lambda: f"lsp:{lsp_folder[0]}:train",
        "sticks": lambda: sticks(tmp_path / "sticks", monkeypatch),
    }[request.param]()


def files_below(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_output_replaces_data_wherever_they_lie(any_source, tmp_path):
    people, before = read_people(any_source), files_below(tmp_path)
    assert people.files
    assert set(people.files) | set(people.images) <= set(before)
    for file in (*people.files, people.images[0]):
        with pytest.raises(ValueError, match=f"json_file {file}: .*read"):
            evaluate_source(any_source, predictions=tmp_path / "p.json", json_file=file)
    assert files_below(tmp_path) == before


def test_no_output_replaces_what_else_is_read_or_another_output(mpii_source, tmp_path):
    other = coco_source(tmp_path / "coco", [coco_annotation(1, points_17())], images=1)
    model = model_of(MPII, tmp_path / "model").removeprefix("local-dir:")
    file = written(tmp_path / "p.json", own_json(read_people(mpii_source)))
    weights, link = tmp_path / "weights.safetensors", tmp_path / "link.json"
    shutil.copy(BUNDLED / "sgpose_0m5_1s.sports" / "model.safetensors", weights)
    (annotations,), (image, *_) = read_people(other).files, read_people(other).images
    link.symlink_to(annotations)
    before = files_below(tmp_path)
    for command in (
        ("--predictions", file, "--json", file),
        ("--mean-pose", other, "--json", annotations),
        ("--mean-pose", other, "--save-predictions", link),
        ("--mean-pose", other, "--sheet", image),
        ("--model", f"local-dir:{model}", "--json", f"{model}/config.json"),
        ("--model", "sgpose_0m5_1s", "--checkpoint", weights, "--json", weights),
    ):
        assert f"{command[-1]}: this file is read" in failing("--data", mpii_source, *command)
    both = ("--json", tmp_path / "t.jpg", "--sheet", tmp_path / "t.jpg")
    message = failing("--mean-pose", other, "--data", mpii_source, *both)
    assert f"sheet {tmp_path / 't.jpg'}: this file is that of json_file" in message
    assert files_below(tmp_path) == before


def test_a_sheet_shows_predictions_and_rings_where_the_annotation_is(mpii_source, tmp_path):
    """Missing predictions draw nothing, so the sheets differ by the skeletons alone."""
    people = read_people(mpii_source)
    sheets = []
    for keypoints in (people.keypoints, torch.full_like(people.keypoints, torch.nan)):
        saved, sheet = tmp_path / "p.json", tmp_path / "sheet.png"
        write_predictions(saved, Predictions(people.skeleton.keypoints, keypoints))
        scored(tmp_path, "--predictions", saved, "--data", mpii_source, "--sheet", sheet)
        with Image.open(sheet) as picture:
            sheets.append(np.asarray(picture.convert("RGB")))
    with_skeletons, without = sheets
    assert with_skeletons.shape == (192 + 14, len(people) * 192, 3)  # all of them once
    assert (with_skeletons != without).any()
    assert ((without == 255).all(axis=-1)).sum() > 100 * len(people)  # white rings
    with pytest.raises(ValueError, match=r"sheet .*sheet\.gif"):
        evaluate_source(mpii_source, mean_pose=[mpii_source], sheet=tmp_path / "sheet.gif")


def test_missing_images_are_named_before_predicting(tiny_model, tmp_path):
    source = coco_source(tmp_path, many_annotations(), images=3)
    saved = tmp_path / "p.json"
    evaluate_source(source, mean_pose=[source], save_predictions=saved)
    (tmp_path / "val" / "2.png").unlink()
    for arguments in ({"model": tiny_model}, {"predictions": saved, "sheet": tmp_path / "sheet.png"}):
        with pytest.raises(FileNotFoundError, match=f"{source} .* 1 .*{tmp_path / 'val' / '2.png'}"):
            evaluate_source(source, **arguments)
    assert evaluate_source(source, predictions=saved).oks.people == 9  # looks at no image


def test_an_image_that_cannot_be_drawn_costs_no_figure(mpii_source, tmp_path):
    people = read_people(mpii_source)
    saved, table = tmp_path / "p.json", tmp_path / "t.json"
    write_predictions(saved, Predictions(people.skeleton.keypoints, people.keypoints))
    people.images[0].write_bytes(b"no picture")
    command = ("--predictions", saved, "--data", mpii_source, "--json", table, "--sheet", tmp_path / "sheet.png")
    output = failing(*command)
    assert "mean@0.1" in output
    assert f"{people.images[0].name} cannot be read" in output
    assert json.loads(table.read_text())["mean"] == 100


@pytest.mark.parametrize("output", ["sheet", "save_predictions"])
def test_results_that_do_not_say_whom_they_are_for_are_not_drawn_or_saved(tmp_path, output):
    source = coco_source(tmp_path, [coco_annotation(1, points_17())])
    results = written(tmp_path / "r.json", [])
    with pytest.raises(ValueError, match=rf"r\.json .*{output}"):
        evaluate_source(source, predictions=results, **{output: tmp_path / "out.png"})


def test_models_that_lack_keypoints(mpii_source, tiny_model):
    with pytest.raises(ValueError, match="pelvis, thorax"):
        evaluate_source(mpii_source, model=tiny_model)


def test_a_result_names_its_model(tiny_model, tmp_path):
    names = LSP.keypoints
    source = coco_source(tmp_path, [coco_annotation(1, points_17()[: len(names)])], names, images=1)
    result = evaluate_source(source, model=tiny_model)
    assert (result.model, result.data) == ("tiny", source)
    assert result.settings == {"flip_test": False, "decode": "dark"}
    assert result.keypoints == evaluate(tiny_model, read_people(source))
    assert evaluate_source(source, model=tiny_model, name="ours").to_dict() == result.to_dict() | {"model": "ours"}


def test_without_pycocotools_coco_data_are_scored_but_for_average_precision(tmp_path, monkeypatch, caplog):
    source = coco_source(tmp_path, [coco_annotation(1, points_17())], images=1)
    results = written(tmp_path / "results.json", "[]")
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    result = evaluate_source(source, mean_pose=[source])
    assert "pip install 'softgate-pose[coco]'" in caplog.text
    assert (result.keypoints.protocol, result.oks) == ("PCK@0.2", None)
    assert "oks" not in result.to_dict()
    with pytest.raises(ImportError, match=r"pip install 'softgate-pose\[coco\]'"):
        evaluate_source(source, predictions=results)
