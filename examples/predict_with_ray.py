"""Predict a large folder of photos, or a Parquet list of them, with Ray Data, on one machine or a cluster.

python examples/predict_with_ray.py PHOTOS --out poses [--workers 4] [--gpus 1]

PHOTOS is a folder, or Parquet with the column `image` (paths that every machine can read) and, if you like, `boxes`
(lists of x0, y0, x1, y1). The output is a folder of Parquet files, a row for each photo: `image`, `poses` (JSON, as of
`Poses.to_dict()`) and `error`, which is empty unless the photo failed.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import pyarrow.dataset
import ray

import softgate_pose
from softgate_pose.folder.photos import find_photos


class Predictor:
    """One worker: it loads the model once, and predicts photo after photo."""

    def __init__(self, model: str, device: str, flip_test: bool) -> None:
        self.model = softgate_pose.create_model(model, pretrained=True, device=device, channels_last=True)
        self.flip_test = flip_test

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        image, boxes = row["image"], row.get("boxes")
        try:
            poses = softgate_pose.predict(self.model, image, boxes, flip_test=self.flip_test)
        except (OSError, ValueError) as error:  # one bad photo stops nothing
            return {"image": image, "poses": "", "error": str(error)}
        return {"image": image, "poses": json.dumps(poses.to_dict()), "error": ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", help="a folder, or a Parquet file or folder of them")
    parser.add_argument("--out", required=True, help="where the Parquet files go")
    parser.add_argument("--model", default="sgpose_0m5_1s", help="a name that has weights, or local-dir:FOLDER")
    parser.add_argument("--flip-test", action="store_true", help="average with the mirrored photo")
    parser.add_argument("--workers", type=int, default=1, help="how many processes predict, on all machines together")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each worker; 0.25 lets four share one")
    options = parser.parse_args()
    if Path(options.out).exists():
        parser.error(f"{options.out} exists, and Ray would add to it; choose another folder.")
    ray.init(ignore_reinit_error=True)
    cpus = ray.cluster_resources().get("CPU", 0)
    if not options.gpus and options.workers >= cpus:  # or reading and writing would wait for ever
        parser.error(f"--workers must be below the {cpus:g} CPUs of the cluster, got {options.workers}.")

    if options.photos.endswith(".parquet") or list(Path(options.photos).glob("*.parquet")):
        photos = ray.data.read_parquet(options.photos)
    else:
        files = find_photos([Path(options.photos)])
        photos = ray.data.from_items([{"image": str(photo.path.resolve())} for photo in files])
    done = photos.map(
        Predictor,
        fn_constructor_args=(options.model, "cuda" if options.gpus else "cpu", options.flip_test),
        compute=ray.data.ActorPoolStrategy(size=options.workers),
        num_gpus=options.gpus,
    )
    done.write_parquet(options.out)

    results = pyarrow.dataset.dataset(options.out, format="parquet")
    failed = results.to_table(["image", "error"], filter=pyarrow.dataset.field("error") != "").to_pylist()
    print(f"{options.out}: {results.count_rows()} photos, {len(failed)} of them failed")
    for row in failed:
        print(f"  {row['image']}: {row['error']}")


if __name__ == "__main__":
    main()
