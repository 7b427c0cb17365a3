"""examples/predict_with_ray.py on a local Ray, in a process of its own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from softgate_pose import create_model, predict

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs pip install 'softgate-pose[ray]'"
)

EXAMPLES = Path(__file__).parent.parent / "examples"
BOXES = json.loads((EXAMPLES / "boxes.json").read_text())["photo.jpg"]

DRIVER = """
import runpy, sys, ray
script = sys.argv[1]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
for photos, out in [sys.argv[2:4], sys.argv[4:6]]:
    sys.argv = [script, photos, "--out", out]
    runpy.run_path(script, run_name="__main__")
"""


def test_a_folder_and_a_parquet_list_give_what_predict_gives(tmp_path, photo):
    import pyarrow as pa
    import pyarrow.parquet

    folder = tmp_path / "photos"
    folder.mkdir()
    photo.save(folder / "a.png")
    (folder / "torn.jpg").write_bytes((EXAMPLES / "photo.jpg").read_bytes()[:2000])
    listed = {
        "image": [str(EXAMPLES / "photo.jpg"), str(folder / "a.png"), str(folder / "a.png"), str(folder / "none.jpg")],
        "boxes": pa.array([BOXES, None, [], None], pa.list_(pa.list_(pa.float64()))),
    }
    pa.parquet.write_table(pa.table(listed), tmp_path / "list.parquet")

    outs = [tmp_path / "of_folder", tmp_path / "of_list"]
    arguments = [EXAMPLES / "predict_with_ray.py", folder, outs[0], tmp_path / "list.parquet", outs[1]]

    run = subprocess.run(
        [sys.executable, "-c", DRIVER, *map(str, arguments)],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert f"{outs[0]}: 2 photos, 1 of them failed" in run.stdout
    assert f"{outs[1]}: 4 photos, 1 of them failed" in run.stdout
    assert f"  {folder / 'none.jpg'}: No image" in run.stdout

    model = create_model("sgpose_0m5_1s", pretrained=True, channels_last=True)
    expected = [
        [(folder / "a.png", None)],
        [(EXAMPLES / "photo.jpg", BOXES), (folder / "a.png", None), (folder / "a.png", [])],
    ]
    for out, photos in zip(outs, expected, strict=True):
        rows = pa.parquet.read_table(out).to_pylist()
        good = [(row["image"], json.loads(row["poses"])) for row in rows if not row["error"]]
        assert sorted(good, key=str) == sorted(
            ((str(path), predict(model, path, boxes).to_dict()) for path, boxes in photos), key=str
        )
        (bad,) = [row for row in rows if row["error"]]
        assert bad["poses"] == ""
