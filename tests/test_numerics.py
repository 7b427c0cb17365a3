"""One image gives the same keypoints in any company, in any precision and every time."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from softgate_pose import create_model, list_models, load_image, normalize, predict, zoo
from softgate_pose.model.softgate import SoftGatePose
from softgate_pose.pose import geometry
from softgate_pose.prediction.draw import MIN_SCORE
from softgate_pose.prediction.predict import crop_matrices, infer_heatmaps, predict_crops
from softgate_pose.training.augment import Augmentation, augment, sample_changes
from softgate_pose.training.crops import Crops
from softgate_pose.training.losses import heatmap_loss

EXAMPLES = Path(__file__).parent.parent / "examples"
BUNDLED = [entry.name for entry in zoo.pretrained_entries() if entry.folder is not None]


@pytest.mark.parametrize("name", list_models())
def test_company_moves_no_keypoint(name):
    """By at most 0.01 input pixels: convolutions add up in another order for another batch."""
    torch.manual_seed(0)
    model = create_model(name, input_size=(64, 64))
    crops = torch.rand(3, 3, 64, 64) * 255
    together, scores = predict_crops(model, crops)
    for sizes in ([1, 1, 1], [2, 1]):
        parts = [predict_crops(model, part) for part in crops.split(sizes)]
        assert (torch.cat([points for points, _ in parts]) - together).abs().amax() < 0.01
        torch.testing.assert_close(torch.cat([score for _, score in parts]), scores, atol=1e-4, rtol=0)


def on_the_photo(model, **options):
    (boxes,) = json.loads((EXAMPLES / "boxes.json").read_text(encoding="utf-8")).values()
    poses = predict(model, EXAMPLES / "photo.jpg", [*boxes, *boxes[:1]], **options)
    return poses.keypoints, poses.scores


@pytest.mark.parametrize("name", BUNDLED)
def test_batches_of_a_photos_people_agree(name):
    """To 0.001 pixels of the photo, as docs/numerics.md says."""
    model = create_model(name)
    keypoints, scores = on_the_photo(model)
    for batch_size in (1, 2):
        others, other_scores = on_the_photo(model, batch_size=batch_size)
        assert (others - keypoints).norm(dim=-1).amax() < 0.001
        torch.testing.assert_close(other_scores, scores, atol=1e-5, rtol=0)


def has_rival(model):
    """Which of the same keypoints have a second peak, of at least nine tenths of the height: rounding may choose it."""
    (boxes,) = json.loads((EXAMPLES / "boxes.json").read_text(encoding="utf-8")).values()
    pixels = load_image(EXAMPLES / "photo.jpg")
    _, matrices = crop_matrices([*boxes, *boxes[:1]], tuple(pixels.shape[1:]), model.config)
    crops = geometry.crop(pixels, matrices, model.config.input_size)
    heatmaps = infer_heatmaps(model, normalize(crops, model.config))
    (height, width), flat = heatmaps.shape[2:], heatmaps.flatten(2)
    peaks, places = flat.max(dim=2, keepdim=True)
    columns, rows = torch.arange(width).repeat(height), torch.arange(height).repeat_interleave(width)
    away = (columns - places % width) ** 2 + (rows - places // width) ** 2 > 3**2
    return (flat * away).amax(dim=2) >= 0.9 * peaks.squeeze(2)


# half a minute a model and type where a processor has no half precision of its own; benchmarks.precision measures all
@pytest.mark.parametrize("name", [BUNDLED[0], "sgpose_0m5_1s.sports", "sgpose_3m4_2s.sports"])
@pytest.mark.parametrize(("dtype", "median", "largest"), [(torch.float16, 0.05, 0.5), (torch.bfloat16, 0.2, 1.0)])
def test_half_precision_moves_keypoints_by_less_than_a_pixel(name, dtype, median, largest):
    """In pixels of the photo, of the keypoints that are drawn and have no rival; the bounds are in docs/numerics.md."""
    exact, scores = on_the_photo(create_model(name))
    try:
        half, _ = on_the_photo(create_model(name, dtype=dtype))
    except RuntimeError as error:
        pytest.skip(f"no {dtype} on this processor: {error}")
    moved = (half - exact).norm(dim=-1)[(scores >= MIN_SCORE) & ~has_rival(create_model(name))]
    assert len(moved) > 20
    assert moved.median() < median
    assert moved.amax() < largest
    assert moved.amax() > 0  # it was another precision


def learn(config):
    """A network's gradients after one step of training on made crops, and what it then predicts."""
    torch.manual_seed(0)
    model = SoftGatePose(config).train()
    images = (torch.rand(4, 3, 96, 96) * 255).byte()
    count = config.num_keypoints
    crops = Crops(images, 30 + torch.rand(4, count, 2) * 30, torch.ones(4, count, dtype=torch.bool))
    changes = sample_changes(4, 3, Augmentation(), torch.Generator().manual_seed(0))
    views, keypoints, labelled = augment(crops, changes, config)
    heatmap_loss(model.outputs(views), keypoints, labelled, config).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return [*gradients, *predict_crops(model, images[..., :64, :48].float(), flip_test=True)]


@pytest.fixture
def only_deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("only_deterministic")
@pytest.mark.parametrize("heatmap", ["softmax", "gaussian"])
def test_training_and_prediction_are_the_same_each_time(tiny_config, heatmap):
    config = tiny_config.replace(heatmap=heatmap)
    for once, again in zip(learn(config), learn(config), strict=True):
        assert torch.equal(once, again)


# what torch.use_deterministic_algorithms refuses on CUDA, by its documentation, of what a network might use
REFUSED_ON_CUDA = (
    "grid_sampler_2d_backward",
    "upsample_linear1d_backward",
    "upsample_bilinear2d_backward",
    "upsample_bicubic2d_backward",
    "_upsample_bilinear2d_aa_backward",
    "_adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d_backward",
    "fractional_max_pool2d_backward",
    "max_unpool2d",
    "reflection_pad2d_backward",
    "nll_loss_forward",
    "nll_loss2d_forward",
    "put_",
    "histc",
    "bincount",
    "median",
    "kthvalue",
)


class Ops(TorchDispatchMode):
    """The names of all operations."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name().removeprefix("aten::").split(".")[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("merge", ["concat", "sum"])
def test_no_operation_lacks_a_deterministic_kernel_on_cuda(tiny_config, merge):
    with Ops() as ops:
        learn(tiny_config.replace(merge=merge))
    assert {"max_pool2d_with_indices_backward", "upsample_nearest2d_backward", "grid_sampler_2d"} <= ops.names
    assert not ops.names & set(REFUSED_ON_CUDA)
