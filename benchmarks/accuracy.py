"""What faster forms cost: PCKh on annotated people."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.contestants import Setting
from benchmarks.report import Table
from softgate_pose import create_model, deploy
from softgate_pose.data.people import People
from softgate_pose.evaluation.pck import evaluate
from softgate_pose.export import calibration_images, export_model, load_onnx
from softgate_pose.model.base import PoseModel

__all__ = ["accuracy_table"]

FORMS = ("", "+deploy", "+bf16", "+deploy+bf16", "+int8", "+deploy+int8")


def accuracy_table(
    name: str, people: People, training: People, setting: Setting, *, forms: Sequence[str] = FORMS
) -> Table:
    """The figures of weights in several forms, on people that neither they nor the calibration saw."""
    rows = []
    for form in forms:
        model: PoseModel = create_model(name, device=setting.device, channels_last=True)
        if "+deploy" in form:
            model = deploy(model)
        if "+bf16" in form:
            model = model.to(torch.bfloat16)
        if "+int8" in form:
            images = calibration_images(training, model.config)
            with tempfile.TemporaryDirectory() as folder:
                file = export_model(model, Path(folder) / "model.onnx", calibration=images)
                model = load_onnx(file, threads=setting.threads)
        scored = evaluate(model, people)
        figures = scored.figures
        rows.append((name + form, figures["limbs"], figures["mean"], figures.get("mean@0.1")))
    columns = ("weights and form", "limbs", "mean", "mean@0.1")
    return Table(f"{scored.protocol} of {scored.people} people, without flip test", columns, rows)
