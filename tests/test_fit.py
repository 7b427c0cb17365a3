"""Training: what it learns, that it loses nothing, and that many processes do as one."""

import copy
import csv
import dataclasses
import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from made_data import coco_data, dotted_people, write_coco
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from train_made import ALIKE, CONFIG, RECIPE, trained

from softgate_pose import LSP, MPII, Skeleton, create_model, save_pretrained
from softgate_pose.data.lsp import read_lsp
from softgate_pose.data.mpii import read_mpii_json
from softgate_pose.data.sources import read_people
from softgate_pose.model.softgate import SoftGatePose
from softgate_pose.pose import geometry
from softgate_pose.pose.heatmaps import decode_heatmaps, render_heatmaps
from softgate_pose.prediction.predict import predict_people
from softgate_pose.training import crops as crops_module
from softgate_pose.training import log as log_module
from softgate_pose.training import loop
from softgate_pose.training import run as training_run
from softgate_pose.training.checkpoint import LAST, PREVIOUS
from softgate_pose.training.loop import fit
from softgate_pose.training.optim import make_accelerator, make_optimizer, make_schedule
from softgate_pose.training.recipe import PRESETS, Augmentation, Engine, Preset, Recipe, get_preset
from softgate_pose.training.run import train
from softgate_pose.training.task import KeypointTask
from softgate_pose.training.teacher import Teacher

SCRIPT = Path(__file__).parent / "train_made.py"
LARGER = CONFIG.replace(num_stacks=2, depth=2, input_size=(64, 64))
QUIET = Engine(progress=False)
SHORT = dataclasses.replace(RECIPE, epochs=1)


@pytest.fixture(autouse=True)
def event_files_in_their_order(monkeypatch):
    """TensorBoard numbers a process's files, and reads those of one second by their names: 10 before 9."""
    from tensorboard.summary.writer import event_file_writer

    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(100))


@pytest.fixture
def people(lsp_folder):
    return read_lsp(lsp_folder[0], "train")


@pytest.fixture
def whole(people, tmp_path, _cache={}):  # noqa: B006 (the same for all tests: what is trained on does not differ)
    """The weights of a run that nothing interrupts, and its log."""
    if not _cache:
        _cache["weights"] = trained(people, tmp_path / "whole")
        _cache["log"] = log_of(tmp_path / "whole")
    return _cache


@pytest.fixture
def launched(lsp_folder, tmp_path_factory, _cache=[]):  # noqa: B006
    """What the script leaves, and prints, of one launch for all tests."""
    if not _cache:
        folder = tmp_path_factory.mktemp("launched")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, SCRIPT, lsp_folder[0], folder]
        end = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert end.returncode == 0, end.stderr.decode()[-3000:]
        _cache.extend((folder, json.loads(end.stdout)))
    return _cache


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def log_of(folder):
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def change(recipe=RECIPE, **changes):
    return dataclasses.replace(recipe, **changes)


# --- what it learns, of labels and of a teacher -------------------------------------------------------


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Eight people whose joints are one bright dot, and a network that was trained to find it."""
    folder = tmp_path_factory.mktemp("learned")
    people = dotted_people(folder, 8)
    torch.manual_seed(0)
    return people, fit(
        KeypointTask(SoftGatePose(CONFIG.replace(num_stacks=2)), people), LONG, folder / "run", engine=QUIET
    )


LONG = Recipe(epochs=20, batch_size=8, learning_rate=1e-2, ema_decay=0.8)


def error_of(model, people):
    error = torch.linalg.vector_norm(predict_people(model, people).keypoints - people.keypoints, dim=-1)
    return error[:, 2:].median()


def test_training_learns(learned):
    people, model = learned
    assert error_of(model, people) < 4  # of 60 pixels; untrained it is above 15


def test_a_teacher_teaches_people_whom_nobody_labelled(learned, tmp_path):
    people, teacher = learned
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    unlabelled = dataclasses.replace(people, labelled=torch.zeros_like(people.labelled))
    torch.manual_seed(1)
    task = KeypointTask(SoftGatePose(CONFIG), unlabelled, teacher=Teacher(teacher))
    assert error_of(fit(task, LONG, tmp_path / "pupil", engine=QUIET), people) < 4
    assert same(teacher.state_dict(), before)


def mpii_teacher(share=1.0, **changes):
    """Of another skeleton, which holds LSP's keypoints in another order."""
    torch.manual_seed(1)
    return Teacher(SoftGatePose(CONFIG.replace(**{"skeleton": MPII, **changes})).eval(), share)


def test_a_teacher_has_its_keypoints_in_an_order_of_its_own():
    teacher = mpii_teacher()
    images = torch.randn(2, 3, 32, 32)
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
    config = LARGER.replace(sigma=sigma)
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
    soft_targets = teacher.soft_targets(LARGER.replace(input_size=(128, 128)), torch.device("cpu"))
    places = torch.tensor([[[20.0, 41.0]], [[33.5, 22.25]]])
    images = torch.rand(2, 3, 128, 128)
    soft_targets.network = Perfect(teacher.model.config, places, images)
    found = soft_targets(images)
    keypoints, scores = decode_heatmaps(found, "dark")
    expected = geometry.input_to_heatmap((places + 0.5) * 2 - 0.5, 4).expand(-1, 14, -1)
    torch.testing.assert_close(keypoints, expected, atol=0.05, rtol=0)
    assert scores.amin() > 0.15
    torch.testing.assert_close(found.sum((2, 3)), torch.full((2, 14), 2 * math.pi), atol=0.05, rtol=0)  # as a label's


def test_a_run_goes_on_with_its_teacher_alone(people, whole, tmp_path):
    recipe = change(epochs=2, precision="bf16")

    def taught(folder, teacher, **more):
        return trained(people, tmp_path / folder, recipe, teacher=teacher, **more)

    large = {"input_size": (64, 64)}
    uninterrupted = taught("uninterrupted", mpii_teacher(0.5, **large))
    assert not same(uninterrupted, whole["weights"])
    taught("run", mpii_teacher(0.5, **large), stop_after=1)
    for other in (None, mpii_teacher(0.4, **large), mpii_teacher(0.5, width=12, **large), mpii_teacher(0.5)):
        with pytest.raises(ValueError, match=r"teacher\.(share|model|weights).* there"):
            taught("run", other)
    assert same(taught("run", mpii_teacher(0.5, **large)), uninterrupted)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"skeleton": Skeleton("ball", ["middle"])}, "right_ankle"),
        ({"mean": (0.0, 0.0, 0.0)}, r"mean \(0.0, 0.0, 0.0\), .*\(0.485"),
        ({"in_chans": 1, "mean": (0.5,), "std": (0.5,)}, "in_chans 1, .* 3"),
        ({"heatmap": "gaussian"}, "heatmap 'gaussian', .* 'softmax'"),
        ({"input_size": (64, 48)}, r"input_size \(64, 48\), .*\(32, 32\)"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(people, tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        trained(people, tmp_path / "run", teacher=mpii_teacher(**changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan")])
def test_a_teachers_share_is_a_share(share):
    with pytest.raises(ValueError, match=f"share.*{share}"):
        mpii_teacher(share)


def test_a_teacher_is_a_model_that_was_trained():
    for wrong in (mpii_teacher().model.deploy(), torch.nn.Identity()):
        with pytest.raises(TypeError, match=type(wrong).__name__):
            Teacher(wrong)


# --- nothing is lost --------------------------------------------------------------------------------


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_weights(people, whole, launched):
    folder, printed = launched
    assert printed["kills"] >= 2
    folder = folder / "killed"
    assert same(trained(people, folder), whole["weights"])
    assert [row["epoch"] for row in log_of(folder)] == ["1", "2", "3"]
    assert not list(folder.glob("*.new"))


def stop_in_step(monkeypatch, number):
    """Interrupt the step of that number, once."""
    learn, calls = loop._Run._learn, []

    def stopped(self, *inputs):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return learn(self, *inputs)

    monkeypatch.setattr(loop._Run, "_learn", stopped)


def test_a_run_stopped_within_an_epoch_logs_the_whole_of_it(people, whole, tmp_path, monkeypatch):
    stop_in_step(monkeypatch, 6)  # the last of the second epoch
    with pytest.raises(KeyboardInterrupt):
        trained(people, tmp_path, engine=Engine(progress=False, save_minutes=0))
    assert len(log_of(tmp_path)) == 1
    assert same(trained(people, tmp_path), whole["weights"])
    for row, expected in zip(log_of(tmp_path), whole["log"], strict=True):
        assert float(row["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
        assert row["step"] == expected["step"]


def test_a_torn_state_leaves_the_one_before(people, whole, tmp_path, caplog):
    trained(people, tmp_path, stop_after=2)
    state = tmp_path / LAST
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    assert same(trained(people, tmp_path), whole["weights"])
    assert "previous.safetensors" in caplog.text
    for name in (LAST, PREVIOUS):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"last\.safetensors.*previous\.safetensors"):
        trained(people, tmp_path)


def test_a_torn_state_never_replaces_the_one_before(people, whole, tmp_path, monkeypatch):
    trained(people, tmp_path, stop_after=2)
    (tmp_path / LAST).write_bytes(b"torn")
    replace = os.replace

    def killed(source, target):  # between the two renames of a save, if there are two
        if Path(target).name == LAST:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(people, tmp_path)
    assert same(trained(people, tmp_path), whole["weights"])


@pytest.fixture
def limited_files():
    """Set the largest size of a file, as a full disk would: writing fails half-way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_the_last_state(people, whole, tmp_path, limited_files):
    trained(people, tmp_path, stop_after=1)
    before = load_file(tmp_path / LAST)
    limited_files((tmp_path / LAST).stat().st_size // 2)
    with pytest.raises(OSError, match=r"last\.safetensors: .*[Ff]ile"):
        trained(people, tmp_path)
    limited_files(resource.RLIM_INFINITY)
    assert same(load_file(tmp_path / LAST), before)
    assert not list(tmp_path.glob("*.new"))
    assert same(trained(people, tmp_path), whole["weights"])


def test_crops_leave_no_file_behind_and_say_how_much_they_need(people, tmp_path, limited_files):
    seen = []
    trained(people, tmp_path, SHORT, report=lambda epoch: seen.extend(tmp_path.glob("crops*")))
    assert seen == []  # it is mapped, and goes with the processes
    limited_files(9999)
    with pytest.raises(OSError, match=r"crops0\.bin: .*\d GiB.*keep='stream'"):
        trained(people, tmp_path / "full", SHORT)
    assert not list((tmp_path / "full").glob("crops*"))


def test_a_restored_optimizer_lies_in_memory_as_before(people, tmp_path, monkeypatch):
    def layouts():
        parameters = [p for group in optimizers[-1].param_groups for p in group["params"]]
        assert any(not p.is_contiguous() for p in parameters)  # they are channels-last
        return [(p.stride(), optimizers[-1].state[p]["exp_avg"].stride()) for p in parameters]

    make, optimizers = loop.make_optimizer, []
    monkeypatch.setattr(loop, "make_optimizer", lambda *given: optimizers.append(make(*given)) or optimizers[-1])
    trained(people, tmp_path, stop_after=2)
    before = layouts()
    trained(people, tmp_path)
    assert layouts() == before


@pytest.mark.parametrize(("what", "save_minutes"), [("loss", 10), ("weights", 0)])
def test_a_run_that_diverges_stops_and_keeps_its_last_good_state(
    people, whole, tmp_path, monkeypatch, what, save_minutes
):
    learn, calls = loop._Run._learn, []

    def diverges(self, *inputs):
        calls.append(1)
        loss = learn(self, *inputs)
        if len(calls) == 5:
            if what == "loss":
                return loss * torch.nan
            next(self.model.parameters()).data[0] = torch.inf
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_learn", diverges)
        with pytest.raises(RuntimeError, match=r"step [56] .*learning_rate\.$"):
            trained(people, tmp_path, engine=Engine(progress=False, save_minutes=save_minutes))
    assert all(bool(value.isfinite().all()) for value in load_file(tmp_path / LAST).values())
    assert same(trained(people, tmp_path), whole["weights"])


def test_a_finished_run_is_returned_as_it_is(people, tmp_path, monkeypatch):
    weights = trained(people, tmp_path, SHORT)
    monkeypatch.setattr(loop._Run, "train", None)
    assert same(trained(people, tmp_path, SHORT), weights)


def test_a_run_does_not_go_on_with_another_recipe_and_says_what_differs(people, tmp_path):
    trained(people, tmp_path, SHORT)
    other = change(SHORT, epochs=9, augmentation=Augmentation(rotation=10.0))
    with pytest.raises(ValueError, match=r"recipe\.epochs is 1 there, 9 .*augmentation\.rotation is 60\.0 .* 10"):
        trained(people, tmp_path, other)
    with pytest.raises(ValueError, match=r"people is '6 people, .* there, '4 people,"):
        trained(people.select(range(4)), tmp_path, SHORT)
    with pytest.raises(ValueError, match=r"model\.gate is 'channel' there, 'scalar' here"):
        trained(people, tmp_path, SHORT, config=CONFIG.replace(gate="scalar"))


def test_a_run_does_not_go_on_from_other_weights_than_it_began_with(people, whole, tmp_path):
    trained(people, tmp_path, start="a" * 16, stop_after=1)
    for other in (None, "b" * 16):
        with pytest.raises(ValueError, match=f"start is 'a{{16}}' there, {other!r} here"):
            trained(people, tmp_path, start=other)
    assert same(trained(people, tmp_path, start="a" * 16), whole["weights"])


def test_a_run_of_an_older_version_goes_on(people, whole, tmp_path):
    """Its state does not name settings that came later."""
    trained(people, tmp_path, stop_after=1)
    with safe_open(tmp_path / LAST, framework="pt") as stored:
        metadata = stored.metadata()
    run = json.loads(metadata["run"])
    assert run["model"].pop("architecture") == "softgate"
    assert json.loads(metadata["progress"]).keys() == {"step", "loss", "seconds", "people", "history"}
    save_file(load_file(tmp_path / LAST), tmp_path / LAST, metadata=metadata | {"run": json.dumps(run)})
    assert same(trained(people, tmp_path), whole["weights"])


def test_two_runs_do_not_share_a_folder(people, whole, tmp_path):
    def another(epoch):
        if epoch.row["epoch"] == 1:
            with pytest.raises(BlockingIOError, match=str(tmp_path)):
                trained(people, tmp_path)

    assert same(trained(people, tmp_path, report=another), whole["weights"])


# --- bad input ----------------------------------------------------------------------------------------


def test_sides_that_mirroring_does_not_swap_are_warned_of(people, tmp_path, caplog):
    names = ("ankle_right", *LSP.keypoints[1:])
    other = dataclasses.replace(people, skeleton=Skeleton("other", names))
    config = CONFIG.replace(skeleton=other.skeleton)
    trained(other, tmp_path / "run", SHORT, config=config)
    assert "will not swap ankle_right, left_ankle" in caplog.text
    caplog.clear()
    trained(other, tmp_path / "unmirrored", change(SHORT, augmentation=Augmentation(flip=0.0)), config=config)
    assert "swap" not in caplog.text


def test_training_refuses_what_cannot_work(people, mpii_folder, tmp_path):
    def refused(match, people=people, recipe=RECIPE, **more):
        with pytest.raises(ValueError, match=match):
            trained(people, tmp_path / "run", recipe, **more)
        assert not (tmp_path / "run" / LAST).exists()

    refused("0 people .* 32; give more", people.select([]), Recipe())
    refused("6 people .* 32; .*batch_size", people, Recipe())
    refused(r"skeleton 'mpii' .*'lsp' .*to_skeleton", read_mpii_json(mpii_folder, "valid"))
    refused("batch of 2 .*1 processes of 3 parts", recipe=change(accumulate=3))
    tiny = CONFIG.replace(input_size=(8, 8))
    refused("image of 8 px .*batch_size of at least 4", recipe=change(accumulate=2), config=tiny)
    refused("'xpu' .*'cpu'", engine=Engine(device="xpu"))
    refused("cuda:1, .*'first'", engine=Engine(device="first"))
    for settings in ({"speed": 9}, {"betas": [0.9]}, {"eps": -1.0}):
        refused("optimizer_settings .*adamw", recipe=change(optimizer_settings=settings))


def test_too_many_unreadable_images_stop_a_run_and_few_are_left_out(people, tmp_path, monkeypatch, caplog):
    people.images[1].write_bytes(b"no picture")
    people.images[4].unlink()
    for keep in ("memory", "stream"):
        with pytest.raises(ValueError, match=r"2 of 6 people .*1%: .*0002.*; No image .*0005"):
            trained(people, tmp_path, engine=Engine(keep=keep, progress=False))
    monkeypatch.setattr(crops_module, "MAX_UNREADABLE", 0.5)
    trained(people, tmp_path)
    assert "Left out of training" in caplog.text
    assert [row["step"] for row in log_of(tmp_path)] == ["2", "4", "6"]  # 4 people are left


def test_a_run_goes_on_with_the_images_that_it_began_with_alone(people, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(crops_module, "MAX_UNREADABLE", 0.5)
    trained(people, tmp_path / "run", stop_after=1)
    content = people.images[2].read_bytes()
    people.images[2].unlink()
    with pytest.raises(ValueError, match=r"6 people, .* 5 people"):
        trained(people, tmp_path / "run")
    with pytest.raises(ValueError, match=r"5 people .* batch of 6"):
        trained(people, tmp_path / "other", change(batch_size=6))
    people.images[2].write_bytes(content)
    assert same(trained(people, tmp_path / "run"), whole["weights"])


def test_processes_that_see_different_things_do_not_begin(people, tmp_path, monkeypatch):
    def gather(mine):
        return [*mine, "step 2, 5 people"] if isinstance(mine[0], str) else mine

    monkeypatch.setattr("accelerate.utils.gather_object", gather)
    with pytest.raises(ValueError, match=r"step 0, 6 people, .*; step 2, 5 people"):
        trained(people, tmp_path)


def test_validation_leaves_out_images_that_cannot_be_read(people, tmp_path, caplog):
    training, validation = people.select(range(4)), people.select(range(4, 6))
    validation.images[0].unlink()
    trained(training, tmp_path / "run", SHORT, validation=validation)
    assert "Left out of validation: No image" in caplog.text
    validation.images[1].unlink()
    with pytest.raises(ValueError, match=r"2 validation people .*: No image"):
        trained(training, tmp_path / "other", SHORT, validation=validation)


def test_what_ends_validation_does_not_cost_the_epoch(people, tmp_path, caplog):
    training, validation, reported = people.select(range(4)), people.select(range(4, 6)), []

    def vanish(epoch):
        reported.append(epoch.validation)
        for image in validation.images:
            image.unlink(missing_ok=True)

    (tmp_path / "sheets").write_text("in the way")
    trained(training, tmp_path, validation=validation, report=vanish)
    assert reported[0] is not None
    assert "The contact sheet of epoch 1 is left out: " in caplog.text
    assert reported[1:] == [None] * (RECIPE.epochs - 1)
    assert f"Validation of epoch {RECIPE.epochs} is left out: No image" in caplog.text
    assert len(log_of(tmp_path)) == RECIPE.epochs


def test_an_image_whose_name_is_no_text(people, tmp_path):
    image = people.images[0].rename(people.images[0].with_name("caf\udce9.jpg"))
    trained(dataclasses.replace(people, images=(image, *people.images[1:])), tmp_path / "run", SHORT)


# --- the same run on other machines -------------------------------------------------------------------


def test_two_machines_follow_one_and_each_reads_its_images_once(people, launched, tmp_path):
    """Two processes on one machine and one on another see a third of every batch each, as one process does in turn."""
    trained(people, tmp_path / "alone", change(ALIKE, accumulate=3))
    folder, printed = launched
    assert printed["images"] == [6, 0, 6]
    together, expected = load_file(folder / "three" / LAST), load_file(tmp_path / "alone" / LAST)
    weights = [key for key in expected if key.startswith("model.") and not key.endswith(("mean", "var", "tracked"))]
    for key in weights:
        torch.testing.assert_close(together[key], expected[key], atol=2e-4, rtol=1e-2)
    torch.manual_seed(0)
    first = SoftGatePose(CONFIG).state_dict()
    assert max(float((expected[key] - first[key.removeprefix("model.")]).abs().max()) for key in weights) > 1e-3
    losses = [[float(row["loss"]) for row in log_of(run)] for run in (tmp_path / "alone", folder / "three")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_each_run_has_its_own_accelerator(monkeypatch):
    """Its own device, precision and parts, whatever the run before it, or a launcher's settings, were."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "7")
    first = make_accelerator(change(precision="bf16", accumulate=2), "cpu")
    assert (first.mixed_precision, first.gradient_accumulation_steps) == ("bf16", 2)
    PartialState._shared_state["device"] = torch.device("meta")  # as after a run on a GPU
    second = make_accelerator(RECIPE, "cpu")
    assert (second.mixed_precision, second.gradient_accumulation_steps) == ("no", 1)
    assert second.device == torch.device("cpu")


@pytest.mark.parametrize(("keep", "workers"), [("device", 0), ("stream", 0), ("stream", 1), ("memory", 1)])
def test_streamed_and_stored_crops_train_the_same(people, tmp_path, whole, keep, workers):
    engine = Engine(keep=keep, workers=workers, progress=False)
    assert same(trained(people, tmp_path, engine=engine), whole["weights"])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_streamed_image_that_vanishes_is_an_error(people, tmp_path, monkeypatch, workers):
    epoch = loop._Run._epoch

    def vanish(self, *arguments):
        for image in people.images:
            image.unlink(missing_ok=True)
        return epoch(self, *arguments)

    monkeypatch.setattr(loop._Run, "_epoch", vanish)
    with pytest.raises(RuntimeError, match=r"^Images cannot be read any more: No image") as raised:
        trained(people, tmp_path, engine=Engine(keep="stream", workers=workers, progress=False))
    assert "Traceback" not in str(raised.value)


def test_inputs_go_to_the_device_of_the_run(people, tmp_path, monkeypatch):
    """Wherever crops are kept; there need not be a second device here to see that they are sent."""
    sent = []
    monkeypatch.setattr(crops_module.Crops, "to", lambda self, device: sent.append(device.type) or self)
    trained(people, tmp_path, SHORT)
    assert sent == ["cpu"] * 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("keep", ["memory", "device", "stream"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_trains(people, tmp_path, keep, precision):
    recipe = change(precision=precision, accumulate=2)
    engine = Engine(device="cuda", keep=keep, progress=False)
    weights = trained(people, tmp_path / "run", recipe, engine=engine, config=LARGER, validation=people)
    assert all(value.is_cuda and bool(value.isfinite().all()) for value in weights.values())


def test_bf16_trains_float32_weights(people, whole, tmp_path):
    rough, exact = trained(people, tmp_path, change(precision="bf16")), whole["weights"]
    assert all(value.dtype == exact[key].dtype for key, value in rough.items())
    assert not same(rough, exact)
    assert float(log_of(tmp_path)[0]["loss"]) == pytest.approx(float(whole["log"][0]["loss"]), rel=0.05)


def test_a_run_leaves_the_model_exact_whatever_its_precision(people, tmp_path):
    model = SoftGatePose(CONFIG)
    recipe = change(SHORT, precision="bf16", ema_decay=0.0)
    images = torch.randn(2, 3, 32, 32)
    found = fit(KeypointTask(model, people), recipe, tmp_path / "run", engine=QUIET)(images)
    fresh = SoftGatePose(CONFIG).eval()
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(found, fresh(images))


def test_a_compiled_network_trains_the_same(people, whole, tmp_path, monkeypatch):
    compile_, compiled = torch.compile, []

    def eager(model):  # without a C++ compiler
        compiled.append(model)
        return compile_(model, backend="eager")

    monkeypatch.setattr(torch, "compile", eager)
    assert same(trained(people, tmp_path, engine=Engine(compile=True, progress=False)), whole["weights"])
    assert len(compiled) == 1


# --- recipes ------------------------------------------------------------------------------------------


def rates(recipe, steps=3):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=recipe.learning_rate)
    schedule, found = make_schedule(optimizer, recipe, steps), []
    for step in range(recipe.epochs * steps):
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_learning_rate_rises_and_falls_to_nothing():
    found = rates(Recipe(epochs=10, warmup=0.2))
    assert found.index(max(found)) == 6  # of 30 steps
    assert max(found) == 1e-3
    assert found[-1] < 1e-5


def test_a_learning_rate_may_rise_to_the_end():
    found = rates(Recipe(epochs=2, warmup=1.0))
    assert found == sorted(found)
    assert found[-1] == 1e-3


def test_steps_drop_the_learning_rate_at_their_epochs(people, tmp_path, monkeypatch):
    learn, found = loop._Run._learn, []

    def watched(self, *inputs):
        found.append(self.optimizer.param_groups[0]["lr"])
        return learn(self, *inputs)

    monkeypatch.setattr(loop._Run, "_learn", watched)
    recipe = Recipe(epochs=4, batch_size=2, schedule="step", milestones=(1, 3), decay=0.1, warmup=0)
    trained(people, tmp_path, recipe)
    assert found == pytest.approx([1e-3] * 3 + [1e-4] * 6 + [1e-5] * 3)
    assert found == rates(recipe)


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


@pytest.mark.parametrize("optimizer", ["rmsprop", "sgd"])
def test_other_optimizers_go_on_exactly_too(people, tmp_path, optimizer):
    recipe = change(epochs=2, optimizer=optimizer)
    trained(people, tmp_path / "parts", recipe, stop_after=1)
    assert same(trained(people, tmp_path / "parts", recipe), trained(people, tmp_path / "whole", recipe))


def test_settings_change_recipe_augmentation_and_model():
    named = Preset(Recipe(), {"sigma": 2.0})
    changed = named.change({"epochs": 3, "rotation": 10, "gate": "scalar", "milestones": []})
    assert (changed.recipe.epochs, changed.recipe.augmentation.rotation) == (3, 10)
    assert changed.model == {"sigma": 2.0, "gate": "scalar"}
    with pytest.raises(ValueError, match=r"'rotatoin'.*'rotation'"):
        get_preset("fast").change({"rotatoin": 3})
    with pytest.raises(ValueError, match=r"'quick'.*fast, paper-mpii, paper-lsp"):
        get_preset("quick")


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"epochs": 0}, "epochs .*1, got 0"),
        ({"batch_size": 2.5}, r"batch_size .*2\.5"),
        ({"seed": 2**63}, "seed .*9223372036854775808"),
        ({"learning_rate": 0}, "learning_rate .*got 0"),
        ({"learning_rate": float("nan")}, "learning_rate .*nan"),
        ({"clip_grad": float("inf")}, "clip_grad .*inf"),
        ({"ema_decay": 1.0}, r"ema_decay .*1\.0"),
        ({"warmup": -0.1}, r"warmup .*-0\.1"),
        ({"weight_decay": "none"}, "weight_decay .*'none'"),
        ({"optimizer": "lamb"}, "optimizer .*'adamw'.*'lamb'"),
        ({"optimizer_settings": 5}, "optimizer_settings .*5"),
        ({"precision": "fp8"}, "precision .*'bf16'.*'fp8'"),
        ({"augmentation": {}}, "augmentation .*{}"),
        ({"schedule": "step"}, r"schedule=step, milestones=\[\] .*milestones=\[6\]"),
        ({"milestones": (3,)}, r"schedule=cosine, milestones=\[3\] "),
        ({"schedule": "step", "milestones": (3, 12)}, r"milestones=\[3, 12\] and epochs=12"),
        ({"epochs": 1, "schedule": "step", "milestones": (1,)}, r"Give schedule=cosine and milestones=\[\]"),
        ({"milestones": (3, 2), "schedule": "step"}, r"milestones=\[3, 2\]"),
        ({"milestones": ("3",), "schedule": "step"}, r"milestones\[0\] .*'3'"),
        ({"milestones": 75, "schedule": "step"}, "milestones .*75"),
    ],
)
def test_recipes_refuse_what_makes_no_sense(wrong, match):
    with pytest.raises(ValueError, match=match):
        Recipe(**wrong)


@pytest.mark.parametrize("wrong", [{"keep": "disk"}, {"workers": -1}, {"save_minutes": float("nan")}])
def test_engines_refuse_what_makes_no_sense(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Engine(**wrong)


# --- watching -----------------------------------------------------------------------------------------


def test_a_run_is_logged_and_drawn(people, tmp_path):
    epochs = []
    trained(people.select(range(4)), tmp_path, validation=people.select(range(2, 6)), report=epochs.append)
    assert [epoch.row["epoch"] for epoch in epochs] == [1, 2, 3]
    assert epochs[-1].validation.people == 4
    rows = log_of(tmp_path)
    assert float(rows[2]["PCK@0.2 mean"]) == pytest.approx(epochs[2].validation.figures["mean"])
    assert all(0 < float(row["feeding_percent"]) < 100 and float(row["images_per_second"]) > 0 for row in rows)
    with Image.open(tmp_path / "sheets" / "epoch003.jpg") as sheet:
        assert sheet.size == (4 * 192, 192 + 14)  # all four
    points = board_of(tmp_path)
    assert [point.step for point in points] == [2, 4, 6]
    assert points[2].value == pytest.approx(float(rows[2]["loss"]))


def board_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard")).Reload().Scalars("epoch/loss")


@pytest.mark.parametrize("what", ["epoch", "save"])
@pytest.mark.parametrize("before", [True, False])
def test_a_run_that_is_stopped_between_epochs_logs_each_once(people, tmp_path, monkeypatch, what, before):
    """Before or after the second epoch is logged, or its state saved."""
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
    assert [point.step for point in board_of(tmp_path)] == [3, 6, 9]


@pytest.fixture
def full_disk():
    def full(*given, **more):
        raise OSError(28, "No space left on device")

    return full


def test_a_full_disk_ends_tensorboard_and_not_the_run(tmp_path, monkeypatch, caplog, full_disk):
    log = loop.RunLog(tmp_path)
    monkeypatch.setattr(log.board, "add_scalar", full_disk)
    log.scalars({"step/loss": 1.0}, 1)
    log.scalars({"step/loss": 1.0}, 2)
    log.close()
    assert caplog.text.count("No space left on device") == 1


def test_a_full_disk_at_the_log_names_it(tmp_path, monkeypatch, full_disk):
    monkeypatch.setattr(log_module.Path, "write_text", full_disk)
    with pytest.raises(OSError, match=r"log\.csv: .*No space left"):
        loop.RunLog(tmp_path / "run").epoch([{"epoch": 1, "step": 1}])


# --- a whole run, from data to a saved model ----------------------------------------------------------


def run_of(lsp_folder, folder, **more):
    source = f"lsp:{lsp_folder[0]}:train"
    more = {"recipe": SHORT, "hold_out": 0, "engine": QUIET, **more}
    return train(more.pop("model", None) or SoftGatePose(CONFIG), [source], folder, **more)


def test_one_call_trains_by_name(lsp_folder, tmp_path):
    settings = {"epochs": 1, "batch_size": 2, "input_size": (64, 64), "rotation": 10}
    saved = run_of(
        lsp_folder, tmp_path / "run", model="sgpose_0m5_1s", recipe="fast", settings=settings, skeleton="data"
    )
    assert saved == tmp_path / "run" / "model"
    model = create_model(f"local-dir:{saved}")
    assert (model.config.skeleton, model.config.input_size, model.config.alpha_init) == (LSP, (64, 64), 1.0)
    training = json.loads((saved / "training.json").read_text())
    assert (training["recipe"]["epochs"], training["recipe"]["augmentation"]["rotation"]) == (1, 10)


def test_fresh_weights_are_of_the_seed_and_leave_random_numbers_as_they_are():
    def build(seed):
        preset = get_preset("fast").change({"seed": seed, "input_size": (64, 64)})
        return training_run._build("sgpose_0m5_1s", preset, set(), None, None, None)[0].state_dict()

    state = torch.get_rng_state()
    first = build(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(9)
    assert same(build(1), first)
    assert not same(build(2), first)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"settings": {"gate": "scalar"}}, "skeleton"),
        ({"skeleton": "lsp"}, "skeleton"),
        ({"teacher_share": 0.5}, "teacher"),
        ({"model": "sgpose_9m9_1s"}, "sgpose_9m9_1s"),
        ({"recipe": "quick"}, "quick"),
        ({"model": "sgpose_1m0_2s", "teacher": "sgpose_9m9_1s"}, "sgpose_9m9_1s"),
        ({"model": "sgpose_1m0_2s.sports", "grow_from": "sgpose_0m5_1s"}, "sgpose_1m0_2s.sports"),
    ],
)
def test_a_run_is_refused_before_it_writes(lsp_folder, tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        run_of(lsp_folder, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_run_writes_over_nothing_that_it_reads(lsp_folder, tmp_path):
    start = save_pretrained(
        create_model("sgpose_0m5_1s", skeleton="lsp", input_size=(64, 64)), tmp_path / "start" / "model"
    )
    for folder in (lsp_folder[0], lsp_folder[0] / "images", lsp_folder[0].parent):
        with pytest.raises(ValueError, match=f"{folder}: this folder holds what"):
            run_of(lsp_folder, folder)
    for changes in ({"model": f"local-dir:{start}"}, {"model": "sgpose_0m5_1s", "checkpoint": start}):
        with pytest.raises(ValueError, match=str(start.parent)):
            run_of(lsp_folder, start.parent, recipe="fast", skeleton="lsp", **changes)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").write_text("mine")
    with pytest.raises(ValueError, match=rf"{tmp_path / 'run' / 'model'}.* file"):
        run_of(lsp_folder, tmp_path / "run")
    assert (tmp_path / "run" / "model").read_text() == "mine"


def test_what_one_source_holds_out_no_other_trains_on(lsp_folder):
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
    assert any(held_out.intersection(rest.images) for rest, _ in alone)
    for rest, held in training_run._split(people, 0.3, 0).values():
        assert held
        assert not held_out.intersection(rest.images)


def test_keypoints_outside_their_boxes_are_told_before_training(tmp_path, caplog):
    """Boxes of 0 to 1 beside keypoints in pixels, or of another image, would train to a loss of 0."""
    row = coco_data()["annotations"][0]
    model = SoftGatePose(CONFIG.replace(skeleton=Skeleton("dog", tuple(coco_data()["categories"][1]["keypoints"]))))

    def run(*rows):
        source = write_coco(tmp_path, coco_data(annotations=list(rows)))
        train(model, [source], tmp_path / "run", recipe=RECIPE, hold_out=0, engine=QUIET)

    with pytest.raises(ValueError, match=r"100 % of the labelled keypoints .*pixels"):
        run({**row, "bbox": [900, 900, 30, 40]})
    with pytest.raises(ValueError, match=r"bbox .*0\.1, 0\.2"):
        run({**row, "bbox": [0.1, 0.2, 0.3, 0.4]})
    with pytest.raises(ValueError, match="cannot be read"):  # there are no images here
        run(row, {**row, "bbox": [900, 900, 30, 40]}, {**row, "bbox": [900, 900, 30, 40]})
    assert "67 % of the labelled keypoints lie outside" in caplog.text
    assert "Nobody has right_ear, tail, belly labelled" in caplog.text


def test_nobody_labelled_is_said_so(mpii_folder, tmp_path):
    file = mpii_folder / "annot" / "train.json"
    rows = json.loads((mpii_folder / "annot" / "valid.json").read_text())
    file.write_text(json.dumps([{**row, "joints_vis": [0] * 16} for row in rows]))
    with pytest.raises(ValueError, match=r"mpii:.*:train .*nobody"):
        train(SoftGatePose(CONFIG), [f"mpii:{mpii_folder}:train"], tmp_path / "run", recipe=RECIPE)


def test_the_others_wait_until_the_model_is_saved(lsp_folder, tmp_path, monkeypatch):
    seen = []
    file = tmp_path / "run" / "model" / "model.safetensors"
    monkeypatch.setattr(PartialState, "wait_for_everyone", lambda self: seen.append(file.exists()))
    run_of(lsp_folder, tmp_path / "run")
    assert seen[-1]
    assert not any(seen[:-1])


def test_weights_beyond_sixteen_bits_are_saved_in_thirty_two(lsp_folder, tmp_path, monkeypatch, caplog):
    def diverging(task, *given, **more):
        with torch.no_grad():
            task.model.stem[1].running_var[0] = 1e6
        return task.model.eval()

    monkeypatch.setattr(training_run, "fit", diverging)
    folder = run_of(lsp_folder, tmp_path / "run")
    assert "do not fit into 16 bits" in caplog.text
    tensors = load_file(folder / "model.safetensors")
    assert tensors["stem.1.running_var"][0] == 1e6
    assert tensors["stem.0.weight"].dtype == torch.float32


def test_a_full_disk_at_the_end_says_that_training_is_kept(lsp_folder, tmp_path, monkeypatch, full_disk):
    with monkeypatch.context() as patch:
        patch.setattr(training_run, "save_pretrained", full_disk)
        with pytest.raises(OSError, match=r"No space left .*again"):
            run_of(lsp_folder, tmp_path / "run")
    monkeypatch.setattr(loop._Run, "train", None)  # there is nothing left to train
    assert run_of(lsp_folder, tmp_path / "run") == tmp_path / "run" / "model"


def test_the_same_weights_are_the_same_file(tmp_path):
    model = SoftGatePose(CONFIG)
    files = [save_pretrained(model, tmp_path / str(n)) / "model.safetensors" for n in range(8)]
    assert len({file.read_bytes() for file in files}) == 1
