import math

import pytest
import torch

from softgate_pose import LSP, MPII
from softgate_pose.pose import metrics

NAMES = ("a", "b", "c")


def people(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_distances_by_hand():
    keypoints = people([[0, 0], [10, 0], [5, 5]])
    predictions = people([[3, 4], [10, 0], [math.nan, 5]])
    labelled = torch.tensor([[True, True, True]])
    found = metrics.normalized_distances(predictions, keypoints, labelled, torch.tensor([10.0]))
    assert found.tolist() == [[0.5, 0.0, math.inf]]


def test_unlabelled_keypoints_and_people_without_a_length_are_not_scored():
    keypoints = torch.zeros(3, 3, 2)
    labelled = torch.tensor([[True, False, True], [True, True, True], [False, False, False]])
    found = metrics.normalized_distances(keypoints + 1, keypoints, labelled, torch.tensor([1.0, 0.0, 1.0]))
    assert found.isnan().tolist() == [[False, True, False], [True] * 3, [True] * 3]
    result = metrics.pck(found, NAMES, 0.5)
    assert (result.people, result.left_out) == (1, 2)
    assert result.counts == {"a": 1, "b": 0, "c": 1}
    assert math.isnan(result.per_keypoint["b"])


def test_a_distance_at_the_threshold_is_correct():
    distances = people([0.5, 0.5000001, math.nan], [0.2, math.inf, math.nan])
    result = metrics.pck(distances, NAMES, 0.5)
    assert result.per_keypoint["a"] == 100
    assert result.per_keypoint["b"] == 0


def test_the_mean_is_weighted_by_labels():
    distances = people([0.1, 0.9, math.nan], [0.1, math.nan, math.nan], [0.1, math.nan, math.nan])
    result = metrics.pck(distances, NAMES, 0.5)
    assert result.mean(("a", "b")) == 75  # 3 of 4, not the mean of 100 and 0
    assert result.mean(NAMES) == 75
    assert math.isnan(result.mean(("c",)))


def test_head_size_is_six_tenths_of_the_diagonal():
    assert metrics.head_sizes(people([10, 20, 40, 60])).tolist() == pytest.approx([0.6 * 50])
    assert metrics.head_sizes(torch.tensor([[10, 20, 40, 60]])).tolist() == pytest.approx([0.6 * 50])
    assert metrics.head_sizes(people([math.nan] * 4, [0, 0, math.inf, 1])).tolist() == [0, 0]


def test_torso_is_left_shoulder_to_right_hip_and_needs_both():
    keypoints = torch.zeros(2, 14, 2)
    keypoints[:, LSP.keypoints.index("left_shoulder")] = torch.tensor([3.0, 4.0])
    labelled = torch.ones(2, 14, dtype=torch.bool)
    labelled[1, LSP.keypoints.index("right_hip")] = False
    assert metrics.torso_sizes(keypoints, labelled, LSP).tolist() == [5, 0]
    assert metrics.torso_sizes(keypoints.long(), labelled.long(), LSP).tolist() == [5, 0]


def test_torso_needs_a_skeleton_with_one():
    from softgate_pose import Skeleton

    with pytest.raises(ValueError, match="left_shoulder"):
        metrics.torso_sizes(torch.zeros(1, 2, 2), torch.ones(1, 2, dtype=torch.bool), Skeleton("x", ("nose", "tail")))


def published_pckh(predictions, keypoints, missing, head_boxes, threshold):
    """An independent reading of the evaluation published with HRNet, joint by joint."""
    correct, count = [0] * 16, [0] * 16
    for n in range(len(keypoints)):
        x0, y0, x1, y1 = head_boxes[n]
        head = math.hypot(x1 - x0, y1 - y0) * 0.6
        for k in range(16):
            if missing[n][k]:
                continue
            count[k] += 1
            dx, dy = (predictions[n][k][i] - keypoints[n][k][i] for i in (0, 1))
            correct[k] += math.hypot(dx, dy) / head <= threshold
    pckh = [100 * c / k for c, k in zip(correct, count, strict=True)]
    used = [k for k in range(16) if k not in (6, 7)]
    total = sum(count[k] for k in used)
    return {
        "head": pckh[9],
        "shoulder": (pckh[12] + pckh[13]) / 2,
        "elbow": (pckh[11] + pckh[14]) / 2,
        "wrist": (pckh[10] + pckh[15]) / 2,
        "hip": (pckh[2] + pckh[3]) / 2,
        "knee": (pckh[1] + pckh[4]) / 2,
        "ankle": (pckh[0] + pckh[5]) / 2,
        "mean": sum(pckh[k] * count[k] / total for k in used),
    }


@pytest.mark.parametrize("threshold", [0.5, 0.1])
def test_pckh_equals_an_independent_reading_of_the_published_evaluation(threshold):
    generator = torch.Generator().manual_seed(0)
    keypoints = torch.rand(40, 16, 2, generator=generator, dtype=torch.float64) * 200
    predictions = keypoints + torch.randn(40, 16, 2, generator=generator, dtype=torch.float64) * 6
    labelled = torch.rand(40, 16, generator=generator) > 0.2
    corner = torch.rand(40, 2, generator=generator, dtype=torch.float64) * 100
    boxes = torch.cat((corner, corner + 20 + torch.rand(40, 2, generator=generator, dtype=torch.float64) * 20), dim=1)
    distances = metrics.normalized_distances(predictions, keypoints, labelled, metrics.head_sizes(boxes))
    table = metrics.pckh_table(metrics.pck(distances, MPII.keypoints, threshold))
    expected = published_pckh(predictions.tolist(), keypoints.tolist(), (~labelled).tolist(), boxes.tolist(), threshold)
    assert {part: table[part] for part in expected} == pytest.approx(expected, abs=1e-9)
    assert 5 < table["limbs"] < 95


def published_pck(predictions, keypoints, threshold=0.2):
    """An independent reading of LSP's person-centric PCK, where every joint is labelled, joint by joint."""
    correct = [0] * 14
    for predicted, true in zip(predictions, keypoints, strict=True):
        torso = math.dist(true[9], true[2])  # left shoulder, right hip
        for k in range(14):
            correct[k] += math.dist(predicted[k], true[k]) <= threshold * torso
    pck = [100 * c / len(keypoints) for c in correct]
    return {
        "ankle": (pck[0] + pck[5]) / 2,
        "knee": (pck[1] + pck[4]) / 2,
        "hip": (pck[2] + pck[3]) / 2,
        "wrist": (pck[6] + pck[11]) / 2,
        "elbow": (pck[7] + pck[10]) / 2,
        "shoulder": (pck[8] + pck[9]) / 2,
        "head": (pck[12] + pck[13]) / 2,
        "mean": sum(pck) / 14,
        "limbs": sum(pck[:12]) / 12,
    }


def test_pck_equals_an_independent_reading_of_lsp_s_protocol():
    generator = torch.Generator().manual_seed(0)
    keypoints = torch.rand(40, 14, 2, generator=generator, dtype=torch.float64) * 200
    predictions = keypoints + torch.randn(40, 14, 2, generator=generator, dtype=torch.float64) * 15
    labelled = torch.ones(40, 14, dtype=torch.bool)
    torsos = metrics.torso_sizes(keypoints, labelled, LSP)
    distances = metrics.normalized_distances(predictions, keypoints, labelled, torsos)
    table = metrics.pck_table(metrics.pck(distances, LSP.keypoints, 0.2))
    assert table == pytest.approx(published_pck(predictions.tolist(), keypoints.tolist()), abs=1e-9)
    assert 20 < table["mean"] < 95


def test_lsp_head_is_neck_and_head_top():
    distances = torch.full((10, 14), 0.1)
    distances[:5, LSP.keypoints.index("neck")] = 1
    table = metrics.pck_table(metrics.pck(distances, LSP.keypoints, 0.2))
    assert table["head"] == 75
    assert table["limbs"] == 100
    assert table["mean"] == pytest.approx(100 * (13.5 / 14))


def test_own_keypoints_are_listed_by_name_and_nothing_is_nan():
    names = ("nose", "left_paw", "pelvis", "tail")
    distances = people([0.1, 0.9, 0.1, math.nan], [0.1, 0.1, 0.9, math.nan])
    table = metrics.pck_table(metrics.pck(distances, names, 0.5))
    assert table == {"nose": 100, "left_paw": 50, "pelvis": 50, "mean": pytest.approx(200 / 3)}
    assert metrics.pck_table(metrics.pck(torch.zeros(0, 4), names, 0.5)) == {}
    assert metrics.pckh_table(metrics.pck(torch.full((2, 16), math.nan), MPII.keypoints, 0.5)) == {}


def test_a_full_body_without_labelled_limbs_has_no_limbs():
    distances = torch.full((1, 16), math.nan)
    distances[0, MPII.keypoints.index("head_top")] = 0
    assert metrics.pckh_table(metrics.pck(distances, MPII.keypoints, 0.5)) == {"head": 100, "mean": 100}


def test_the_mean_leaves_out_pelvis_and_thorax_of_full_bodies_alone():
    assert set(MPII.keypoints) - set(metrics.mean_keypoints(MPII.keypoints)) == {"pelvis", "thorax"}
    assert metrics.mean_keypoints(("pelvis", "tail")) == ["pelvis", "tail"]


def test_box_size_is_the_longer_side():
    assert metrics.box_sizes(people([1, 2, 11, 32], [0, 0, 5, 4])).tolist() == [30, 5]


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"got \(2, 3, 2\), \(2, 4, 2\)"):
        metrics.normalized_distances(
            torch.zeros(2, 3, 2), torch.zeros(2, 4, 2), torch.ones(2, 4, dtype=torch.bool), torch.ones(2)
        )
    with pytest.raises(ValueError, match=r"got \(2,\), \(2,\), \(2,\), \(2,\)"):
        metrics.normalized_distances(*torch.zeros(4, 2))
