"""Print the memory of a run over many photos: python -m benchmarks.growth [PHOTOS] [PICTURES].

Predicts on PHOTOS made photos (2,000 by default) of eight sizes and kinds, with up to four people, into a .json file,
and every 200 photos prints the resident memory in MB. The network is a tiny one: what could grow is what is kept of
photos and poses, and the network keeps nothing. Ends in status 1 if the last quarter needs more than 5 % more than the
second. With PICTURES, a folder of photos, it takes those in turn instead.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from softgate_pose import create_model, predict
from softgate_pose.folder.photos import find_photos
from softgate_pose.folder.results import Results
from softgate_pose.folder.run import predict_photos

EVERY = 200
KINDS = [
    ("jpg", "RGB", 640, 480), ("jpg", "RGB", 1200, 900), ("png", "RGB", 500, 700), ("jpg", "L", 800, 600),
    ("webp", "RGB", 333, 500), ("png", "RGBA", 320, 240), ("gif", "P", 400, 300), ("jpg", "CMYK", 720, 480),
]  # fmt: skip


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def make(folder: Path, count: int) -> None:
    """Links to one photo of each kind, and every tenth a file that is no photo."""
    noise = np.random.default_rng(0)
    for i, (suffix, mode, width, height) in enumerate(KINDS):
        rows = noise.integers(0, 255, (height // 20, width // 20, 3), dtype=np.uint8)
        Image.fromarray(rows).resize((width, height)).convert(mode).save(folder / f"kind{i}.{suffix}")
    (folder / "photos").mkdir()
    for i in range(count):
        kind = i % len(KINDS)
        name = folder / "photos" / f"{i:06d}.{KINDS[kind][0]}"
        if i % 10 == 9:
            name.write_bytes(b"no photo")
        else:
            name.symlink_to(folder / f"kind{kind}.{KINDS[kind][0]}")


def main(count: int, pictures: Path | None) -> int:
    torch.set_num_threads(1)
    model = create_model("sgpose_0m5_1s", width=8, depth=2, input_size=(64, 64))
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        make(place, count)
        if pictures is not None:
            sources = sorted(pictures.glob("*.jpg"))
            for i, link in enumerate(sorted((place / "photos").iterdir())):
                link.unlink()
                (place / "photos" / f"{i:06d}.jpg").symlink_to(sources[i % len(sources)].resolve())
        photos = find_photos([place / "photos"])
        boxes = {photo.name: [[0.0, 0.0, 200.0, 200.0]] * (i % 5) for i, photo in enumerate(photos)}
        seen = [resident()]
        print(f"photos  resident MB\n{0:>6}  {seen[0]:11.1f}", flush=True)
        with Results(place / "poses.json", {}) as results:
            run = predict_photos(photos, partial(predict, model), boxes=boxes, results=results)
            for number, _ in enumerate(run, 1):
                if number % EVERY == 0:
                    seen.append(resident())
                    print(f"{number:>6}  {seen[-1]:11.1f}", flush=True)
            results.finish([photo.name for photo in photos])
        print(f"written {resident():11.1f}")
    second, last = seen[len(seen) // 4 : len(seen) // 2], seen[-(len(seen) // 4) :]
    return 0 if not second or max(last) <= 1.05 * max(second) else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 2000, Path(sys.argv[2]) if sys.argv[2:] else None))
