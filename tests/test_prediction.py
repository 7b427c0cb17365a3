import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from softgate_pose import LSP, Poses, predict
from softgate_pose.model.base import PoseModel
from softgate_pose.pose import geometry
from softgate_pose.pose.heatmaps import render_heatmaps
from softgate_pose.prediction import predict as predict_module
from softgate_pose.prediction.predict import decode_crops, infer_heatmaps, predict_crops


class Oracle(PoseModel):
    """Stands in for a network: finds a coloured dot in the crop, and puts every keypoint there.

    Its heatmaps are Gaussians round the dot's centre of mass, so predictions must come back, through
    crop, heatmap and inverse, to where the dot was painted.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.batches = []

    def forward(self, images):
        self.batches.append(len(images))
        std = torch.tensor(self.config.std).view(-1, 1, 1)
        mean = torch.tensor(self.config.mean).view(-1, 1, 1)
        red = (images * std + mean)[:, 0].clamp_min(0)
        y, x = (torch.arange(n, dtype=torch.float32) for n in red.shape[1:])
        total = red.sum(dim=(1, 2))
        centre = torch.stack(((red.sum(1) * x).sum(1) / total, (red.sum(2) * y).sum(1) / total), -1)
        points = geometry.input_to_heatmap(centre, 4)[:, None].expand(-1, self.config.num_keypoints, -1)
        return render_heatmaps(points, (images.shape[2] // 4, images.shape[3] // 4))


@pytest.fixture
def oracle(tiny_config):
    return Oracle(tiny_config).eval()


def painted(size, *dots):
    """A black image with a smooth red dot at each (x, y)."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    red = sum(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 2.5**2)) for cx, cy in dots)
    return np.stack((red.clip(0, 1), np.zeros(size), np.zeros(size)), -1)


DOTS = [(41.3, 33.8), (101.7, 52.2), (30.5, 90.0)]
BOXES = [(21, 15, 60, 52), (80, 30, 118, 80), (10, 70, 48, 112)]


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("decode", ["dark", "soft"])
def test_keypoints_come_back_to_where_they_are_in_the_image(oracle, flip_test, decode):
    poses = predict(oracle, painted((120, 130), *DOTS), BOXES, flip_test=flip_test, decode=decode)
    assert poses.keypoints.shape == (3, 14, 2)
    expected = torch.tensor(DOTS)[:, None].expand(-1, 14, -1)
    assert (poses.keypoints - expected).abs().amax() < 0.15  # image pixels
    assert poses.scores.min() > 0.8
    assert poses.scores.max() <= 1
    assert poses.boxes.tolist() == [list(map(float, box)) for box in BOXES]


def test_without_boxes_the_whole_image_is_one_person(oracle):
    poses = predict(oracle, painted((120, 90), DOTS[0]))
    assert len(poses) == 1
    assert poses.boxes.tolist() == [[-0.5, -0.5, 89.5, 119.5]]
    assert (poses.keypoints - torch.tensor(DOTS[0])).abs().amax() < 0.15


def test_batches_are_as_large_as_asked_and_change_nothing(oracle):
    image = painted((120, 130), *DOTS)
    one, all_at_once = predict(oracle, image, BOXES, batch_size=2), predict(oracle, image, BOXES)
    assert oracle.batches == [2, 1, 3]
    torch.testing.assert_close(one.keypoints, all_at_once.keypoints)


def test_no_boxes_give_no_poses(tiny_model, photo):
    poses = predict(tiny_model, photo, [])
    assert len(poses) == 0
    assert poses.keypoints.shape == (0, 14, 2)
    assert poses.to_dict()["people"] == []
    assert poses.to_coco() == []
    assert poses.draw(photo).size == photo.size


@pytest.mark.parametrize("kind", ["path", "text", "pil", "array", "tensor"])
def test_every_kind_of_image_gives_the_same_poses(tiny_model, photo, tmp_path, kind):
    photo.save(tmp_path / "photo.png")
    array = np.asarray(photo)
    sources = {
        "path": tmp_path / "photo.png",
        "text": str(tmp_path / "photo.png"),
        "pil": photo,
        "array": array,
        "tensor": torch.from_numpy(array.copy()).permute(2, 0, 1),
    }
    torch.testing.assert_close(predict(tiny_model, sources[kind]).keypoints, predict(tiny_model, photo).keypoints)


@pytest.mark.parametrize("kind", ["tuples", "lists", "array", "tensor", "ints", "half", "learned", "rows"])
def test_boxes_of_every_kind(oracle, kind):
    boxes = {
        "tuples": BOXES,
        "lists": [list(map(float, box)) for box in BOXES],
        "array": np.array(BOXES, dtype=np.float32),
        "tensor": torch.tensor(BOXES, dtype=torch.float32),
        "ints": torch.tensor(BOXES),
        "half": torch.tensor(BOXES, dtype=torch.float16),
        "learned": torch.tensor(BOXES, dtype=torch.float32, requires_grad=True),
        "rows": list(torch.tensor(BOXES)),
    }[kind]
    image = painted((120, 130), *DOTS)
    torch.testing.assert_close(predict(oracle, image, boxes).keypoints, predict(oracle, image, BOXES).keypoints)


def test_boxes_may_reach_over_the_border(tiny_model, photo):
    assert predict(tiny_model, photo, [(-50, -50, 30, 30), (60, 40, 500, 500)]).keypoints.isfinite().all()


@pytest.mark.parametrize(
    ("boxes", "match"),
    [
        ([(0, 0, 10, 10), (90, 0, 120, 30)], r"Box 1 .* 90 × 70 .*\[90\.0, 0\.0, 120\.0, 30\.0\]"),
        ([(0, -30, 10, -1)], r"Box 0 .* 90 × 70 .*-30\.0"),
        ([(0, 0, 0, 10)], r"Box 0 .*\[0\.0, 0\.0, 0\.0, 10\.0\]"),
        ([(0, 0, math.nan, 10)], "Box 0 .*nan"),
        ([(0, 0, 10)], r"\(1, 3\)"),
        ([[]], r"\(1, 0\)"),
        ([(0, 0, 10**400, 5)], r"boxes .*\(N, 4\)"),
        ([(-1e8, -1e8, 1e8, 1e8)], "Box 0 .* 100 times .* 90 × 70"),
        ([(0, 0, 30, 40), (0.1, 0.2, 0.5, 1.0)], r"Box 1 .* a pixel .*0\.5, 1\.0.* 90 and 70"),
        ([(5, 5, 5 + 1e-9, 5 + 1e-9)], "Box 0 .* a pixel .*5\\.0"),
    ],
)
def test_bad_boxes(tiny_model, photo, boxes, match):
    with pytest.raises(ValueError, match=match):
        predict(tiny_model, photo, boxes)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"batch_size": 0}, "batch_size .* 0"),
        ({"box_scale": 0}, "box_scale .* 0"),
        ({"box_scale": math.inf}, "box_scale .*inf"),
        ({"decode": "best"}, "argmax, quarter.*'best'"),
    ],
)
def test_bad_arguments(tiny_model, photo, arguments, match):
    with pytest.raises(ValueError, match=match):
        predict(tiny_model, photo, **arguments)


def test_the_model_is_left_as_it_came(tiny_model, photo):
    before = {key: value.clone() for key, value in tiny_model.state_dict().items()}
    tiny_model.train()
    tiny_model.stem[1].eval()  # a frozen batch norm
    poses = predict(tiny_model, photo)
    assert tiny_model.training
    assert not tiny_model.stem[1].training
    for key, value in tiny_model.state_dict().items():
        assert torch.equal(value, before[key]), key  # batch norms did not see the photo
    torch.testing.assert_close(predict(tiny_model.eval(), photo).keypoints, poses.keypoints)


def test_flip_test_averages_with_the_mirrored_image(tiny_model):
    images = torch.randn(2, 3, 64, 48)
    mirror = list(LSP.mirror)
    with torch.no_grad():
        expected = (tiny_model(images) + tiny_model(images.flip(-1)).flip(-1)[:, mirror]) / 2
    torch.testing.assert_close(infer_heatmaps(tiny_model, images, flip_test=True), expected)


def test_a_mirrored_photo_gives_mirrored_poses_under_flip_test(tiny_model):
    """With flip averaging the answer does not depend on which way round the photo is."""
    crops = torch.rand(2, 3, 64, 48) * 255
    points, scores = predict_crops(tiny_model, crops, flip_test=True)
    mirrored, mirrored_scores = predict_crops(tiny_model, crops.flip(-1), flip_test=True)
    mirrored = mirrored[:, list(LSP.mirror)]
    mirrored[..., 0] = 47 - mirrored[..., 0]
    torch.testing.assert_close(mirrored, points, atol=0.05, rtol=0)  # an untrained net peaks faintly
    torch.testing.assert_close(mirrored_scores[:, list(LSP.mirror)], scores)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_model_predicts(tiny_model, photo, dtype):
    assert predict(tiny_model.to(dtype), photo).keypoints.dtype == torch.float32


def test_a_grey_model_takes_a_colour_photo(tiny_config, photo):
    from softgate_pose.model.softgate import SoftGatePose

    model = SoftGatePose(tiny_config.with_in_chans(1))
    assert predict(model, photo).keypoints.isfinite().all()


@pytest.fixture
def two_poses():
    keypoints = torch.arange(56, dtype=torch.float32).view(2, 14, 2) + 0.123
    return Poses(keypoints, torch.full((2, 14), 0.5), torch.tensor([[1.0, 2.0, 11.0, 22.0], [0.0, 0.0, 5.0, 5.0]]), LSP)


def test_to_dict_is_json(two_poses):
    data = json.loads(json.dumps(two_poses.to_dict()))
    assert data["keypoint_names"] == list(LSP.keypoints)
    assert data["people"][1]["keypoints"][0] == [28.12, 29.12]
    assert data["people"][0]["box"] == [1, 2, 11, 22]
    assert data["people"][0]["scores"] == [0.5] * 14


def test_to_coco(two_poses):
    first, second = two_poses.to_coco(image_id=7)
    assert first["bbox"] == [1, 2, 10, 20]
    assert first["image_id"] == 7
    assert first["category_id"] == 1
    assert len(second["keypoints"]) == 3 * 14
    assert second["keypoints"][:3] == pytest.approx([28.123, 29.123, 0.5])
    assert second["score"] == 0.5
    json.dumps([first, second])


@pytest.mark.parametrize("size", [(60, 40), (400, 300), (2400, 1800)])
def test_drawing_changes_the_skeleton_and_nothing_far_from_it(size):
    width, height = size
    image = Image.new("RGB", size, (128, 128, 128))
    names = LSP.keypoints
    keypoints = torch.full((1, 14, 2), math.nan)
    keypoints[0, names.index("left_knee")] = torch.tensor([0.25 * width, 0.5 * height])
    keypoints[0, names.index("left_hip")] = torch.tensor([0.5 * width, 0.5 * height])
    scores = torch.ones(1, 14)
    drawn = Poses(keypoints, scores, torch.zeros(1, 4), LSP).draw(image)
    assert drawn.size == size
    assert image.getpixel((width // 2, height // 2)) == (128, 128, 128)  # a copy
    red, _, blue = drawn.getpixel((round(0.375 * width), height // 2))
    assert red > blue + 60  # the left side is orange
    pixels = np.asarray(drawn).astype(int)
    changed = (pixels != 128).any(-1)
    assert 0.001 < changed.mean() < 0.1
    rows = changed.any(1).nonzero()[0]
    assert rows.min() > 0.35 * height
    assert rows.max() < 0.65 * height


def test_drawing_leaves_out_low_scores():
    keypoints = torch.rand(1, 14, 2) * 40
    image = Image.new("RGB", (50, 50))
    low = Poses(keypoints, torch.full((1, 14), 0.05), torch.zeros(1, 4), LSP)
    assert np.asarray(low.draw(image)).max() == 0
    assert np.asarray(low.draw(image, min_score=0.0)).max() > 0


def test_drawing_survives_keypoints_far_outside():
    keypoints = torch.full((1, 14, 2), -900.0)
    keypoints[0, 0] = torch.tensor([1e4, 3.0])
    Poses(keypoints, torch.ones(1, 14), torch.zeros(1, 4), LSP).draw(Image.new("RGB", (50, 50)))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_drawing_on_tensors_of_other_channels(two_poses, channels):
    assert two_poses.draw(torch.zeros(channels, 50, 60, dtype=torch.uint8)).size == (60, 50)


def test_drawing_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"\(N, 14, 2\)"):
        Poses(torch.zeros(1, 3, 2), torch.zeros(1, 3), torch.zeros(1, 4), LSP).draw(Image.new("RGB", (5, 5)))


def test_decode_crops_are_in_crop_pixels():
    heatmaps = torch.zeros(1, 2, 16, 12)
    heatmaps[0, 0, 5, 3], heatmaps[0, 1, 15, 11] = 1.5, 0.5
    keypoints, scores = decode_crops(heatmaps, "argmax")
    assert keypoints.tolist() == [[[4 * 3 + 1.5, 4 * 5 + 1.5], [4 * 11 + 1.5, 4 * 15 + 1.5]]]
    assert scores.tolist() == [[1, 0.5]]


def test_threads_share_a_model_and_leave_it_as_it_came(tiny_model, photo):
    expected = predict(tiny_model, photo)
    state = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    tiny_model.train()
    tiny_model.stem[1].eval()  # a frozen norm
    with ThreadPoolExecutor(4) as threads:
        for poses in threads.map(lambda _: predict(tiny_model, photo), range(24)):
            torch.testing.assert_close(poses.keypoints, expected.keypoints)
    assert [module for module in tiny_model.modules() if not module.training] == [tiny_model.stem[1]]
    assert all(torch.equal(value, state[name]) for name, value in tiny_model.state_dict().items())
    assert not predict_module._evaluated


def test_another_default_device_changes_nothing(tiny_model, photo):
    boxes = [[4, 4, 40, 50], [10, 5, 60, 55]]
    expected = predict(tiny_model, photo, boxes, flip_test=True)
    with torch.device("meta"):  # whose tensors do not meet others
        poses = predict(tiny_model, photo, boxes, flip_test=True)
        assert len(predict(tiny_model, photo, [])) == 0
    assert torch.equal(poses.keypoints, expected.keypoints)


def test_a_box_at_the_border_in_a_detector_s_pixels(tiny_model, photo):
    width, height = photo.size
    assert len(predict(tiny_model, photo, [[width - 0.4, 2, width, height]])) == 1
    with pytest.raises(ValueError, match=rf"Box 0 .*{width} × {height}"):
        predict(tiny_model, photo, [[width, 2, width + 4, height]])


def test_poses_are_themselves(two_poses):
    assert two_poses == two_poses
    assert two_poses in [two_poses]
    assert two_poses != Poses(two_poses.keypoints, two_poses.scores, two_poses.boxes, two_poses.skeleton)


@pytest.mark.parametrize("channels", [2, 5])
def test_drawing_on_arrays_of_other_channels(two_poses, channels):
    array = np.full((60, 80, channels), 90, np.uint8)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    assert np.array_equal(two_poses.draw(array), two_poses.draw(tensor))
