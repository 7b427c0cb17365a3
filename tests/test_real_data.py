"""The readers on the real data sets, where they lie beside the project."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from softgate_pose import MPII, create_model, list_pretrained, zoo
from softgate_pose.data.people import missing_images
from softgate_pose.data.sources import read_people
from softgate_pose.evaluation.files import read_predictions
from softgate_pose.evaluation.pck import evaluate, score_keypoints
from softgate_pose.weights.record import read_training

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the data sets are not here")


@pytest.mark.parametrize(
    ("source", "count"),
    [("lsp:lsp:train", 1000), ("lsp:lsp:test", 1000), ("lspet:lspet:train", 8500), ("mpii:mpii_sports:valid", 264)],
)
def test_people_have_their_images_and_joints_in_their_boxes(source, count):
    kind, folder, split = source.split(":")
    people = read_people(f"{kind}:{DATA / folder}:{split}")
    assert len(people) == count
    assert missing_images(people) == []
    assert people.labelled.any(dim=1).all()
    inside = (people.keypoints >= people.boxes[:, None, :2]) & (people.keypoints <= people.boxes[:, None, 2:])
    assert inside.all(-1)[people.labelled].float().mean() > 0.93


def test_mpii_json_and_matlab_file_are_the_same_people():
    people = read_people(f"mpii:{DATA / 'mpii_sports'}:valid")
    matlab = loadmat(DATA / "mpii_sports" / "annot" / "gt_valid.mat")
    np.testing.assert_array_equal(people.labelled, matlab["jnt_missing"].T == 0)
    points = matlab["pos_gt_src"].transpose(2, 0, 1) - 1
    np.testing.assert_allclose(people.keypoints[people.labelled], points[people.labelled], atol=1e-3)
    np.testing.assert_allclose(
        people.head_boxes, matlab["headboxes_src"].transpose(2, 0, 1).reshape(-1, 4) - 1, atol=1e-3
    )


def test_head_boxes_of_the_matlab_file_are_those_of_the_json(tmp_path):
    source = DATA / "mpii_sports" / "annot"
    (tmp_path / "annot").mkdir()
    rows = json.loads((source / "valid.json").read_text())
    bare = [{key: value for key, value in row.items() if key != "head_box"} for row in rows]
    (tmp_path / "annot" / "valid.json").write_text(json.dumps(bare))
    assert read_people(f"mpii:{tmp_path}:valid").head_boxes.isnan().all()
    shutil.copy(source / "gt_valid.mat", tmp_path / "annot")
    found = read_people(f"mpii:{tmp_path}:valid").head_boxes
    np.testing.assert_allclose(found, read_people(f"mpii:{source.parent}:valid").head_boxes, atol=1e-3)
    (tmp_path / "annot" / "valid.json").write_text(json.dumps(bare[::-1]))
    with pytest.raises(ValueError, match=r"gt_valid\.mat .*valid\.json .*\[0\]"):
        read_people(f"mpii:{tmp_path}:valid")


# the default and the smallest; .ci/figures.py measures all of them
@pytest.mark.parametrize("name", [list_pretrained()[0], list_pretrained("sgpose_0m5_1s")[0]])
def test_the_cards_figures_come_back(name):
    """Predict the 264 validation people anew; rounding differs a little between machines."""
    people = read_people(f"mpii:{DATA / 'mpii_sports'}:valid")
    found = evaluate(create_model(name, channels_last=True), people).to_dict()
    card = read_training(zoo.get_pretrained(name))
    (row,) = [row for row in card["metrics"] if row["data"] == "mpii_sports valid" and not row["flip_test"]]
    for part in ("mean", "limbs", "mean@0.1"):
        assert found[part] == pytest.approx(row[part], abs=0.2)
    assert found["people"] == 264
    assert found["limbs"] >= 45  # clearly a pose model; the mean pose has about 10


def test_pckh_is_that_of_the_matlab_ground_truth(tmp_path):
    """An independent reading of HRNet's evaluation, on MPII's own arrays and a pred.mat in 1-based pixels."""
    truth = loadmat(DATA / "mpii_sports" / "annot" / "gt_valid.mat")
    points, heads = truth["pos_gt_src"], truth["headboxes_src"]  # (16, 2, N), (2, 2, N)
    visible = 1 - truth["jnt_missing"].astype(float)
    predictions = points + np.random.default_rng(0).normal(0, 5, points.shape)
    savemat(tmp_path / "pred.mat", {"preds": predictions.transpose(2, 0, 1)})

    errors = np.sqrt(((predictions - points) ** 2).sum(1)) / (0.6 * np.sqrt(((heads[1] - heads[0]) ** 2).sum(0)))
    counts = visible.sum(1)
    expected = []
    for threshold in (0.5, 0.1):
        pckh = 100 * ((errors <= threshold) * visible).sum(1) / counts
        scored = [k for k, name in enumerate(MPII.keypoints) if name not in ("pelvis", "thorax")]
        expected.append((pckh[scored] * counts[scored] / counts[scored].sum()).sum())

    people = read_people(f"mpii:{DATA / 'mpii_sports'}:valid")
    result = score_keypoints(read_predictions(tmp_path / "pred.mat", people).keypoints, people)
    assert [result.table["mean"], result.table["mean@0.1"]] == pytest.approx(expected, abs=1e-6)
    assert 5 < expected[1] < expected[0] < 99
