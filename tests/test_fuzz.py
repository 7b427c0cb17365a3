"""A share of `python tests/fuzz.py`, at a fixed seed, and properties of what has structure."""

import json
import math
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

pytest.importorskip("resource", reason="the fuzzer's limits are those of Unix")
import fuzz
import numpy as np

from softgate_pose import LSP, MPII, PoseConfig, Poses, Skeleton, predict
from softgate_pose.data.images import load_image
from softgate_pose.data.people import People, Predictions
from softgate_pose.evaluation.files import read_predictions, write_predictions
from softgate_pose.folder.boxes import read_boxes
from softgate_pose.folder.results import Results

COUNTS = {
    "config": 500, "weights": 60, "images": 400, "annotations": 250, "boxes": 200, "predictions": 150,
    "part-files": 150, "command-line": 60,
}  # fmt: skip
"""How many inputs the suite tries of each target; the long run tries twenty times as many."""

repeatable = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_damaged_inputs_end_in_a_correct_answer_or_a_documented_error(target, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    outcomes = {}
    fuzz.run(target, 0, range(COUNTS[target]), outcomes.__setitem__)
    defects = {number: text for number, text in outcomes.items() if text not in (fuzz.ANSWER, fuzz.ERROR)}
    assert not defects, "\n".join(f"--target {target} --only {number}: {text}" for number, text in defects.items())
    assert set(outcomes.values()) == {fuzz.ANSWER, fuzz.ERROR}


@pytest.mark.parametrize("target", ["config", "boxes"])
def test_an_input_is_the_same_whenever_it_is_repeated(target):
    whole, single = {}, {}
    fuzz.run(target, 3, range(20), whole.__setitem__)
    for number in (19, 4, 7):
        fuzz.run(target, 3, [number], single.__setitem__)
    assert single == {number: whole[number] for number in single}


class Defective:
    """A target that misbehaves."""

    def __init__(self, place):
        pass

    def __call__(self, rng, unchanged):
        if unchanged:
            raise fuzz.Refused
        with fuzz.documented(ValueError):
            int("x")  # a ValueError, but none of the package's own


def test_the_fuzzer_tells_defects_from_errors(monkeypatch):
    monkeypatch.setitem(fuzz.TARGETS, "defective", Defective)
    outcomes = {}
    fuzz.run("defective", 0, range(2), outcomes.__setitem__)
    assert "what is good was refused" in outcomes[0]
    assert "invalid literal for int()" in outcomes[1]


names = st.text(min_size=1, max_size=12)
numbers = st.floats(-1e6, 1e6)


@st.composite
def skeletons(draw):
    stems = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    keypoints = draw(st.lists(st.sampled_from([*stems, *(f"{s}_{n}" for n in stems for s in ("left", "right"))]),
                              min_size=1, max_size=12, unique=True))  # fmt: skip
    edges = draw(st.lists(st.tuples(st.sampled_from(keypoints), st.sampled_from(keypoints)), max_size=5))
    return Skeleton(draw(names), tuple(keypoints), tuple(edges))


@st.composite
def configs(draw):
    depth, in_chans = draw(st.integers(1, 8)), draw(st.integers(1, 5))
    sides = st.integers(1, 65536 // (4 << depth)).map((4 << depth).__mul__)
    return PoseConfig(
        name=draw(names),
        num_stacks=draw(st.integers(1, 64)),
        width=4 * draw(st.integers(1, 1024)),
        depth=depth,
        in_chans=in_chans,
        gate=draw(st.sampled_from(["channel", "scalar", "fixed", "identity"])),
        alpha_init=draw(numbers),
        merge=draw(st.sampled_from(["concat", "concat_grouped", "sum"])),
        skip=draw(st.sampled_from(["block", "conv"])),
        skeleton=draw(skeletons()),
        input_size=(draw(sides), draw(sides)),
        mean=tuple(draw(st.floats(0, 1)) for _ in range(in_chans)),
        std=tuple(draw(st.floats(1e-6, 1)) for _ in range(in_chans)),
        heatmap=draw(st.sampled_from(["softmax", "gaussian"])),
        sigma=draw(st.floats(1e-3, 1e6)),
    )


@repeatable
@given(configs())
def test_every_config_comes_back_from_its_json(config):
    assert PoseConfig.from_json(config.to_json()) == config
    assert PoseConfig.from_json(config.to_json().encode()) == config
    swapped = config.skeleton.mirror
    assert [swapped[i] for i in swapped] == list(range(len(swapped)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@repeatable
@given(st.dictionaries(st.sampled_from([*PoseConfig().to_dict(), "skeletons", "Width"]), json_values, max_size=5))
def test_what_is_no_config_is_refused(fields):
    try:
        config = PoseConfig.from_json(json.dumps(fields))
    except ValueError:
        return
    assert PoseConfig.from_json(config.to_json()) == config


boxes = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=9),
    st.lists(st.tuples(numbers, numbers, numbers, numbers).map(list), min_size=1, max_size=3),
    max_size=4,
)


@repeatable
@given(boxes)
def test_boxes_are_the_same_from_json_and_csv(wanted):
    import csv

    with tempfile.TemporaryDirectory() as place:
        file, table = Path(place, "boxes.json"), Path(place, "boxes.csv")
        file.write_text(json.dumps(wanted))
        with table.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["image", "x0", "y0", "x1", "y1"])
            writer.writerows([name, *box] for name, rows in wanted.items() for box in rows)
        assert read_boxes(file) == read_boxes(table) == wanted


@repeatable
@given(arrays(np.float64, (2, 16, 2), elements=st.floats(-1e15, 1e15) | st.just(math.nan)))
def test_predictions_come_back_to_the_last_digit(points):
    points[np.isnan(points).any(axis=2)] = math.nan  # a point is missing as a whole
    zeros = torch.zeros(2, 4, dtype=torch.float64)
    people = People(MPII, (Path("a.jpg"),) * 2, torch.zeros(2, 16, 2), torch.ones(2, 16) > 0, zeros, zeros, ())
    with tempfile.TemporaryDirectory() as place:
        write_predictions(Path(place, "p.json"), Predictions(MPII.keypoints, torch.from_numpy(points)))
        read = read_predictions(Path(place, "p.json"), people)
    np.testing.assert_array_equal(read.keypoints.numpy(), points)


file_names = st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=9), unique=True, max_size=6)


@repeatable
@given(file_names, st.data())
def test_whatever_photos_are_called_an_interrupted_run_loses_and_doubles_none(photos, data):
    poses = Poses(torch.ones(1, 14, 2), torch.ones(1, 14), torch.ones(1, 4), LSP)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place, "p.jsonl")
        for _ in range(data.draw(st.integers(0, 3))):
            with Results(out, {}) as results:
                for name in photos[: data.draw(st.integers(0, len(photos)))]:
                    if name not in results.done:
                        results.add(name, poses, (1, 2))
            size = results.part.stat().st_size
            with results.part.open("ab") as part:
                part.truncate(data.draw(st.integers(0, size)))
        with Results(out, {}) as results:
            for name in photos:
                if name not in results.done:
                    results.add(name, poses, (1, 2))
            results.finish(photos)
        assert [json.loads(line)["image"] for line in out.read_text().splitlines()] == photos


kinds = st.sampled_from([np.uint8, np.uint16, np.int32, np.float16, np.float32, np.float64, np.bool_])


@repeatable
@given(kinds.flatmap(lambda kind: arrays(kind, array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5))))
def test_an_array_is_a_picture_or_is_refused(array):
    for in_chans in (1, 3):
        try:
            pixels = load_image(array, in_chans)
        except ValueError:
            continue
        assert pixels.shape == (in_chans, *array.shape[:2])
        assert 0 <= pixels.min() <= pixels.max() <= 255


@pytest.fixture(scope="module")
def model():
    return fuzz.tiny()


anything = st.one_of(numbers, st.floats(), st.integers(), st.floats(0, 90))


@repeatable
@given(rows=st.lists(st.lists(anything, min_size=4, max_size=4), max_size=4))
def test_boxes_give_finite_poses_or_are_refused(model, rows):
    try:
        poses = predict(model, torch.full((3, 70, 60), 99, dtype=torch.uint8), rows)
    except ValueError:
        return
    fuzz.check_poses(poses, len(rows))
