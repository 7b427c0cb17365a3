import math

import pytest
import torch

from softgate_pose.pose import geometry


def ramp(height, width, across=1.0, down=2.0):
    """An image (3, H, W) whose value is a known function of x and y."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((across * x + down * y, x.double(), y.double())).double()


def matrix(zoom=1.0, degrees=0.0, shift=(0.0, 0.0)):
    out = geometry.rotate_scale_about(
        torch.tensor([math.radians(degrees)], dtype=torch.float64),
        torch.tensor([zoom], dtype=torch.float64),
        (40.0, 30.0),
    )
    out[:, :, 2] += torch.tensor(shift, dtype=torch.float64)
    return out


def pixel_grid(size):
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return torch.stack((x, y), dim=-1).double().reshape(1, -1, 2)


@pytest.mark.parametrize("zoom", [0.11, 0.3, 0.77, 1.0, 1.9, 4.0])
@pytest.mark.parametrize("degrees", [0.0, 90.0, -33.0])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.4, -2.7)])
def test_every_sampled_pixel_of_a_ramp_is_the_ramp_at_its_inverse_mapped_place(zoom, degrees, shift):
    height, width = 160, 200
    size = (24, 32)
    m = matrix(zoom, degrees, shift)
    m[:, :, 2] += torch.tensor([16.0 - 40.0, 12.0 - 30.0])  # show (40, 30) near the crop's middle
    crops = geometry.crop(ramp(height, width), m, size)
    places = geometry.transform_points(geometry.invert(m), pixel_grid(size))[0]
    margin = 1 + 2 / min(zoom, 1)  # samples and averages must not reach over the image's border
    inside = ((places >= margin) & (places <= torch.tensor([width - 1, height - 1]) - margin)).all(dim=-1)
    assert inside.sum() > 20
    expected = torch.stack((places[:, 0] + 2 * places[:, 1], places[:, 0], places[:, 1]))
    found = crops[0].reshape(3, -1)
    assert (found - expected)[:, inside].abs().amax() < 1e-6


def test_a_float32_crop_is_as_exact_as_float32_allows():
    m = matrix(0.6, 20.0)
    crops = geometry.crop(ramp(120, 160).float(), m, (40, 40))
    exact = geometry.crop(ramp(120, 160), m, (40, 40))
    assert crops.dtype == torch.float32
    assert (crops - exact).abs().amax() < 0.05


@pytest.mark.parametrize("zoom", [0.09, 0.27, 0.52])
def test_strong_shrinking_does_not_alias(zoom):
    """One-pixel stripes of black and white shrink to grey, not to wider stripes."""
    image = (torch.arange(200) % 2).double().expand(1, 150, 200) * 255
    m = geometry.box_to_crop(torch.tensor([[50.0, 40.0, 150.0, 110.0]]), (round(70 * zoom), round(100 * zoom)))
    crop = geometry.crop(image, m, (round(70 * zoom), round(100 * zoom)))
    assert (crop - 127.5).abs().amax() < 16
    naive = geometry.warp(image[None], m, (round(70 * zoom), round(100 * zoom)))
    assert (naive - 127.5).abs().amax() > 50  # what plain sampling would give


def test_a_crop_at_scale_one_is_the_image_itself():
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    crop = geometry.crop(image, torch.eye(2, 3, dtype=torch.float64)[None], (20, 30))
    torch.testing.assert_close(crop[0], image.float(), atol=1e-3, rtol=0)


def test_outside_the_image_a_crop_is_zero():
    image = torch.full((1, 10, 10), 200.0)
    box = torch.tensor([[5.0, 5.0, 25.0, 25.0]])
    crop = geometry.crop(image, geometry.box_to_crop(box, (20, 20)), (20, 20))[0, 0]
    assert crop[:4, :4].min() > 199
    assert crop[6:, 6:].eq(0).all()
    far = geometry.crop(image, geometry.box_to_crop(box + 500, (20, 20)), (20, 20))
    assert far.eq(0).all()


@pytest.mark.parametrize("shift", [(0, 500), (500, 0), (0, -500), (-500, 0)])
def test_a_crop_beside_the_image_is_zero(shift):
    box = torch.tensor([[2.0, 3.0, 12.0, 13.0]]) + torch.tensor([shift * 2])
    crop = geometry.crop(torch.full((1, 20, 30), 200.0), geometry.box_to_crop(box, (10, 10)), (10, 10))
    assert crop.eq(0).all()


def test_what_lies_inside_an_image_reaches_to_its_pixels_outer_edges():
    """20 wide and 10 high."""
    on_it = [(0, 0), (19, 9), (-0.5, 4), (19.5, 4), (7, -0.5), (7, 9.5), (12, 5)]
    off_it = [(-0.6, 4), (19.6, 4), (7, -0.6), (7, 9.6), (-30, -30), (40, 40), (5, 12), (math.nan, 4)]
    found = geometry.inside(torch.tensor([on_it, [*off_it][: len(on_it)]]), (10, 20))
    assert found.tolist() == [[True] * 7, [False] * 7]
    assert not geometry.inside(torch.tensor(off_it[-1]), (10, 20))


def test_a_crop_of_a_vast_box_needs_no_vast_memory():
    """Averaged blocks may be far larger than the image; what lies outside it counts as 0."""
    image = torch.full((1, 40, 60), 200.0)
    box = torch.tensor([[-1e8, -1e8, 1e8, 1e8]])
    crop = geometry.crop(image, geometry.box_to_crop(box, (16, 16)), (16, 16))
    assert crop.shape == (1, 1, 16, 16)
    assert 0 <= crop.min() <= crop.max() < 0.01


def test_several_crops_come_in_order():
    image = ramp(60, 60)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [40.0, 40.0, 50.0, 50.0]])
    matrices = geometry.box_to_crop(boxes, (11, 11))
    together = geometry.crop(image, matrices, (11, 11))
    for i in range(2):
        assert torch.equal(together[i], geometry.crop(image, matrices[i : i + 1], (11, 11))[0])


@pytest.mark.parametrize("size", [(256, 192), (64, 64)])
def test_points_survive_the_way_to_the_heatmap_and_back(size):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(50, 2, generator=generator, dtype=torch.float64) * 500 - 100
    boxes = torch.cat((corner, corner + 5 + torch.rand(50, 2, generator=generator, dtype=torch.float64) * 400), dim=1)
    points = torch.rand(50, 16, 2, generator=generator, dtype=torch.float64) * 600
    to_crop = geometry.box_to_crop(boxes, size, 1.25)
    on_heatmap = geometry.input_to_heatmap(geometry.transform_points(to_crop, points), 4)
    back = geometry.transform_points(geometry.invert(to_crop), geometry.heatmap_to_input(on_heatmap, 4))
    torch.testing.assert_close(back, points, atol=1e-8, rtol=0)


def test_a_heatmap_pixel_is_centred_on_the_input_pixels_it_covers():
    assert geometry.heatmap_to_input(torch.tensor([0.0, 1.0, 63.0]), 4).tolist() == [1.5, 5.5, 253.5]


@pytest.mark.parametrize("ratio", [3, 0.25, 4 / 3])
def test_points_move_as_the_image_that_is_resized(ratio):
    """Pixel edges are scaled, so the corners of the image stay its corners; a point's own map says the same."""
    x0, y0, x1, y1 = geometry.image_box(48, 36)
    points = torch.tensor([[x0, y0], [x1, y1], [7.25, 30.0]], dtype=torch.float64)
    moved = geometry.resize_points(points, ratio)
    assert moved[0].tolist() == [x0, y0]
    assert moved[1].tolist() == pytest.approx(geometry.image_box(round(48 * ratio), round(36 * ratio))[2:])
    torch.testing.assert_close(moved, geometry.transform_points(geometry.resize_map(ratio), points[None])[0])


@pytest.mark.parametrize(
    ("box", "extent"),
    [((10.0, 20.0, 50.0, 100.0), (32, 64)), ((10.0, 20.0, 90.0, 60.0), (48, 24))],
    ids=["tall", "wide"],
)
def test_a_box_is_centred_and_fits(box, extent):
    m = geometry.box_to_crop(torch.tensor([box]), (64, 48), 1.25)
    x0, y0, x1, y1 = box
    points = geometry.transform_points(m, torch.tensor([[[x0, y0], [x1, y1], [(x0 + x1) / 2, (y0 + y1) / 2]]]))[0]
    assert points[2].tolist() == pytest.approx([23.5, 31.5])
    assert ((points[1] - points[0]) * 1.25).tolist() == pytest.approx(extent)


def test_the_whole_image_fills_a_crop_of_its_own_size():
    m = geometry.box_to_crop(torch.tensor([geometry.image_box(64, 48)]), (64, 48))
    torch.testing.assert_close(m[0], torch.eye(2, 3, dtype=torch.float64))


def test_compose_applies_the_first_map_first():
    first, second = matrix(2.0, 30.0, (1.0, 2.0)), matrix(0.5, -70.0, (-4.0, 0.5))
    points = torch.rand(1, 9, 2, dtype=torch.float64) * 50
    torch.testing.assert_close(
        geometry.transform_points(geometry.compose(second, first), points),
        geometry.transform_points(second, geometry.transform_points(first, points)),
    )


def test_mirroring_maps_the_first_pixel_to_the_last():
    m = geometry.mirror_crop(torch.tensor([True, False]), 48)
    moved = geometry.transform_points(m, torch.tensor([[[0.0, 5.0]], [[0.0, 5.0]]]))
    assert moved.tolist() == [[[47, 5]], [[0, 5]]]


def test_warp_takes_points_and_pixels_to_the_same_place():
    """A bright dot moved by ``warp`` lands where ``transform_points`` says."""
    image = torch.zeros(1, 1, 80, 100)
    image[0, 0, 33, 61] = 1
    m = matrix(1.0, 90.0, (5.0, -3.0))
    place = geometry.transform_points(m, torch.tensor([[[61.0, 33.0]]], dtype=torch.float64))[0, 0].round().long()
    warped = geometry.warp(image, m, (80, 100))[0, 0]
    assert divmod(int(warped.argmax()), 100) == (int(place[1]), int(place[0]))
    assert warped.max() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_costs_a_warp_its_rounding_alone(dtype):
    """On images of more pixels than a 16-bit index reaches, too."""
    image = torch.rand(1, 2, 300, 200, generator=torch.Generator().manual_seed(0)).to(dtype)
    warped = geometry.warp(image, matrix(1.3, 20.0, (5.0, -3.0)), (250, 250))
    assert warped.dtype == dtype
    exact = geometry.warp(image.float(), matrix(1.3, 20.0, (5.0, -3.0)), (250, 250))
    assert torch.equal(warped, exact.to(dtype))


@pytest.mark.parametrize(
    ("boxes", "match"),
    [
        ([[0, 0, 10]], r"shape \(N, 4\)"),
        ([0, 0, 10, 10], r"shape \(N, 4\)"),
        ([[0, 0, 10, 10], [5, 5, 5, 9]], "Box 1 has no area"),
        ([[0, 10, 10, 0]], "Box 0 has no area"),
        ([[0, 0, math.nan, 5]], "not finite"),
        ([[0, 0, math.inf, 5]], "not finite"),
        ([["a", 0, 1, 5]], "numbers of shape"),
        ([[0, 0, 1, 5], [1]], "numbers of shape"),
        ([[0, 0, 10**400, 5]], "numbers of shape"),
        (7, "numbers of shape"),
    ],
)
def test_bad_boxes_are_refused(boxes, match):
    with pytest.raises(ValueError, match=match):
        geometry.as_boxes(boxes)


@pytest.mark.parametrize("boxes", [[], torch.zeros(0, 4)])
def test_no_boxes_are_no_boxes(boxes):
    assert geometry.as_boxes(boxes).shape == (0, 4)
