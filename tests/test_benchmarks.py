"""The benchmark measures what it says and keeps it; how long anything takes is not tested."""

import csv
import json

import pytest
import torch
from click.testing import CliRunner

from benchmarks import accuracy, contestants, decoding, limits, memory, photos, profiling, speed
from benchmarks.__main__ import main
from benchmarks.contestants import NUM_KEYPOINTS, Setting
from benchmarks.rivals import RIVALS
from softgate_pose import decode_heatmaps, render_heatmaps
from softgate_pose.data.sources import read_people
from softgate_pose.zoo import MODELS

SMALL = Setting(size=(64, 64), threads=1)


def run(*arguments):
    result = CliRunner().invoke(main, [*arguments, "--size", "64", "--threads", "1"])
    assert result.exit_code == 0, result.output
    return result.output


def test_speed_is_measured_in_turns_and_kept(tmp_path):
    names = ["sgpose_0m5_1s", "sgpose_0m5_1s+deploy"]
    output = run(
        "speed", *names, "--rounds", "2", "--batches", "1,2", "--ratio", "/".join(names), "--out", str(tmp_path)
    )
    assert output.startswith("processor ") or "\nprocessor " in output
    data = json.loads((tmp_path / "speed.json").read_text())
    table, ratio = data["tables"]
    assert [row[0] for row in table["rows"]] == names
    assert table["columns"][:3] == ["network", "params, M", "MACs, G"]
    assert "× sgpose_0m5_1s" in table["columns"]
    assert table["rows"][0][1:3] == [0.504338, MODELS["sgpose_0m5_1s"].macs / 16 / 1e9]
    assert ratio["rows"][0][:2] == names
    assert data["machine"]["threads"] == 1
    with (tmp_path / "rounds.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["network"], row["batch"], row["round"]) for row in rows] == [
        (name, batch, number) for batch in "12" for name in names for number in "01"
    ]
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert (tmp_path / "speed.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "title"),
    [
        (["profile", "sgpose_0m5_1s", "--repeats", "1"], "Time by kind of operation, batch 1, median of 1 passes"),
        (["photos", "sgpose_0m5_1s.sports", "--count", "1"], "predict over 1 photos of 2 people each"),
        (
            ["limits", "sgpose_0m5_1s", "--batch", "2", "--rounds", "1"],
            "What networks reach, batch 2, median of 1 rounds",
        ),
        (["decoding", "--people", "1", "--rounds", "1"], "Decoding 1 × 16 heatmaps of 16 × 16 with DARK; 1 rounds"),
    ],
)
def test_every_command_prints_its_table(arguments, title):
    assert title in run(*arguments)


def test_each_round_begins_with_another_and_the_budget_ends_them():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = speed.take_turns(calls, rounds=2, seconds=1e9, synchronize=lambda: None)
    assert "".join(order) == "abc" + "abc" + "bca"  # the first is not timed
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2, "c": 2}
    assert len(speed.take_turns(calls, rounds=9, seconds=0, synchronize=lambda: None)["a"]) == 1


def test_ratios_are_of_the_same_round():
    times = {"slow": [4.0, 40.0, 4.0], "fast": [2.0, 10.0, 1.0]}
    assert speed.ratios(times, "fast", "slow") == "4.00 (3.00–4.00)"


@pytest.mark.parametrize("form", ["deploy", "bf16", "nchw", "deploy+int8"])
def test_every_form_gives_the_networks_heatmaps(form):
    images = SMALL.images(2)
    plain, other = (contestants.build(f"sgpose_0m5_1s{plus}", SMALL) for plus in ("", f"+{form}"))
    expected, found = plain.run(plain.prepare(images)), other.run(other.prepare(images))
    found = torch.as_tensor(found[0] if isinstance(found, list) else found).float()
    tolerance = {"bf16": 0.05, "deploy+int8": 0.3}.get(form, 1e-4)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.max()))
    assert (other.macs < plain.macs) == ("deploy" in form)


@pytest.mark.parametrize(("name", "match"), [("none", "'none'"), ("sgpose_0m5_1s+fast", r"sgpose_0m5_1s\+fast")])
def test_unknown_names_are_refused(name, match):
    with pytest.raises(ValueError, match=match):
        contestants.build(name, SMALL)


@pytest.mark.parametrize(
    ("name", "published"),
    # millions of parameters: HRNet and SimpleBaseline as their papers print them, with 17 keypoints
    [("hrnet_w32", 28.5), ("simple_baseline", 34.0)],
)
def test_rivals_are_those_of_their_papers(name, published):
    with torch.device("meta"), torch.no_grad():
        network = RIVALS[name](NUM_KEYPOINTS, (256, 256)).eval()
        assert network(torch.empty(2, 3, 256, 256)).shape == (2, NUM_KEYPOINTS, 64, 64)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(published, rel=0.005)


def test_bytes_of_convolutions_are_counted():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 1))
    numbers = 5 * 16 * ((3 + 8) + (8 + 2)) + (3 * 8 * 9 + 8) + (8 * 2 + 2)
    assert limits.convolution_bytes(module, torch.zeros(1, 3, 4, 4), 5, torch.bfloat16) == 2 * numbers


def test_the_numpy_loop_finds_what_decoding_finds():
    torch.manual_seed(0)
    heatmaps = render_heatmaps(torch.rand(3, 4, 2) * 10 + 3, (16, 16)) + 0.02 * torch.rand(3, 4, 16, 16)
    keypoints, _ = decode_heatmaps(heatmaps, "dark")
    found = torch.from_numpy(decoding.decode_joint_by_joint(heatmaps.numpy()))
    torch.testing.assert_close(found, keypoints, atol=1e-3, rtol=0)
    network = contestants.build("sgpose_0m5_1s", SMALL)
    table = decoding.decoding_table(network, SMALL, people=2, rounds=1, seconds=0)
    assert [row[0] for row in table.rows][::2] == ["decode_heatmaps", "forward pass of sgpose_0m5_1s"]


def test_the_profile_names_all_that_a_forward_pass_does():
    table = profiling.profile_table(["sgpose_0m5_1s", "sgpose_0m5_1s+deploy"], SMALL, batch=1, repeats=1)
    rows = {kind: (before, after) for kind, before, _, after, _ in table.rows}
    assert rows["batch norm"][0] > 0 == rows["batch norm"][1]
    assert rows["transposed convolution"][0] == 0 < rows["transposed convolution"][1]
    assert rows["upsampling"][1] == 0
    assert rows["all"][0] == pytest.approx(sum(before for kind, (before, _) in rows.items() if kind != "all"))


@pytest.mark.parametrize("training", [False, True])
def test_memory_is_that_of_the_network(training):
    class Sender:
        def send(self, value):
            self.value = value

    sender = Sender()
    memory._measure(sender, "sgpose_0m5_1s", SMALL, 2, training)
    assert sender.value >= 0


def test_stages_of_predicting_photos_add_up(tmp_path):
    boxes = photos.make_photos("examples/photo.jpg", [[11, 164, 86, 357]], tmp_path / "photos", 2)
    table = photos.photos_table("sgpose_0m5_1s+deploy", SMALL, tmp_path / "photos", boxes)
    stages = {stage: milliseconds for stage, milliseconds, _ in table.rows}
    assert set(stages) == {*photos.STAGES, "all else", "all"}
    assert all(milliseconds > 0 for milliseconds in stages.values())
    assert sum(stages.values()) == pytest.approx(2 * stages["all"])
    assert len(list((tmp_path / "drawn").iterdir())) == 2


def test_accuracy_of_forms(mpii_folder):
    people = read_people(f"mpii:{mpii_folder}:valid")
    table = accuracy.accuracy_table("sgpose_0m5_1s.sports", people, people, SMALL, forms=("", "+deploy+bf16"))
    assert [row[0] for row in table.rows] == ["sgpose_0m5_1s.sports", "sgpose_0m5_1s.sports+deploy+bf16"]
    assert table.columns[1:] == ("limbs", "mean", "mean@0.1")
