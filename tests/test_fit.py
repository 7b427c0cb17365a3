"""The training loop: what it learns, that it loses nothing, and that many processes do as one."""

import copy
import csv
import dataclasses
import json
import math
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from made_data import coco_data, dotted_people, write_coco
from PIL import Image
from safetensors.torch import load_file
from train_made import CONFIG, RECIPE, trained

from softgate_pose import LSP, MPII, Skeleton, save_pretrained
from softgate_pose.data.lsp import read_lsp
from softgate_pose.data.mpii import read_mpii_json
from softgate_pose.data.sources import read_people
from softgate_pose.model.deploy import deploy
from softgate_pose.model.softgate import SoftGatePose
from softgate_pose.pose import geometry
from softgate_pose.pose.heatmaps import decode_heatmaps, render_heatmaps
from softgate_pose.prediction.predict import predict_people
from softgate_pose.training import crops as crops_module
from softgate_pose.training import log as log_module
from softgate_pose.training import loop
from softgate_pose.training import run as training_run
from softgate_pose.training.augment import Augmentation
from softgate_pose.training.checkpoint import LAST, PREVIOUS
from softgate_pose.training.loop import Engine, fit
from softgate_pose.training.optim import make_accelerator, make_optimizer
from softgate_pose.training.recipe import PRESETS, Preset, Recipe, get_preset
from softgate_pose.training.run import train
from softgate_pose.training.task import KeypointTask
from softgate_pose.training.teacher import Teacher

SCRIPT = Path(__file__).parent / "train_made.py"


@pytest.fixture(autouse=True)
def event_files_in_their_order(monkeypatch):
    """TensorBoard numbers a process's files, and reads those of one second by their names: 10 before 9."""
    from tensorboard.summary.writer import event_file_writer

    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(100))


@pytest.fixture
def people(lsp_folder):
    return read_lsp(lsp_folder[0], "train")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def log_of(folder):
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_training_learns(tmp_path):
    """Eight people whose joints are one bright dot: the network must find it."""
    people = dotted_people(tmp_path, 8)
    recipe = Recipe(epochs=30, batch_size=8, learning_rate=1e-2, ema_decay=0.8)
    torch.manual_seed(0)
    model = fit(KeypointTask(SoftGatePose(CONFIG), people), recipe, tmp_path / "run", engine=Engine(progress=False))
    error = torch.linalg.vector_norm(predict_people(model, people).keypoints - people.keypoints, dim=-1)
    assert error[:, 2:].median() < 4  # of 60 pixels; untrained it is above 15


# --- a teacher --------------------------------------------------------------------------------------


def mpii_teacher(share=1.0, **changes):
    """Of another skeleton, which holds LSP's keypoints in another order."""
    torch.manual_seed(1)
    return Teacher(SoftGatePose(CONFIG.replace(**{"skeleton": MPII, "num_stacks": 1, **changes})).eval(), share)


def test_a_teacher_teaches_people_whom_nobody_labelled(tmp_path):
    people = dotted_people(tmp_path, 8)
    recipe = Recipe(epochs=30, batch_size=8, learning_rate=1e-2, ema_decay=0.8)
    engine = Engine(progress=False)
    torch.manual_seed(0)
    teacher = fit(KeypointTask(SoftGatePose(CONFIG), people), recipe, tmp_path / "teacher", engine=engine)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    unlabelled = dataclasses.replace(people, labelled=torch.zeros_like(people.labelled))
    torch.manual_seed(1)
    pupil = fit(KeypointTask(SoftGatePose(CONFIG), unlabelled, teacher=Teacher(teacher)), recipe, tmp_path / "pupil", engine=engine)
    error = torch.linalg.vector_norm(predict_people(pupil, people).keypoints - people.keypoints, dim=-1)
    assert error[:, 2:].median() < 4  # of 60 pixels; untrained it is above 15
    assert same(teacher.state_dict(), before)


def test_a_teacher_has_its_keypoints_in_an_order_of_its_own():
    teacher = mpii_teacher()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = teacher.model(images)[:, [MPII.keypoints.index(name) for name in LSP.keypoints]]
    found = teacher.soft_targets(CONFIG, torch.device("cpu"))(images)
    torch.testing.assert_close(found, expected)
    half = Teacher(copy.deepcopy(teacher.model).bfloat16())
    assert half.identity() != teacher.identity()
    rounded = half.soft_targets(CONFIG, torch.device("cpu"))(images)
    torch.testing.assert_close(rounded, expected, atol=0.01, rtol=0.1)


class Perfect(torch.nn.Module):
    """A network that sees all keypoints at one place of its own input, (B, 1, 2), in images of any size."""

    def __init__(self, config, places, images):
        super().__init__()
        self.config, self.places, self.images = config, places, images

    def forward(self, images):
        height, width = self.config.input_size
        assert images.shape == (len(self.images), 3, height, width)
        torch.testing.assert_close(images.mean((2, 3)), self.images.mean((2, 3)), atol=0.02, rtol=0)
        at = geometry.input_to_heatmap(self.places, 4)
        return render_heatmaps(at, (height // 4, width // 4), self.config.sigma).expand(-1, 14, -1, -1)


@pytest.mark.parametrize(
    ("side", "own_sigma", "sigma"), [(128, 1.0, 1.0), (192, 1.0, 1.5), (64, 1.0, 2.0), (128, 1.5, 1.0)]
)
def test_a_teacher_sees_images_in_its_own_size_and_draws_as_the_model_would(side, own_sigma, sigma):
    """A perfect teacher's heatmaps become those that a label is drawn as."""
    config = CONFIG.replace(sigma=sigma)
    teacher = mpii_teacher(skeleton=LSP, input_size=(side, side), sigma=own_sigma)
    soft_targets = teacher.soft_targets(config, torch.device("cpu"))
    places = torch.tensor([[[20.0, 41.0]], [[33.5, 28.25]]])
    images = torch.rand(2, 3, 64, 64)
    soft_targets.network = Perfect(teacher.model.config, (places + 0.5) * (side / 64) - 0.5, images)
    found = soft_targets(images)
    expected = render_heatmaps(geometry.input_to_heatmap(places, 4), (16, 16), sigma).expand(-1, 14, -1, -1)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_a_teacher_of_a_smaller_input_has_wider_peaks_in_the_right_places():
    teacher = mpii_teacher(skeleton=LSP, input_size=(64, 64))
    soft_targets = teacher.soft_targets(CONFIG.replace(input_size=(128, 128)), torch.device("cpu"))
    places = torch.tensor([[[20.0, 41.0]], [[33.5, 22.25]]])
    images = torch.rand(2, 3, 128, 128)
    soft_targets.network = Perfect(teacher.model.config, places, images)
    found = soft_targets(images)
    keypoints, scores = decode_heatmaps(found, "dark")
    expected = geometry.input_to_heatmap((places + 0.5) * 2 - 0.5, 4).expand(-1, 14, -1)
    torch.testing.assert_close(keypoints, expected, atol=0.05, rtol=0)
    assert scores.amin() > 0.15
    torch.testing.assert_close(found.sum((2, 3)), torch.full((2, 14), 2 * math.pi), atol=0.05, rtol=0)  # as a label's


def test_a_run_goes_on_with_its_teacher_alone(people, tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=2, precision="bf16")

    def taught(folder, teacher, **more):
        return trained(people, tmp_path / folder, recipe, teacher=teacher, **more)

    large = {"input_size": (128, 128)}
    whole = taught("whole", mpii_teacher(0.5, **large))
    assert not same(whole, taught("untaught", None))
    taught("run", mpii_teacher(0.5, **large), stop_after=1)
    for other in (None, mpii_teacher(0.4, **large), mpii_teacher(0.5, depth=1, **large), mpii_teacher(0.5)):
        with pytest.raises(ValueError, match=r"of another run: .*teacher\."):
            taught("run", other)
    assert same(taught("run", mpii_teacher(0.5, **large)), whole)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"skeleton": Skeleton("ball", ["middle"])}, "does not know right_ankle, .*; choose one that does"),
        ({"mean": (0.0, 0.0, 0.0)}, r"takes images of mean \(0.0, 0.0, 0.0\), the model of \(0"),
        ({"in_chans": 1, "mean": (0.5,), "std": (0.5,)}, "takes images of in_chans 1, the model of 3"),
        ({"heatmap": "gaussian"}, "heatmaps of kind 'gaussian', the model 'softmax'; train with heatmap=gaussian"),
        ({"input_size": (128, 96)}, "inputs of 128x96 px, the model 64x64, which has another aspect ratio"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(people, tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        trained(people, tmp_path / "run", teacher=mpii_teacher(**changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan")])
def test_a_teachers_share_is_a_share(share):
    with pytest.raises(ValueError, match="share must be above 0 and at most 1"):
        mpii_teacher(share)


def test_a_teacher_is_a_model_that_was_trained():
    with pytest.raises(TypeError, match="is a model from create_model, got DeployedPose"):
        Teacher(deploy(mpii_teacher().model))


# --- nothing is lost --------------------------------------------------------------------------------


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_weights(lsp_folder, people, tmp_path):
    whole = trained(people, tmp_path / "whole")
    folder = tmp_path / "killed"
    command = [sys.executable, SCRIPT, lsp_folder[0], folder, "--save-minutes", "0"]
    state = folder / LAST
    kills = 0
    for moment in (0.0, 0.003, 0.01):
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            # a moment after a state was replaced: within a step, or while the next state is written
            if state.exists() and state.stat().st_mtime_ns != before:
                time.sleep(moment)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 2
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert same(trained(people, folder), whole)
    assert [row["epoch"] for row in log_of(folder)] == ["1", "2", "3"]


def test_a_run_stopped_within_an_epoch_logs_the_whole_of_it(people, tmp_path, monkeypatch):
    whole = trained(people, tmp_path / "whole")
    learn, calls = loop._Run._learn, []

    def stopped(self, *inputs):
        calls.append(1)
        if len(calls) == 6:  # the last step of the second epoch
            raise KeyboardInterrupt
        return learn(self, *inputs)

    monkeypatch.setattr(loop._Run, "_learn", stopped)
    with pytest.raises(KeyboardInterrupt):
        trained(people, tmp_path / "parts", engine=Engine(progress=False, save_minutes=0))
    assert len(log_of(tmp_path / "parts")) == 1
    monkeypatch.setattr(loop._Run, "_learn", learn)
    assert same(trained(people, tmp_path / "parts"), whole)
    for row, expected in zip(log_of(tmp_path / "parts"), log_of(tmp_path / "whole"), strict=True):
        assert float(row["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
        assert row["step"] == expected["step"]


def test_a_torn_state_leaves_the_one_before(people, tmp_path, caplog):
    whole = trained(people, tmp_path / "run")
    state = tmp_path / "run" / LAST
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    assert same(trained(people, tmp_path / "run"), whole)
    assert "going on from" in caplog.text
    for name in (LAST, PREVIOUS):
        (tmp_path / "run" / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"last\.safetensors cannot be read .* and .*previous\.safetensors cannot be"):
        trained(people, tmp_path / "run")


def test_a_torn_state_never_replaces_the_one_before(people, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    trained(people, folder, stop_after=2)
    (folder / LAST).write_bytes(b"torn")
    replace = os.replace

    def killed(source, target):  # between the two renames of a save, if there are two
        if Path(target).name == LAST:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(people, folder)
    monkeypatch.setattr(os, "replace", replace)
    assert same(trained(people, folder), trained(people, tmp_path / "whole"))


def test_a_full_disk_keeps_the_last_state(people, tmp_path):
    one_epoch = dataclasses.replace(RECIPE, epochs=1)
    trained(people, tmp_path / "run", recipe=one_epoch)
    before = load_file(tmp_path / "run" / LAST)
    size = (tmp_path / "run" / LAST).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    folder = tmp_path / "full"
    trained(people, folder, recipe=RECIPE, stop_after=1)
    kept = load_file(folder / LAST)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))  # as a full disk: writing fails half-way
    try:
        with pytest.raises(OSError, match=r"cannot be written to .*The one before it is kept"):
            trained(people, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert same(load_file(folder / LAST), kept)
    assert not list(folder.glob("*.new"))
    assert same(trained(people, folder), trained(people, tmp_path / "whole"))
    assert before.keys() == kept.keys()


def test_a_restored_optimizer_lies_in_memory_as_before(people, tmp_path, monkeypatch):
    def layouts():
        parameters = [p for group in optimizers[-1].param_groups for p in group["params"]]
        assert any(not p.is_contiguous() for p in parameters)  # they are channels-last
        return [(p.stride(), optimizers[-1].state[p]["exp_avg"].stride()) for p in parameters]

    make, optimizers = loop.make_optimizer, []
    monkeypatch.setattr(loop, "make_optimizer", lambda *given: optimizers.append(make(*given)) or optimizers[-1])
    trained(people, tmp_path / "run", stop_after=2)
    before = layouts()
    trained(people, tmp_path / "run")
    assert layouts() == before


@pytest.mark.parametrize(("what", "save_minutes"), [("loss", 10), ("weights", 0)])
def test_a_run_that_diverges_stops_and_keeps_its_last_good_state(people, tmp_path, monkeypatch, what, save_minutes):
    learn, calls = loop._Run._learn, []

    def diverges(self, *inputs):
        calls.append(1)
        loss = learn(self, *inputs)
        if len(calls) == 5:
            if what == "loss":
                return loss * torch.nan
            next(self.model.parameters()).data[0] = torch.inf
        return loss

    monkeypatch.setattr(loop._Run, "_learn", diverges)
    engine = Engine(progress=False, save_minutes=save_minutes)
    with pytest.raises(RuntimeError, match=r"diverged: by step [56] .* from before.*lower learning_rate\.$"):
        trained(people, tmp_path / "run", engine=engine)
    state = load_file(tmp_path / "run" / LAST)
    assert all(bool(value.isfinite().all()) for value in state.values())
    monkeypatch.setattr(loop._Run, "_learn", learn)
    assert same(trained(people, tmp_path / "run"), trained(people, tmp_path / "whole"))


def test_a_finished_run_is_returned_as_it_is(people, tmp_path):
    assert same(trained(people, tmp_path / "run"), trained(people, tmp_path / "run"))


def test_a_run_does_not_go_on_with_another_recipe_and_says_what_differs(people, tmp_path):
    trained(people, tmp_path / "run")
    other = dataclasses.replace(RECIPE, epochs=9, augmentation=dataclasses.replace(RECIPE.augmentation, rotation=10.0))
    with pytest.raises(ValueError, match=r"recipe\.epochs is 3 there, 9 here; recipe\.augmentation\.rotation is 60\.0"):
        trained(people, tmp_path / "run", recipe=other)
    with pytest.raises(ValueError, match=r"people is '6 people, .* there, '4 people,"):
        trained(people.select(range(4)), tmp_path / "run")
    with pytest.raises(ValueError, match=r"model\.gate is 'channel' there, 'scalar' here"):
        trained(people, tmp_path / "run", config=CONFIG.replace(gate="scalar"))


def test_a_run_does_not_go_on_from_other_weights_than_it_began_with(people, tmp_path):
    trained(people, tmp_path / "run", start="a" * 16, stop_after=1)
    for other in (None, "b" * 16):
        with pytest.raises(ValueError, match=f"start is 'a{{16}}' there, {other!r} here"):
            trained(people, tmp_path / "run", start=other)
    assert same(trained(people, tmp_path / "run", start="a" * 16), trained(people, tmp_path / "whole"))


def test_two_runs_do_not_share_a_folder(people, tmp_path):
    pytest.importorskip("fcntl")

    def another(epoch):
        with pytest.raises(BlockingIOError, match="run is being trained into by another process; wait for it to end"):
            trained(people, tmp_path / "run")

    weights = trained(people, tmp_path / "run", report=another)
    assert same(weights, trained(people, tmp_path / "whole"))


def test_what_one_source_holds_out_no_other_trains_on(lsp_folder, tmp_path):
    """Two lists of the same images, of which each is split by itself."""
    folder = lsp_folder[0]
    names = [path.name for path in read_lsp(folder, "train").images]
    points = [value for k in range(14) for value in (5 + k, 9 + 2 * k, 2)]
    data = {
        "categories": [{"id": 1, "name": "person", "keypoints": list(LSP.keypoints)}],
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names[1:])],
        "annotations": [
            {"image_id": i, "category_id": 1, "bbox": [0, 0, 30, 50], "keypoints": points}
            for i in range(len(names[1:]))
        ],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations" / "most.json").write_text(json.dumps(data))
    sources = [f"lsp:{folder}:train", f"coco:{folder}:most"]
    people = {source: read_people(source).to_skeleton(LSP) for source in sources}
    alone = [group.hold_out(0.3, 0) for group in people.values()]
    held_out = {image for _, held in alone for image in held.images}
    assert any(held_out.intersection(kept.images) for kept, _ in alone)
    for kept, held in training_run._split(people, 0.3, 0).values():
        assert held
        assert not held_out.intersection(kept.images)


def test_sides_that_mirroring_does_not_swap_are_warned_of(people, tmp_path, caplog):
    names = ("ankle_right", *LSP.keypoints[1:])
    other = dataclasses.replace(people, skeleton=Skeleton("other", names))
    recipe = dataclasses.replace(RECIPE, epochs=1)
    trained(other, tmp_path / "run", recipe=recipe, config=CONFIG.replace(skeleton=other.skeleton))
    assert "will not swap ankle_right, left_ankle: only pairs named left_x and right_x" in caplog.text
    caplog.clear()
    recipe = dataclasses.replace(recipe, augmentation=Augmentation(flip=0.0))
    trained(other, tmp_path / "unmirrored", recipe=recipe, config=CONFIG.replace(skeleton=other.skeleton))
    assert "swap" not in caplog.text


# --- bad input ----------------------------------------------------------------------------------------


def test_training_refuses_what_cannot_work(people, mpii_folder, tmp_path):
    with pytest.raises(ValueError, match="0 people are fewer than one batch of 32; give more, or hold out fewer"):
        trained(people.select([]), tmp_path / "run", recipe=Recipe())
    with pytest.raises(ValueError, match="6 people are fewer than one batch of 32; choose a smaller batch_size"):
        trained(people, tmp_path / "run", recipe=Recipe())
    with pytest.raises(ValueError, match=r"skeleton 'mpii' \(right_.*\), the model 'lsp' \(.*; convert .*to_skeleton"):
        trained(read_mpii_json(mpii_folder, "valid"), tmp_path / "run")
    with pytest.raises(ValueError, match=r"batch of 2 cannot be shared evenly by 1 processes of 3 parts"):
        trained(people, tmp_path / "run", recipe=dataclasses.replace(RECIPE, accumulate=3))
    with pytest.raises(ValueError, match=r"One image of 16 px at a time .* choose a batch_size of at least 4"):
        trained(
            people,
            tmp_path / "run",
            recipe=dataclasses.replace(RECIPE, accumulate=2),
            config=CONFIG.replace(input_size=(16, 16)),
        )
    with pytest.raises(ValueError, match="device 'xpu' is not available here, 'cpu' is; pass device='cpu'"):
        trained(people, tmp_path / "run", engine=Engine(device="xpu"))
    with pytest.raises(ValueError, match="A device is called cpu, cuda or cuda:1, for example; got 'first'"):
        trained(people, tmp_path / "run", engine=Engine(device="first"))
    for settings in ({"speed": 9}, {"betas": [0.9]}, {"eps": -1.0}):
        with pytest.raises(ValueError, match="optimizer_settings do not fit adamw"):
            trained(people, tmp_path / "run", recipe=dataclasses.replace(RECIPE, optimizer_settings=settings))


def test_too_many_unreadable_images_stop_a_run_and_few_are_left_out(people, tmp_path, monkeypatch, caplog):
    people.images[1].write_bytes(b"no picture")
    people.images[4].unlink()
    with pytest.raises(
        ValueError, match=r"images of 2 of 6 people cannot be read, more than 1%: .*0002.*; No image .*0005"
    ):
        trained(people, tmp_path / "run")
    monkeypatch.setattr(crops_module, "MAX_UNREADABLE", 0.5)
    trained(people, tmp_path / "run")
    assert "Left out of training" in caplog.text
    assert [row["step"] for row in log_of(tmp_path / "run")] == ["2", "4", "6"]  # 4 people are left


def test_a_run_goes_on_with_the_images_that_it_began_with_alone(people, tmp_path, monkeypatch):
    monkeypatch.setattr(crops_module, "MAX_UNREADABLE", 0.5)
    trained(people, tmp_path / "run", stop_after=1)
    lost = people.images[2].read_bytes()
    people.images[2].unlink()
    with pytest.raises(ValueError, match=r"not those that .* began with: of people there were 6 people, .* are 5 peop"):
        trained(people, tmp_path / "run")
    with pytest.raises(ValueError, match="5 people whose images can be read are fewer than one batch of 6"):
        trained(people, tmp_path / "other", recipe=dataclasses.replace(RECIPE, batch_size=6))
    people.images[2].write_bytes(lost)
    assert same(trained(people, tmp_path / "run"), trained(people, tmp_path / "whole"))


def test_processes_that_see_different_things_do_not_begin(people, tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.utils.gather_object", lambda mine: [*mine, "step 2, 5 people"])
    with pytest.raises(ValueError, match=r"do not begin alike: step 0, 6 people, .*; step 2, 5 people\. All must see"):
        trained(people, tmp_path / "run")


def test_validation_leaves_out_images_that_cannot_be_read(people, tmp_path, caplog):
    training, validation = people.select(range(4)), people.select(range(4, 6))
    validation.images[0].unlink()
    trained(training, tmp_path / "run", validation=validation)
    assert "Left out of validation: No image" in caplog.text
    validation.images[1].unlink()
    with pytest.raises(ValueError, match="None of the images of the 2 validation people can be read: No image"):
        trained(training, tmp_path / "other", validation=validation)


def test_what_ends_validation_does_not_cost_the_epoch(people, tmp_path, caplog):
    training, validation, reported = people.select(range(4)), people.select(range(4, 6)), []

    def vanish(epoch):
        reported.append(epoch.validation)
        for image in validation.images:
            image.unlink(missing_ok=True)

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "sheets").write_text("in the way")
    trained(training, tmp_path / "run", validation=validation, report=vanish)
    assert reported[0] is not None
    assert "The contact sheet of epoch 1 is left out: " in caplog.text
    assert reported[1:] == [None] * (RECIPE.epochs - 1)
    assert f"Validation of epoch {RECIPE.epochs} is left out: No image" in caplog.text
    assert len(log_of(tmp_path / "run")) == RECIPE.epochs


def test_an_image_whose_name_is_no_text(people, tmp_path):
    image = people.images[0].rename(people.images[0].with_name("caf\udce9.jpg"))
    trained(dataclasses.replace(people, images=(image, *people.images[1:])), tmp_path / "run")


# --- the same run on other machines -------------------------------------------------------------------


def test_two_machines_follow_one(lsp_folder, people, tmp_path):
    """Each of two launchers' processes sees one half of every batch; alone, one process sees the halves in turn."""
    trained(people, tmp_path / "alone", recipe=dataclasses.replace(RECIPE, accumulate=2))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = ["--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend", "c10d", "--rdzv_id", "poses"]
    launch = [sys.executable, "-m", "torch.distributed.run", *nodes, "--rdzv_endpoint", f"127.0.0.1:{port}"]
    command = [*launch, SCRIPT, lsp_folder[0], tmp_path / "two"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    machines = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    for machine in machines:
        _, told = machine.communicate()
        assert machine.returncode == 0, told.decode()[-3000:]
    together = load_file(tmp_path / "two" / LAST)
    expected = load_file(tmp_path / "alone" / LAST)
    weights = [key for key in expected if key.startswith("model.") and not key.endswith(("mean", "var", "tracked"))]
    for key in weights:
        torch.testing.assert_close(together[key], expected[key], atol=2e-4, rtol=1e-2)
    torch.manual_seed(0)
    first = SoftGatePose(CONFIG).state_dict()
    assert max(float((expected[key] - first[key.removeprefix("model.")]).abs().max()) for key in weights) > 1e-3
    losses = [[float(row["loss"]) for row in log_of(tmp_path / name)] for name in ("alone", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_the_others_wait_until_the_model_is_saved(lsp_folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        PartialState, "wait_for_everyone", lambda self: seen.append((tmp_path / "run/model/model.safetensors").exists())
    )
    recipe = dataclasses.replace(RECIPE, epochs=1)
    source = f"lsp:{lsp_folder[0]}:train"
    engine = Engine(progress=False)
    train(SoftGatePose(CONFIG), [source], tmp_path / "run", recipe=recipe, hold_out=0, engine=engine)
    assert seen[-1]
    assert not any(seen[:-1])


def test_each_run_has_its_own_accelerator(people, tmp_path, monkeypatch):
    """Its own device, precision and parts, whatever the run before it, or a launcher's settings, were."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "7")
    first = make_accelerator(dataclasses.replace(RECIPE, precision="bf16", accumulate=2), "cpu")
    assert (first.mixed_precision, first.gradient_accumulation_steps) == ("bf16", 2)
    PartialState._shared_state["device"] = torch.device("meta")  # as after a run on a GPU
    second = make_accelerator(RECIPE, "cpu")
    assert (second.mixed_precision, second.gradient_accumulation_steps) == ("no", 1)
    assert second.device == torch.device("cpu")


def test_streamed_and_stored_crops_train_the_same(people, tmp_path):
    stored = trained(people, tmp_path / "stored")
    for keep, workers in (("device", 0), ("stream", 0), ("stream", 1)):
        engine = Engine(keep=keep, workers=workers, progress=False)
        assert same(trained(people, tmp_path / f"{keep}{workers}", engine=engine), stored)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_streamed_image_that_vanishes_is_an_error(people, tmp_path, monkeypatch, workers):
    epoch = loop._Run._epoch

    def vanish(self, *arguments):
        for image in people.images:
            image.unlink(missing_ok=True)
        return epoch(self, *arguments)

    monkeypatch.setattr(loop._Run, "_epoch", vanish)
    with pytest.raises(RuntimeError, match=r"^Images cannot be read any more: No image") as raised:
        trained(people, tmp_path / "run", engine=Engine(keep="stream", workers=workers, progress=False))
    assert "Traceback" not in str(raised.value)


def test_inputs_go_to_the_device_of_the_run(people, tmp_path, monkeypatch):
    """Wherever crops are kept; there need not be a second device here to see that they are sent."""
    sent = []
    monkeypatch.setattr(loop.Crops, "to", lambda self, device: sent.append(device.type) or self)
    trained(people, tmp_path / "run")
    assert sent == ["cpu"] * 9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("keep", ["memory", "device", "stream"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_trains(people, tmp_path, keep, precision):
    recipe = dataclasses.replace(RECIPE, precision=precision, accumulate=2)
    engine = Engine(device="cuda", keep=keep, progress=False)
    weights = trained(people, tmp_path / "run", recipe=recipe, engine=engine, validation=people)
    assert all(value.is_cuda and bool(value.isfinite().all()) for value in weights.values())


def test_bf16_trains_float32_weights(people, tmp_path):
    exact = trained(people, tmp_path / "fp32")
    rough = trained(people, tmp_path / "bf16", recipe=dataclasses.replace(RECIPE, precision="bf16"))
    assert all(value.dtype == exact[key].dtype for key, value in rough.items())
    assert not same(rough, exact)
    losses = [float(log_of(tmp_path / name)[0]["loss"]) for name in ("fp32", "bf16")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_run_leaves_the_model_exact_whatever_its_precision(people, tmp_path):
    model = SoftGatePose(CONFIG)
    recipe = dataclasses.replace(RECIPE, epochs=1, precision="bf16", ema_decay=0.0)
    images = torch.randn(2, 3, 64, 64)
    found = fit(KeypointTask(model, people), recipe, tmp_path / "run", engine=Engine(progress=False))(images)
    fresh = SoftGatePose(CONFIG).eval()
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(found, fresh(images))


def test_a_compiled_network_trains_the_same(people, tmp_path, monkeypatch):
    compile_, compiled = torch.compile, []

    def eager(model):  # without a C++ compiler
        compiled.append(model)
        return compile_(model, backend="eager")

    monkeypatch.setattr(torch, "compile", eager)
    engine = Engine(compile=True, progress=False)
    assert same(trained(people, tmp_path / "compiled", engine=engine), trained(people, tmp_path / "plain"))
    assert len(compiled) == 1


# --- recipes ------------------------------------------------------------------------------------------


def rates(people, folder, recipe, monkeypatch):
    learn, found = loop._Run._learn, []

    def watched(self, *inputs):
        found.append(self.optimizer.param_groups[0]["lr"])
        return learn(self, *inputs)

    monkeypatch.setattr(loop._Run, "_learn", watched)
    trained(people, folder, recipe=recipe)
    return found


def test_the_learning_rate_rises_and_falls_to_nothing(people, tmp_path, monkeypatch):
    found = rates(people, tmp_path / "run", Recipe(epochs=10, batch_size=2, warmup=0.2), monkeypatch)
    assert found.index(max(found)) == 6  # of 30 steps
    assert max(found) == 1e-3
    assert found[-1] < 1e-5


def test_a_learning_rate_may_rise_to_the_end(people, tmp_path, monkeypatch):
    found = rates(people, tmp_path / "run", Recipe(epochs=2, batch_size=2, warmup=1.0), monkeypatch)
    assert found == sorted(found)
    assert found[-1] == 1e-3


def test_steps_drop_the_learning_rate_at_their_epochs(people, tmp_path, monkeypatch):
    recipe = Recipe(epochs=4, batch_size=2, schedule="step", milestones=(1, 3), decay=0.1, warmup=0)
    found = rates(people, tmp_path / "run", recipe, monkeypatch)
    assert found == pytest.approx([1e-3] * 3 + [1e-4] * 6 + [1e-5] * 3)


@pytest.mark.parametrize(
    ("name", "epochs", "drops"), [("paper-mpii", 200, (75, 100, 150)), ("paper-lsp", 100, (25, 50, 75))]
)
def test_the_papers_recipes(name, epochs, drops):
    recipe, model = PRESETS[name].recipe, PRESETS[name].model
    assert (recipe.epochs, recipe.milestones, recipe.batch_size, recipe.optimizer) == (epochs, drops, 24, "rmsprop")
    assert recipe.learning_rate * recipe.decay**3 == pytest.approx(1e-5)
    assert recipe.weight_decay == recipe.ema_decay == recipe.clip_grad == recipe.warmup == 0
    assert model == {"heatmap": "gaussian", "sigma": 1.0, "input_size": (256, 256)}
    optimizer = make_optimizer(SoftGatePose(CONFIG), recipe)
    assert type(optimizer) is torch.optim.RMSprop
    assert optimizer.defaults["momentum"] == 0
    assert optimizer.defaults["alpha"] == 0.99


def test_weight_decay_spares_gates_biases_and_norms():
    model = SoftGatePose(CONFIG)
    optimizer = make_optimizer(model, Recipe(weight_decay=0.1))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    convolutions = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)}
    assert names == {f"{name}.weight" for name in convolutions}


def test_settings_change_recipe_augmentation_and_model():
    named = Preset(Recipe(), {"sigma": 2.0})
    changed = named.change({"epochs": 3, "rotation": 10, "gate": "scalar", "milestones": []})
    assert (changed.recipe.epochs, changed.recipe.augmentation.rotation) == (3, 10)
    assert changed.model == {"sigma": 2.0, "gate": "scalar"}
    with pytest.raises(ValueError, match=r"Unknown setting 'rotatoin'\. Did you mean 'rotation'"):
        get_preset("fast").change({"rotatoin": 3})
    with pytest.raises(ValueError, match="Unknown recipe 'quick'; known are fast, paper-mpii, paper-lsp"):
        get_preset("quick")


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"seed": 2**63}, r"seed must be below 2\*\*63"),
        ({"learning_rate": 0}, "would leave the weights as they are; got learning_rate=0 and ema_decay=0.999"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number"),
        ({"ema_decay": 1.5}, "ema_decay must be a number of at least 0 and at most 1"),
        ({"optimizer": "lamb"}, "optimizer must be one of adamw"),
        ({"precision": "fp8"}, "precision must be one of fp32, bf16"),
        (
            {"schedule": "step"},
            r"needs milestones, .*got schedule=step and milestones=\[\]\. Give milestones=\[6\], or",
        ),
        ({"milestones": (3,)}, r"got schedule=cosine and milestones=\[3\]\. Give schedule=step, or milestones=\[\]"),
        ({"schedule": "step", "milestones": (3, 12)}, r"never drop at epoch 12 of a run of 12\. .* milestones=\[6\]"),
        ({"epochs": 1, "schedule": "step", "milestones": (1,)}, r"such as schedule=cosine and milestones=\[\]"),
        ({"epochs": 1, "schedule": "step"}, r"Give schedule=cosine\."),
        ({"milestones": (3, 2), "schedule": "step"}, "rising epochs"),
        ({"milestones": ("3",), "schedule": "step"}, "whole numbers from 1"),
        ({"milestones": ([3],), "schedule": "step"}, "whole numbers from 1"),
        ({"milestones": 75, "schedule": "step"}, "must be a list of epochs"),
    ],
)
def test_recipes_refuse_what_makes_no_sense(wrong, match):
    with pytest.raises(ValueError, match=match):
        Recipe(**wrong)


# --- watching -----------------------------------------------------------------------------------------


def test_a_run_is_logged_and_drawn(people, tmp_path):
    epochs = []
    folder = tmp_path / "run"
    trained(people.select(range(4)), folder, validation=people.select(range(2, 6)), report=epochs.append)
    assert [epoch.row["epoch"] for epoch in epochs] == [1, 2, 3]
    assert epochs[-1].validation.people == 4
    rows = log_of(folder)
    assert float(rows[2]["PCK@0.2 mean"]) == pytest.approx(epochs[2].validation.figures["mean"])
    assert all(0 < float(row["feeding_percent"]) < 100 and float(row["images_per_second"]) > 0 for row in rows)
    with Image.open(folder / "sheets" / "epoch003.jpg") as sheet:
        assert sheet.size == (4 * 192, 192 + 14)  # all four

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    points = board.Scalars("epoch/loss")
    assert [point.step for point in points] == [2, 4, 6]
    assert points[2].value == pytest.approx(float(rows[2]["loss"]))


@pytest.mark.parametrize("what", ["epoch", "save"])
@pytest.mark.parametrize("before", [True, False])
def test_a_run_that_is_stopped_between_epochs_logs_each_once(people, tmp_path, monkeypatch, what, before):
    """Before or after the second epoch is logged, or its state saved."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    owner = loop.RunLog if what == "epoch" else loop.TrainingState
    act, calls = getattr(owner, what), []

    def stopped(*given):
        calls.append(1)
        if len(calls) == 2 and before:
            raise KeyboardInterrupt
        act(*given)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(owner, what, stopped)
    with pytest.raises(KeyboardInterrupt):
        trained(people, tmp_path)
    trained(people, tmp_path)
    assert [row["step"] for row in log_of(tmp_path)] == ["3", "6", "9"]
    points = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("epoch/loss")
    assert [point.step for point in points] == [3, 6, 9]


def test_keypoints_outside_their_boxes_are_told_before_training(tmp_path, caplog):
    """Boxes of 0 to 1 beside keypoints in pixels, or of another image, would train to a loss of 0."""
    row = coco_data()["annotations"][0]
    model = SoftGatePose(CONFIG.replace(skeleton=Skeleton("dog", tuple(coco_data()["categories"][1]["keypoints"]))))

    def run(*rows):
        source = write_coco(tmp_path, coco_data(annotations=list(rows)))
        train(model, [source], tmp_path / "run", recipe=RECIPE, hold_out=0, engine=Engine(progress=False))

    with pytest.raises(ValueError, match=r"100 % of the labelled keypoints lie outside .* must both be in pixels"):
        run({**row, "bbox": [900, 900, 30, 40]})
    with pytest.raises(ValueError, match="at most a pixel wide and high, got"):
        run({**row, "bbox": [0.1, 0.2, 0.3, 0.4]})
    with pytest.raises(ValueError, match="cannot be read"):  # there are no images here
        run(row, {**row, "bbox": [900, 900, 30, 40]}, {**row, "bbox": [900, 900, 30, 40]})
    assert "67 % of the labelled keypoints lie outside their person's box and its margin; such" in caplog.text
    assert "Nobody has right_ear, tail, belly labelled" in caplog.text


def test_a_file_in_the_models_place_is_told_before_training(lsp_folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").write_text("mine")
    with pytest.raises(ValueError, match="model is a file, and the model is to be saved in a folder of that name"):
        train(SoftGatePose(CONFIG), [f"lsp:{lsp_folder[0]}:train"], tmp_path / "run", recipe=RECIPE)
    assert (tmp_path / "run" / "model").read_text() == "mine"


def test_nobody_labelled_is_said_so(mpii_folder, tmp_path):
    file = mpii_folder / "annot" / "train.json"
    rows = json.loads((mpii_folder / "annot" / "valid.json").read_text())
    file.write_text(json.dumps([{**row, "joints_vis": [0] * 16} for row in rows]))
    with pytest.raises(ValueError, match="holds nobody with a labelled keypoint"):
        train(SoftGatePose(CONFIG), [f"mpii:{mpii_folder}:train"], tmp_path / "run", recipe=RECIPE)


def test_weights_beyond_sixteen_bits_are_saved_in_thirty_two(lsp_folder, tmp_path, monkeypatch, caplog):
    def diverging(model, *given, **more):
        with torch.no_grad():
            model.stem[1].running_var[0] = 1e6
        return model.eval()

    monkeypatch.setattr(training_run, "fit", diverging)
    source = f"lsp:{lsp_folder[0]}:train"
    folder = train(SoftGatePose(CONFIG), [source], tmp_path / "run", recipe=RECIPE, hold_out=0)
    assert "do not fit into 16 bits" in caplog.text
    tensors = load_file(folder / "model.safetensors")
    assert tensors["stem.1.running_var"][0] == 1e6
    assert tensors["stem.0.weight"].dtype == torch.float32


def test_a_full_disk_ends_tensorboard_and_not_the_run(tmp_path, monkeypatch, caplog):
    log = loop.RunLog(tmp_path)

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log.board, "add_scalar", full)
    log.scalars({"step/loss": 1.0}, 1)
    log.scalars({"step/loss": 1.0}, 2)
    log.close()
    assert caplog.text.count("No space left on device") == 1


def test_a_full_disk_at_the_end_says_that_training_is_kept(lsp_folder, tmp_path, monkeypatch):
    save = training_run.save_pretrained

    def full(*given, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_run, "save_pretrained", full)
    source, folder = f"lsp:{lsp_folder[0]}:train", tmp_path / "run"
    with pytest.raises(
        OSError, match=r"No space left .* Training is finished and kept, .* give the same command again"
    ):
        train(SoftGatePose(CONFIG), [source], folder, recipe=RECIPE, hold_out=0)
    monkeypatch.setattr(training_run, "save_pretrained", save)
    monkeypatch.setattr(loop._Run, "train", None)  # there is nothing left to train
    assert train(SoftGatePose(CONFIG), [source], folder, recipe=RECIPE, hold_out=0) == folder / "model"


def test_a_full_disk_at_the_log_names_it(tmp_path, monkeypatch):
    def full(*given, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_module.Path, "write_text", full)
    log = loop.RunLog(tmp_path / "run")
    with pytest.raises(OSError, match=r"The log cannot be written to .*log\.csv: .*No space left .* is kept"):
        log.epoch([{"epoch": 1, "step": 1}])


def test_the_same_weights_are_the_same_file(tmp_path):
    model = SoftGatePose(CONFIG)
    files = [save_pretrained(model, tmp_path / str(n)) / "model.safetensors" for n in range(8)]
    assert len({file.read_bytes() for file in files}) == 1
