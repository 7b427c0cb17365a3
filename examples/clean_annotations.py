"""Clean a data set's annotations by what a trained model sees, and write them in COCO's layout.

    python examples/clean_annotations.py lspet:data/lspet:train data/lspet/annotations/cleaned.json

The result is read as coco:data/lspet:cleaned. Everybody and their boxes stay; of the keypoints:

1. A person's left and right change places if that brings their limbs nearer to the model's.
2. A label that lies far from where the model is confident is taken away.
3. A label that lies near there is moved half way, which halves the noise of both.
4. With --fill, what nobody labelled is placed where the model is confident.

Lengths are shares of the longer side of a person's box.
"""

import dataclasses
import json
from pathlib import Path

import click
import torch
from torch import Tensor

from softgate_pose import create_model, deploy
from softgate_pose._files import written_whole
from softgate_pose.data.people import People
from softgate_pose.data.sources import read_people
from softgate_pose.pose.metrics import box_sizes
from softgate_pose.prediction.predict import predict_people
from softgate_pose.training.crops import first_few, split_readable

CONFIDENT = 0.3  # score
FAR = 0.12
EXCHANGE = 0.03  # a mean over the limbs, no keypoint counting more than FAR


def clean(people: People, keypoints: Tensor, scores: Tensor, *, fill: bool = False) -> tuple[People, dict[str, int]]:
    """The people with cleaned keypoints, and how many of what was changed.

    Args:
        people: N people of K keypoints.
        keypoints: (N, K, 2) in image pixels, a model's, in the people's order of keypoints.
        scores: (N, K), the model's.
        fill: Label what is not labelled.
    """
    mirror = torch.tensor(people.skeleton.mirror)
    sides = box_sizes(people.boxes)
    labels, labelled = people.keypoints.clone(), people.labelled.clone()

    def distances(points: Tensor) -> Tensor:
        return (points - labels).norm(dim=-1) / sides[:, None]

    paired = labelled & (mirror != torch.arange(len(mirror)))
    as_is, exchanged = (
        (distances(points).clamp_max(FAR) * paired).sum(dim=1) / paired.sum(dim=1).clamp_min(1)
        for points in (keypoints, keypoints[:, mirror])
    )
    swap = exchanged + EXCHANGE < as_is
    labels[swap], labelled[swap] = labels[swap][:, mirror], labelled[swap][:, mirror]

    confident = scores > CONFIDENT
    distant = distances(keypoints) > FAR
    far = labelled & confident & distant
    far &= (labelled & ~far).any(dim=1, keepdim=True)  # nobody is left without a keypoint
    near = labelled & confident & ~distant
    labels = torch.where(near[..., None], (labels + keypoints) / 2, labels)
    filled = ~labelled & confident if fill else torch.zeros_like(labelled)
    labels = torch.where(filled[..., None], keypoints.double(), labels)
    labelled = labelled & ~far | filled
    cleaned = dataclasses.replace(people, keypoints=torch.where(labelled[..., None], labels, 0.0), labelled=labelled)
    changes = {
        "people whose left and right changed places": int(swap.sum()),
        "labels taken away": int(far.sum()),
        "labels moved": int(near.sum()),
        "labels added": int(filled.sum()),
    }
    return cleaned, changes


def to_coco(people: People, root: Path) -> dict[str, list[dict[str, object]]]:
    """COCO's keypoints layout, with the images' names from ``root`` on."""
    names = [image.absolute().relative_to(root).as_posix() for image in people.images]
    ids = {name: i for i, name in enumerate(dict.fromkeys(names))}
    edges = [[a + 1, b + 1] for a, b in people.skeleton.edge_indices]
    category = {"id": 1, "name": "person", "keypoints": list(people.skeleton.keypoints), "skeleton": edges}
    visibility = torch.where(people.labelled, 2.0, 0.0)[..., None].double()
    triples = torch.cat((people.keypoints, visibility), dim=-1).flatten(1)
    boxes = torch.cat((people.boxes[:, :2], people.boxes[:, 2:] - people.boxes[:, :2]), dim=1)
    annotations = [
        {
            "id": i,
            "image_id": ids[name],
            "category_id": 1,
            "keypoints": [round(value, 2) for value in triple],
            "bbox": [round(value, 2) for value in box],
        }
        for i, (name, triple, box) in enumerate(zip(names, triples.tolist(), boxes.tolist(), strict=True))
    ]
    images = [{"id": i, "file_name": name} for name, i in ids.items()]
    return {"images": images, "categories": [category], "annotations": annotations}


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.argument("source", metavar="KIND:FOLDER:SPLIT")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--model", "model_name", default="sgpose_1m9_2s", show_default=True)
@click.option("--fill", is_flag=True, help="Label what is not labelled.")
@click.option("--device", default="cpu", show_default=True)
def main(source: str, out: Path, model_name: str, fill: bool, device: str) -> None:
    # all that can be told before the minutes of predicting
    if out.exists():
        raise click.UsageError(f"{out} exists; choose another name, or delete it.")
    try:
        people = read_people(source)
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    root = out.parent.parent.absolute()
    beside = all(image.absolute().is_relative_to(root) for image in people.images)
    if not beside or out.parent.name != "annotations" or out.suffix != ".json":
        raise click.UsageError(f"{out} must lie beside the images, as FOLDER/annotations/NAME.json.")
    people, problems = split_readable(people)
    if problems:
        click.echo(f"Left out: {first_few(problems)}.", err=True)
    model = deploy(create_model(model_name, pretrained=True, device=device, dtype=torch.bfloat16))
    predictions = predict_people(model, people, flip_test=True, progress=True)
    seen = predictions.select_keypoints(people.skeleton.keypoints)
    cleaned, changes = clean(people, seen.keypoints, seen.scores, fill=fill)
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out) as scratch:
        scratch.write_text(json.dumps(to_coco(cleaned, root)))
    click.echo(f"{len(people)} people with {int(people.labelled.sum())} labels:")
    for what, count in changes.items():
        click.echo(f"{count:7} {what}")


if __name__ == "__main__":
    main()
