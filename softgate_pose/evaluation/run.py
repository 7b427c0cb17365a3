"""A whole evaluation: annotated people in; tables, and files of them, out."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softgate_pose._files import require_outputs, write_picture, written_whole
from softgate_pose.data.people import People, Predictions, concatenate, missing_images
from softgate_pose.data.sources import read_people, read_people_and_coco
from softgate_pose.evaluation.files import read_predictions, write_predictions
from softgate_pose.evaluation.oks import require_pycocotools, score_oks
from softgate_pose.evaluation.pck import Evaluation, mean_pose_keypoints, person_errors, score_keypoints
from softgate_pose.evaluation.sheet import contact_sheet
from softgate_pose.model.base import PoseModel
from softgate_pose.pose.heatmaps import DecodeMethod
from softgate_pose.prediction.predict import predict_people

__all__ = ["SourceEvaluation", "evaluate_source"]

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class SourceEvaluation:
    """What ``evaluate_source`` gives: PCKh or PCK, and COCO's average precision, where the data allow each."""

    model: str
    data: str
    settings: Mapping[str, Any]  # how a model predicted: flip_test and decode
    keypoints: Evaluation | None
    oks: Evaluation | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: what was scored, the table of PCK beside it, and average precision under ``oks``."""
        row = {"model": self.model, "data": self.data, **self.settings}
        if self.keypoints is not None:
            row |= self.keypoints.to_dict() | {"definition": self.keypoints.definition}
        if self.oks is not None:
            row["oks"] = self.oks.to_dict() | {"definition": self.oks.definition}
        return row


def evaluate_source(
    source: str,
    *,
    model: PoseModel | None = None,
    predictions: StrPath | None = None,
    mean_pose: Sequence[str] = (),
    name: str | None = None,
    flip_test: bool = False,
    decode: DecodeMethod = "dark",
    batch_size: int = 32,
    progress: bool = False,
    save_predictions: StrPath | None = None,
    json_file: StrPath | None = None,
    sheet: StrPath | None = None,
    inputs: Iterable[Path] = (),
    report: Callable[[SourceEvaluation], None] = lambda result: None,
) -> SourceEvaluation:
    """Score a model, or predictions of any other system, on the people of ``KIND:FOLDER:SPLIT``.

    PCKh or PCK as ``score_keypoints`` chooses it; of ``coco:`` data COCO's average precision, too, if pycocotools is
    installed.

    Args:
        source: As for ``read_people``.
        model: What is scored; or else
        predictions: a file of any system's predictions of these people: JSON as ``save_predictions`` writes it,
            COCO's results in JSON, or MPII's ``pred.mat``; or else
        mean_pose: sources of training people, whose mean pose is scored.
        name: What the tables call it; None: the model's own name, or that of the file.
        flip_test: As for ``predict``.
        decode: As for ``predict``.
        batch_size: As for ``predict``.
        progress: Show a progress bar.
        save_predictions: A JSON file to write what is scored to.
        json_file: A JSON file to write the tables to.
        sheet: A ``.jpg`` or ``.png`` to draw people in, as predicted, with white rings where the annotation is: above
            some from all over the data, below the worst.
        inputs: More files that no output may replace, such as those of the model.
        report: Called with the result before the sheet is drawn, so that an image that cannot be read costs no figures.

    Returns:
        Two tables, each an ``Evaluation`` or None: ``keypoints``, PCKh or PCK, which COCO's results do not allow; and
        ``oks``, average precision. ``to_dict()`` is what ``json_file`` holds.

    Raises:
        FileNotFoundError: If annotations, predictions or an image that is needed are missing.
        ImportError: If COCO's results are to be scored, and pycocotools is not installed.
        ValueError: If a file is not what it should be, an output cannot be written, or what is scored does not fit
            the people.
    """
    if [model is not None, predictions is not None, bool(mean_pose)].count(True) != 1:
        raise ValueError("evaluate_source scores one of model, predictions and mean_pose; give one of them.")
    people, coco = read_people_and_coco(source)
    training = [read_people(other) for other in mean_pose]
    file, json_file, save_predictions, sheet = map(_path, (predictions, json_file, save_predictions, sheet))
    inputs = [*inputs, *(path for table in (people, *training) for path in (*table.files, *table.images))]
    outputs = {"json_file": json_file, "save_predictions": save_predictions, "sheet": sheet}
    require_outputs(outputs, inputs if file is None else [*inputs, file])
    if sheet is not None and sheet.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise ValueError(f"sheet {sheet}: must end in .jpg or .png.")
    if model is not None or sheet is not None:  # both look at the images
        missing = missing_images(people)
        if missing:
            raise FileNotFoundError(f"{source} lacks {len(missing)} of its images; the first is {missing[0]}.")
    can_score_oks = coco is not None and _has_pycocotools()

    settings: dict[str, Any] = {}
    scored: Predictions | list[Any]
    if model is not None:
        name, settings = name or model.config.name, {"flip_test": flip_test, "decode": decode}
        scored = predict_people(model, people, **settings, batch_size=batch_size, progress=progress)
    elif file is not None:
        name, scored = name or str(file), read_predictions(file, people)
    else:
        name, scored = name or "mean pose", _mean_pose(training, people)

    chosen, keypoints, oks = None, None, None
    if isinstance(scored, Predictions):
        if save_predictions is not None:
            write_predictions(save_predictions, scored)
        chosen = scored.select_keypoints(people.skeleton.keypoints)
        keypoints = score_keypoints(chosen.keypoints, people)
    elif coco is None or sheet is not None or save_predictions is not None:
        raise ValueError(
            f"{name} holds COCO's results, which do not say whom each belongs to: they score on coco: data, without "
            f"sheet and save_predictions; got {source}."
        )
    if coco is not None and (can_score_oks or chosen is None):
        oks = score_oks(scored, coco)
    result = SourceEvaluation(name, source, settings, keypoints, oks)
    if json_file is not None:
        with written_whole(json_file) as scratch:
            scratch.write_text(json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    report(result)
    if sheet is not None and chosen is not None:
        picture = contact_sheet(people, chosen, person_errors(chosen.keypoints, people))
        write_picture(picture, sheet, "PNG" if sheet.suffix.lower() == ".png" else "JPEG", quality=90)
    return result


def _path(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path)


def _has_pycocotools() -> bool:
    try:
        require_pycocotools()
    except ImportError as error:
        logging.getLogger(__name__).warning("Without average precision. %s", error)
        return False
    return True


def _mean_pose(training: Sequence[People], people: People) -> Predictions:
    alike = concatenate([table.to_skeleton(people.skeleton) for table in training])
    if not alike.labelled.any():
        raise ValueError(f"mean_pose: none of {', '.join(people.skeleton.keypoints)} is labelled.")
    return Predictions(people.skeleton.keypoints, mean_pose_keypoints(alike, people))
