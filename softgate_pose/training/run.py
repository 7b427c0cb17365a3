"""A whole training run: data in, measured weights with their card out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, cast

import torch

from softgate_pose.data.people import People, concatenate, require_keypoints
from softgate_pose.data.sources import parse_source, read_people
from softgate_pose.evaluation import pck as evaluation
from softgate_pose.model.softgate import SoftGatePose
from softgate_pose.pose import geometry
from softgate_pose.pose.geometry import BOX_SCALE
from softgate_pose.training.crops import first_few, split_readable
from softgate_pose.training.loop import Engine, Epoch, fit
from softgate_pose.training.recipe import Recipe
from softgate_pose.training.teacher import Teacher
from softgate_pose.weights.files import save_pretrained, weights_digest
from softgate_pose.weights.record import TrainingRecord

__all__ = ["is_main_process", "train_and_save"]

logger = logging.getLogger(__name__)


def train_and_save(
    model: SoftGatePose,
    sources: Sequence[str],
    folder: Path,
    *,
    recipe: Recipe,
    hold_out: float = 0.04,
    tests: Sequence[str] = (),
    licence: str | None = None,
    command: str | None = None,
    before: TrainingRecord | None = None,
    teacher: Teacher | None = None,
    engine: Engine | None = None,
    report: Callable[[Epoch], None] | None = None,
    report_test: Callable[[Mapping[str, Any]], None] | None = None,
) -> Path:
    """Train a model, measure what is saved, and save it with a card that says how it came to be.

    Args:
        model: Trained in place.
        sources: ``KIND:FOLDER:SPLIT`` each, see ``read_people``; one that is named twice counts twice.
        folder: The run's folder; one that holds an unfinished run goes on with it.
        recipe: The recipe.
        hold_out: Share of each source's images that is not trained on but validated after each epoch.
        tests: ``KIND:FOLDER:SPLIT`` each; measured at the end with and without flip test, beside the
            mean pose of the training people.
        licence: The licence of the weights.
        command: The command line, for the card.
        before: The ``training.json`` of the weights that the model came with, if any; its data and
            command become part of this one's, and its licence is told beside this one's.
        teacher: A trained model whose heatmaps become a part of the targets.
        engine: How to use the machine.
        report: Called after each epoch.
        report_test: Called with each row of the card's tables as it is measured.

    Returns:
        ``folder/model``, written by ``save_pretrained`` in fp16; of several processes by the first, while
        the others wait.

    Raises:
        ValueError: If the data have none of the model's keypoints, or a test cannot be measured; and
            as ``fit``. All that can be told before training is.
    """
    splits = _split(
        {source: _of_model(read_people(source), model, source) for source in sources}, hold_out, recipe.seed
    )
    training_people = concatenate([splits[source][0] for source in sources])
    held_out = concatenate([held for _, held in splits.values()])
    named_tests = _read_tests(tests, model, training_people)
    saved = folder / "model"
    if saved.exists() and not saved.is_dir():
        raise ValueError(f"{saved} is a file, and the model is to be saved in a folder of that name; move the file.")
    if teacher is None and len(training_people):
        _warn_of_unlabelled(training_people)
    trained = fit(
        model,
        training_people,
        recipe,
        folder,
        validation=held_out,
        teacher=teacher,
        start=None if before is None else weights_digest(model)[:16],
        engine=engine,
        report=report,
    )
    if is_main_process():
        record: TrainingRecord = {
            "data": _data_lines(sources, splits),
            "held_out": f"{100 * hold_out:g}% of the images of each, seed {recipe.seed}",
            "licence": licence,
            "command": command,
            "recipe": recipe.to_dict(),
            **_learned_from(teacher, before),
        }
        dtype = _saved_dtype(trained)
        trained.to(dtype).float()  # what is measured is what is saved
        try:
            record |= _measure(trained, named_tests, training_people, report_test or (lambda row: None))
            save_pretrained(trained, saved, training=record, dtype=dtype)
        except OSError as error:
            raise OSError(
                f"{str(error).rstrip('.')}. Training is finished and kept, but not yet measured and saved to {saved}; "
                "give the same command again to do that."
            ) from error
    _wait_for_everyone()
    return saved


def is_main_process() -> bool:
    """Whether this is the one process, or the first of several, which alone writes and reports."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def _split(people: Mapping[str, People], share: float, seed: int) -> dict[str, tuple[People, People]]:
    """Each source's (kept, held out): no image that one holds out is kept by another that has it, too."""
    splits = {source: group.hold_out(share, seed) for source, group in people.items()}
    files = {image: image.resolve() for group in people.values() for image in group.images}
    held_out = {files[image] for _, held in splits.values() for image in held.images}
    return {
        source: (kept.select([i for i, image in enumerate(kept.images) if files[image] not in held_out]), held)
        for source, (kept, held) in splits.items()
    }


def _of_model(people: People, model: SoftGatePose, source: str) -> People:
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


def _warn_of_unlabelled(people: People) -> None:
    """Tell of keypoints that nobody has labelled."""
    labelled = people.labelled.any(dim=0).tolist()
    unlabelled = [name for name, is_known in zip(people.skeleton.keypoints, labelled, strict=True) if not is_known]
    if unlabelled:
        logger.warning("Nobody has %s labelled; the model will not learn to find it.", ", ".join(unlabelled))


def _read_tests(tests: Sequence[str], model: SoftGatePose, training_people: People) -> list[tuple[str, People]]:
    """The people of each test, by the name that the card gives it; all can be measured."""
    tested = {source: _testable(read_people(source), model, source) for source in tests}
    trained_on = {image.resolve() for image in training_people.images} if tested else set()
    return [(_test_name(source, people, trained_on), people) for source, people in tested.items()]


def _testable(people: People, model: SoftGatePose, source: str) -> People:
    """People that the model can be measured on."""
    require_keypoints(model.config.skeleton.keypoints, people.skeleton.keypoints, model.config.name)
    _, problems = split_readable(people)
    if problems:
        raise ValueError(f"{source} cannot be measured: {first_few(problems)}.")
    return people


def _test_name(source: str, people: People, trained_on: Set[Path]) -> str:
    """What the card calls a test; it tells of people in images that the model is trained on."""
    count = sum(image.resolve() in trained_on for image in people.images)
    if not count:
        return _label(source)
    told = f"{count} of {len(people)} people trained on"
    logger.warning("--test %s: %s; its figures will not say how the model does on others.", source, told)
    return f"{_label(source)} ({told})"


def _data_lines(sources: Sequence[str], splits: Mapping[str, tuple[People, People]]) -> list[str]:
    """A line for each source: how many of its people are trained on, and how often an epoch if more than once."""
    return [
        f"{_label(source)}, {len(splits[source][0])} people" + (f", {count} times an epoch" if count > 1 else "")
        for source, count in Counter(sources).items()
    ]


def _learned_from(teacher: Teacher | None, before: TrainingRecord | None) -> TrainingRecord:
    """What the record says of the teacher, and of the weights that training started from."""
    record: TrainingRecord = {}
    if teacher is not None:
        record["teacher"] = teacher.to_card()
    if before is not None:  # but for what it measured, which is not of these weights
        kept = {key: value for key, value in before.items() if key not in ("metrics", "baseline")}
        record["before"] = cast("TrainingRecord", kept)
    return record


def _saved_dtype(model: SoftGatePose) -> torch.dtype:
    """Half precision if it can hold the weights, else single, with a warning."""
    if all(bool(value.to(torch.float16).isfinite().all()) for value in model.state_dict().values()):
        return torch.float16
    logger.warning("The weights do not fit into 16 bits; they are saved in 32.")
    return torch.float32


def _measure(
    model: SoftGatePose,
    tested: Sequence[tuple[str, People]],
    training_people: People,
    report: Callable[[Mapping[str, Any]], None],
) -> TrainingRecord:
    """The tables of each test, by its name: the model's with and without flip test, and the mean pose's."""
    metrics: list[dict[str, Any]] = []
    baseline: list[dict[str, Any]] = []

    for name, people in tested:
        for flip_test in (False, True):
            result = evaluation.evaluate(model, people, flip_test=flip_test, progress=True)
            metrics.append({"data": name, "flip_test": flip_test, **result.to_dict()})
            report(metrics[-1])
        mean_pose = evaluation.mean_pose_keypoints(training_people.to_skeleton(people.skeleton), people)
        baseline.append({"data": name, **evaluation.score_keypoints(mean_pose, people).to_dict()})
        report(baseline[-1])
    return {"metrics": metrics, "baseline": baseline}


def _wait_for_everyone() -> None:
    from accelerate import PartialState

    PartialState().wait_for_everyone()


def _label(source: str) -> str:
    """``lsp:data/lsp:test`` as cards call it: lsp test."""
    _, folder, split = parse_source(source)
    return f"{folder.absolute().name} {split}"
