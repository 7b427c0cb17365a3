"""A whole training run: data in, measured weights with their card out."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from softgate_pose import zoo
from softgate_pose._files import require_outputs
from softgate_pose.data.people import People, concatenate, require_keypoints
from softgate_pose.data.sources import parse_source, read_people
from softgate_pose.evaluation.pck import evaluate, mean_pose_keypoints, score_keypoints
from softgate_pose.factory import create_model, find_training
from softgate_pose.model.base import PoseModel
from softgate_pose.model.transfer import grow
from softgate_pose.pose import geometry
from softgate_pose.pose.geometry import BOX_SCALE
from softgate_pose.pose.skeleton import Skeleton
from softgate_pose.training.crops import first_few, split_readable
from softgate_pose.training.loop import Epoch, fit
from softgate_pose.training.recipe import Engine, Preset, Recipe, get_preset
from softgate_pose.training.task import KeypointTask
from softgate_pose.training.teacher import Teacher
from softgate_pose.weights.files import find_checkpoint, save_pretrained, weights_digest
from softgate_pose.weights.record import TrainingRecord

__all__ = ["is_main_process", "train"]

logger = logging.getLogger(__name__)

_LOCAL = "local-dir:"


def train(
    model: str | PoseModel,
    sources: Sequence[str],
    folder: str | os.PathLike[str],
    *,
    recipe: str | Recipe = "fast",
    settings: Mapping[str, Any] | None = None,
    skeleton: str | Skeleton | Sequence[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    grow_from: str | None = None,
    before: TrainingRecord | None = None,
    teacher: str | Teacher | None = None,
    teacher_share: float | None = None,
    hold_out: float = 0.04,
    tests: Sequence[str] = (),
    licence: str | None = None,
    command: str | None = None,
    engine: Engine | None = None,
    report: Callable[[Epoch], None] | None = None,
    report_test: Callable[[Mapping[str, Any]], None] | None = None,
) -> Path:
    """Train a model, measure what is saved, and save it with a card that says how it came to be.

    A run that was stopped goes on when the call is repeated. Under ``accelerate launch`` or ``torchrun`` several
    processes share each batch.

    Args:
        model: A name as for ``create_model``, which starts from its weights if it has some, or a model, which is
            trained in place.
        sources: ``KIND:FOLDER:SPLIT`` each, see ``read_people``; one that is named twice counts twice.
        folder: The run's folder, created if missing.
        recipe: A name, see ``get_preset``, which also has settings for the model; or a recipe.
        settings: Other settings of the recipe, its augmentation or the model, such as ``{"epochs": 3}``.
        skeleton: As for ``create_model``, or "data" for that of the first source.
        checkpoint: Weights to start from.
        grow_from: The name of a narrower model or one of fewer stacks, with weights, whose heatmaps this one
            gives when training begins.
        before: The record of a given model's weights; it becomes a part of the new one. None if they are fresh.
        teacher: A trained model whose heatmaps become a part of the targets, or its name.
        teacher_share: The share of a teacher given by name, in place of ``Teacher``'s default.
        hold_out: Share of each source's images that is not trained on but validated after each epoch.
        tests: ``KIND:FOLDER:SPLIT`` each; measured at the end with and without flip test, beside the
            mean pose of the training people.
        licence: The licence of the weights.
        command: The command line, for the card.
        engine: How to use the machine.
        report: Called after each epoch.
        report_test: Called with each row of the card's tables as it is measured.

    Returns:
        ``folder/model``, written by ``save_pretrained`` in fp16, by the first of several processes.

    Raises:
        BlockingIOError: If another process trains into the folder.
        ImportError: If Accelerate is not installed.
        OSError: If a file cannot be read or written.
        RuntimeError: If the loss or the weights are no longer finite, or an image cannot be read any more.
        ValueError: If an argument is wrong, people or teacher do not fit the model, a test cannot be measured, or the
            folder holds another run. Whatever can be checked before training is.
    """
    preset = (get_preset(recipe) if isinstance(recipe, str) else Preset(recipe)).change(settings or {})
    read = {source: read_people(source) for source in sources}
    if skeleton == "data":
        skeleton = read[sources[0]].skeleton
    if isinstance(model, PoseModel):
        if preset.model.keys() & set(settings or ()) or skeleton or checkpoint or grow_from:
            raise ValueError(
                "Settings of the model, skeleton, checkpoint and grow_from need a model's name, not a model."
            )
        network = model
    else:
        network, before = _build(model, preset, set(settings or ()), skeleton, checkpoint, grow_from)
    if isinstance(teacher, str):
        teacher = _load_teacher(teacher, {} if teacher_share is None else {"share": teacher_share})
    elif teacher_share is not None:
        raise ValueError("--teacher-share needs --teacher, the model that teaches.")

    folder = Path(folder)
    measured = {source: read_people(source) for source in tests}
    _check_outputs(
        folder, (model, grow_from, teacher and teacher.name), checkpoint, (*read.values(), *measured.values())
    )
    splits = _split(
        {source: _of_model(people, network, source) for source, people in read.items()}, hold_out, preset.recipe.seed
    )
    people = concatenate([splits[source][0] for source in sources])
    named_tests = _named_tests(measured, network, people)
    if teacher is None and len(people):
        _warn_of_unlabelled(people)
    trained: PoseModel = fit(
        KeypointTask(network, people, validation=concatenate([held for _, held in splits.values()]), teacher=teacher),
        preset.recipe,
        folder,
        start=None if before is None else weights_digest(network)[:16],
        engine=engine,
        report=report,
    )
    if is_main_process():
        record: TrainingRecord = {
            "data": _data_lines(sources, splits),
            "held_out": f"{100 * hold_out:g}% of the images of each, seed {preset.recipe.seed}",
            "licence": licence,
            "command": command,
            "recipe": preset.recipe.to_dict(),
        }
        if teacher is not None:
            record["teacher"] = teacher.to_card()
        if before is not None:  # without its measurements, which are not of these weights
            rest = {key: value for key, value in before.items() if key not in ("metrics", "baseline")}
            record["before"] = cast("TrainingRecord", rest)
        _measure_and_save(trained, folder / "model", record, named_tests, people, report_test or (lambda row: None))
    from accelerate import PartialState

    PartialState().wait_for_everyone()
    return folder / "model"


def is_main_process() -> bool:
    """Whether this is the one process, or the first of several, which alone writes and reports."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def _build(
    name: str,
    preset: Preset,
    chosen: Set[str],
    skeleton: str | Skeleton | Sequence[str] | None,
    checkpoint: str | os.PathLike[str] | None,
    grow_from: str | None,
) -> tuple[PoseModel, TrainingRecord | None]:
    """The network to train, and the record of the weights that it starts from; the user chose some settings."""
    before = find_training(name, checkpoint=checkpoint)
    # a recipe says where gates start and what the heatmaps are, unless weights do
    theirs = set()
    if before is not None or zoo.get_entry(name).config.architecture != "softgate":
        theirs.add("alpha_init")
    if before is not None and (checkpoint is None or find_checkpoint(checkpoint).config is not None):
        theirs.add("heatmap")  # tensors alone do not say
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(preset.recipe.seed)
        own = {key: value for key, value in preset.model.items() if key in chosen or key not in theirs}
        model = create_model(name, checkpoint=checkpoint, skeleton=skeleton, **own)
    if grow_from is None:
        return model, before
    if before is not None:
        raise ValueError(f"--grow-from gives a model its first weights, but {checkpoint or name} has weights.")
    with _prefixed(f"--grow-from {grow_from}"):
        config = model.config
        grow(model, create_model(grow_from, pretrained=True, skeleton=config.skeleton, input_size=config.input_size))
    return model, find_training(grow_from, pretrained=True)


def _check_outputs(
    folder: Path, names: Sequence[Any], checkpoint: str | os.PathLike[str] | None, tables: Sequence[People]
) -> None:
    """Raise ValueError if a run in the folder would replace what it reads: weights, annotations or images."""
    inputs = [Path(name.removeprefix(_LOCAL)) for name in names if isinstance(name, str) and name.startswith(_LOCAL)]
    inputs += [Path(checkpoint)] if checkpoint else []
    inputs += [file for people in tables for file in (*people.files, *people.images)]
    outputs = {"--out": folder, "the model in it,": folder / "model"}
    require_outputs(outputs, inputs, folders=tuple(outputs))


def _load_teacher(name: str, share: Mapping[str, float]) -> Teacher:
    with _prefixed(f"--teacher {name}"):
        model = create_model(name, pretrained=True)
    return Teacher(model, name=name, training=find_training(name, pretrained=True), **share)


@contextmanager
def _prefixed(option: str) -> Iterator[None]:
    """Say which option an error is about."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        raise ValueError(f"{option}: {error}") from None


def _split(people: Mapping[str, People], share: float, seed: int) -> dict[str, tuple[People, People]]:
    """Each source's (training people, held out): no image that one holds out is trained on by another that has it."""
    splits = {source: group.hold_out(share, seed) for source, group in people.items()}
    files = {image: image.resolve() for group in people.values() for image in group.images}
    held_out = {files[image] for _, held in splits.values() for image in held.images}
    return {
        source: (rest.select([i for i, image in enumerate(rest.images) if files[image] not in held_out]), held)
        for source, (rest, held) in splits.items()
    }


def _of_model(people: People, model: PoseModel, source: str) -> People:
    """The people with the model's keypoints, some of which are labelled and lie in the people's crops."""
    own, wanted = people.skeleton.keypoints, model.config.skeleton
    if not people.labelled.any():
        raise ValueError(f"{source} holds nobody with a labelled keypoint.")
    converted = people.to_skeleton(wanted)
    if not converted.labelled.any():
        raise ValueError(
            f"{source} has nothing labelled that {model.config.name} predicts. It has {', '.join(own)}; the model "
            f"{', '.join(wanted.keypoints)}. Build the model with the data's skeleton (--skeleton data)."
        )
    unused = [name for name in own if name not in wanted.keypoints]
    if unused:
        logger.warning("%s: %s does not predict %s; left out.", source, model.config.name, ", ".join(unused))
    size = model.config.input_size
    points = geometry.transform_points(geometry.box_to_crop(people.boxes, size, BOX_SCALE), converted.keypoints)
    share = float(geometry.inside(points, size)[converted.labelled].double().mean())
    problem = (
        f"{source}: {100 * (1 - share):.0f} % of the labelled keypoints lie outside their person's box and its margin"
    )
    if share == 0:
        raise ValueError(f"{problem}. Boxes and keypoints must both be in pixels of the image.")
    if share < 0.5:
        logger.warning("%s; such keypoints teach nothing.", problem)
    return converted


def _named_tests(tests: Mapping[str, People], model: PoseModel, training: People) -> list[tuple[str, People]]:
    """The people of each test, by its name on the card, which says if its images are trained on."""
    trained_on = {image.resolve() for image in training.images} if tests else set()
    named = []
    for source, people in tests.items():
        require_keypoints(model.config.skeleton.keypoints, people.skeleton.keypoints, model.config.name)
        _, problems = split_readable(people)
        if problems:
            raise ValueError(f"{source} cannot be measured: {first_few(problems)}.")
        name, count = _label(source), sum(image.resolve() in trained_on for image in people.images)
        if count:
            name += f" ({count} of {len(people)} people trained on)"
            logger.warning("--test %s: its figures will not say how the model does on others.", name)
        named.append((name, people))
    return named


def _warn_of_unlabelled(people: People) -> None:
    labelled = people.labelled.any(dim=0).tolist()
    unlabelled = [name for name, some in zip(people.skeleton.keypoints, labelled, strict=True) if not some]
    if unlabelled:
        logger.warning("Nobody has %s labelled; the model will not learn to find it.", ", ".join(unlabelled))


def _data_lines(sources: Sequence[str], splits: Mapping[str, tuple[People, People]]) -> list[str]:
    """A line for each source: how many of its people are trained on, and how often an epoch if more than once."""
    return [
        f"{_label(source)}, {len(splits[source][0])} people" + (f", {count} times an epoch" if count > 1 else "")
        for source, count in Counter(sources).items()
    ]


def _measure_and_save(
    model: PoseModel,
    folder: Path,
    record: TrainingRecord,
    tests: Sequence[tuple[str, People]],
    training: People,
    report: Callable[[Mapping[str, Any]], None],
) -> None:
    """Save the model in half precision if it can hold the weights, else in single, with what it then measures."""
    dtype = torch.float16
    if not all(bool(value.to(dtype).isfinite().all()) for value in model.state_dict().values()):
        logger.warning("The weights do not fit into 16 bits; they are saved in 32.")
        dtype = torch.float32
    model.to(dtype).float()
    try:
        record |= _measure(model, tests, training, report)
        save_pretrained(model, folder, training=record, dtype=dtype)
    except OSError as error:
        raise OSError(
            f"{str(error).rstrip('.')}. Training is finished and kept, but not yet measured and saved to {folder}; "
            "give the same command again to do that."
        ) from error


def _measure(
    model: PoseModel,
    tests: Sequence[tuple[str, People]],
    training: People,
    report: Callable[[Mapping[str, Any]], None],
) -> TrainingRecord:
    """The tables of each test, by its name: the model's with and without flip test, and the mean pose's."""
    metrics: list[dict[str, Any]] = []
    baseline: list[dict[str, Any]] = []
    for name, people in tests:
        for flip_test in (False, True):
            result = evaluate(model, people, flip_test=flip_test, progress=True)
            metrics.append({"data": name, "flip_test": flip_test, **result.to_dict()})
            report(metrics[-1])
        mean_pose = mean_pose_keypoints(training.to_skeleton(people.skeleton), people)
        baseline.append({"data": name, **score_keypoints(mean_pose, people).to_dict()})
        report(baseline[-1])
    return {"metrics": metrics, "baseline": baseline}


def _label(source: str) -> str:
    """``lsp:data/lsp:test`` as cards call it: lsp test."""
    _, folder, split = parse_source(source)
    return f"{folder.absolute().name} {split}"
