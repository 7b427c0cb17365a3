import math
import re

import pytest
import torch

from softgate_pose import MPII, decode_heatmaps, flip_heatmaps, render_heatmaps
from softgate_pose.pose.heatmaps import spatial_softmax

METHODS = ("argmax", "quarter", "dark", "soft", "mass")
LARGEST_ERROR = {"argmax": 0.5, "quarter": 0.25, "dark": 0.02, "soft": 0.05, "mass": 0.02}


def map_of(rows):
    return torch.tensor(rows, dtype=torch.float32)[None, None]


def test_rendered_peak_is_one_at_a_whole_pixel_and_falls_as_a_gaussian():
    heatmap = render_heatmaps(torch.tensor([[[2.0, 1.0]]]), (4, 5), sigma=1.5)[0, 0]
    assert heatmap.shape == (4, 5)
    assert heatmap[1, 2] == 1
    assert heatmap[1, 4] == pytest.approx(math.exp(-(2**2) / (2 * 1.5**2)))
    assert heatmap[3, 3] == pytest.approx(math.exp(-(2**2 + 1) / (2 * 1.5**2)))


@pytest.mark.parametrize("nowhere", [math.nan, math.inf])
def test_rendering_a_keypoint_without_a_place_gives_an_empty_map(nowhere):
    heatmaps = render_heatmaps(torch.tensor([[[nowhere, 1.0], [1.0, 1.0]]]), (3, 3))
    assert heatmaps[0, 0].eq(0).all()
    assert heatmaps[0, 1].max() == 1


@pytest.mark.parametrize(
    ("keypoints", "size", "sigma", "match"),
    [
        (torch.zeros(1, 2, 3), (4, 4), 1.0, r"\(\.\.\., 2\)"),
        (torch.zeros(1, 2, 2, dtype=torch.long), (4, 4), 1.0, "floating point"),
        (torch.zeros(1, 2, 2), (0, 4), 1.0, "size"),
        (torch.zeros(1, 2, 2), (4.5, 4), 1.0, "whole numbers"),
        (torch.zeros(1, 2, 2), 4, 1.0, "size"),
        (torch.zeros(1, 2, 2), (4, 4, 4), 1.0, "size"),
        (torch.zeros(1, 2, 2), "44", 1.0, "size"),
        (torch.zeros(1, 2, 2), (4, 4), 0.0, "sigma"),
        (torch.zeros(1, 2, 2), (4, 4), math.nan, "sigma"),
    ],
)
def test_rendering_refuses_bad_input(keypoints, size, sigma, match):
    with pytest.raises(ValueError, match=match):
        render_heatmaps(keypoints, size, sigma)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decoding_clean_gaussians_meets_the_documented_error(method, dtype):
    generator = torch.Generator().manual_seed(0)
    centres = 4 + torch.rand(500, 16, 2, generator=generator, dtype=dtype) * torch.tensor([47 - 8, 63 - 8])
    keypoints, scores = decode_heatmaps(render_heatmaps(centres, (64, 48)), method)
    error = (keypoints - centres).abs().amax()
    assert error <= LARGEST_ERROR[method] + 1e-6
    assert keypoints.dtype == scores.dtype == dtype
    assert scores.min() > math.exp(-0.25) - 1e-6  # at most half a pixel off per axis


@pytest.mark.parametrize("method", ["dark", "soft", "mass"])
def test_subpixel_decoders_do_not_depend_on_the_maps_scale(method):
    heatmaps = render_heatmaps(torch.tensor([[[9.3, 7.7]]]), (16, 20))
    expected, _ = decode_heatmaps(heatmaps, method)
    for factor in (1e-6, 1e4, 1e30):
        found, _ = decode_heatmaps(heatmaps * factor, method)
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_maps_give_float32_keypoints(method, dtype):
    centres = torch.tensor([[[40.3, 10.6]]])
    heatmaps = render_heatmaps(centres, (64, 64))
    keypoints, scores = decode_heatmaps(heatmaps.to(dtype), method)
    assert keypoints.dtype == scores.dtype == torch.float32
    assert (keypoints - centres).abs().amax() <= LARGEST_ERROR[method] + 0.01


def test_decoding_does_not_modify_its_input():
    heatmaps = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    heatmaps[0, 0, 0, 0] = math.nan
    before = heatmaps.clone()
    for method in METHODS:
        decode_heatmaps(heatmaps, method)
    assert torch.equal(heatmaps.nan_to_num(7), before.nan_to_num(7))


def test_quarter_moves_towards_the_higher_neighbour():
    heatmap = map_of([[0, 0, 0, 0, 0], [0, 1, 3, 2, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    keypoints, scores = decode_heatmaps(heatmap, "quarter")
    assert keypoints[0, 0].tolist() == [2.25, 1.25]
    assert scores[0, 0] == 3


def test_quarter_stays_between_equal_neighbours():
    keypoints, _ = decode_heatmaps(map_of([[0, 0, 0], [1, 3, 1], [0, 0, 0]]), "quarter")
    assert keypoints[0, 0].tolist() == [1, 1]


def test_soft_is_the_mean_place_over_the_pixels_there_are():
    keypoints, _ = decode_heatmaps(map_of([[4, 2, 0], [1, 0, 0], [0, 0, 0]]), "soft")
    assert keypoints[0, 0].tolist() == pytest.approx([2 / 7, 1 / 7])


@pytest.mark.parametrize("method", METHODS)
def test_a_map_of_one_row_or_column_decodes_along_it(method):
    across = map_of([[0, 1, 3, 2, 0]])
    x, y = decode_heatmaps(across, method)[0][0, 0].tolist()
    assert 2 <= x < 2.5
    assert y == 0
    assert decode_heatmaps(across.transpose(-1, -2), method)[0][0, 0].tolist() == [y, x]


@pytest.mark.parametrize("method", METHODS)
def test_the_first_of_equal_peaks_wins(method):
    heatmap = torch.zeros(1, 1, 30, 30)
    heatmap[0, 0, 5, 24] = heatmap[0, 0, 24, 5] = 1
    keypoints, _ = decode_heatmaps(heatmap, method)
    assert keypoints[0, 0].tolist() == pytest.approx([24, 5], abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("x", "y"), [(0, 0), (11, 0), (0, 9), (11, 9), (0, 4), (11, 4), (5, 0), (5, 9), (-3, 4), (14, 12)]
)
def test_peaks_on_the_border_stay_inside_and_near(method, x, y):
    heatmaps = render_heatmaps(torch.tensor([[[float(x), float(y)]]]), (10, 12))
    keypoints, _ = decode_heatmaps(heatmaps, method)
    nearest = torch.tensor([min(max(x, 0), 11), min(max(y, 0), 9)])
    assert (keypoints >= 0).all()
    assert (keypoints <= torch.tensor([11, 9])).all()
    assert (keypoints[0, 0] - nearest).abs().amax() <= (1 if method in ("soft", "mass") else 0.25)


def test_mass_prefers_a_broad_peak_to_a_higher_narrow_one():
    narrow, broad = torch.tensor([[[6.0, 20.0]]]), torch.tensor([[[25.3, 11.8]]])
    heatmaps = render_heatmaps(narrow, (32, 32), sigma=0.7) + 0.6 * render_heatmaps(broad, (32, 32), sigma=1.5)
    for method, expected in (("dark", narrow), ("mass", broad)):
        keypoints, scores = decode_heatmaps(heatmaps, method)
        assert (keypoints - expected).abs().amax() <= 0.02
        assert scores[0, 0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("method", ["dark", "mass"])
def test_a_broad_gaussian_is_found_exactly(method):
    centre = torch.tensor([[[17.3, 13.6]]])
    keypoints, _ = decode_heatmaps(render_heatmaps(centre, (32, 40), sigma=2.5), method)
    assert (keypoints - centre).abs().amax() <= 0.02


def test_dark_is_exact_along_the_border_it_lies_on():
    heatmaps = render_heatmaps(torch.tensor([[[0.0, 4.3]]]), (10, 12))
    keypoints, _ = decode_heatmaps(heatmaps, "dark")
    assert keypoints[0, 0].tolist() == pytest.approx([0, 4.3], abs=0.02)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, math.nan, math.inf, -math.inf])
def test_a_map_without_a_peak_decodes_to_its_middle_with_score_zero(method, value):
    keypoints, scores = decode_heatmaps(torch.full((1, 2, 4, 7), value), method)
    assert keypoints.tolist() == [[[3, 1.5], [3, 1.5]]]
    assert scores.tolist() == [[0, 0]]


@pytest.mark.parametrize("method", METHODS)
def test_nan_and_infinite_pixels_are_passed_over(method):
    heatmaps = render_heatmaps(torch.tensor([[[10.0, 12.0]]]), (24, 24))
    expected, _ = decode_heatmaps(heatmaps, method)
    heatmaps[0, 0, 0, 0], heatmaps[0, 0, 20, 3], heatmaps[0, 0, 1, 1] = math.nan, math.inf, -math.inf
    found, scores = decode_heatmaps(heatmaps, method)
    torch.testing.assert_close(found, expected)
    assert scores[0, 0] == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_nan_beside_the_peak_gives_a_finite_answer_near_it(method):
    heatmaps = render_heatmaps(torch.tensor([[[10.0, 12.0]]]), (24, 24))
    heatmaps[0, 0, 12, 11] = math.nan
    keypoints, _ = decode_heatmaps(heatmaps, method)
    assert (keypoints[0, 0] - torch.tensor([10.0, 12.0])).abs().amax() <= 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (1, 1, 1, 1), (1, 1, 1, 5)])
def test_empty_batches_and_smallest_maps(method, shape):
    keypoints, scores = decode_heatmaps(torch.ones(shape), method)
    assert keypoints.shape == (*shape[:2], 2)
    assert scores.shape == shape[:2]
    assert keypoints.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_negative_maps_still_find_their_highest_pixel(method):
    heatmaps = render_heatmaps(torch.tensor([[[3.0, 5.0]]]), (9, 9)) - 10
    keypoints, scores = decode_heatmaps(heatmaps, method)
    assert (keypoints[0, 0] - torch.tensor([3.0, 5.0])).abs().amax() <= 0.26
    assert scores[0, 0] == -9


@pytest.mark.parametrize(
    ("heatmaps", "method", "match"),
    [
        (torch.zeros(3, 4, 4), "dark", r"\(B, K, H, W\)"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.int32), "dark", "floating point"),
        (torch.zeros(1, 3, 0, 4), "dark", "at least one pixel"),
        (torch.zeros(1, 3, 4, 4), "darkest", "argmax, quarter, dark, soft, mass"),
    ],
)
def test_decoding_refuses_bad_input(heatmaps, method, match):
    with pytest.raises(ValueError, match=match):
        decode_heatmaps(heatmaps, method)


@pytest.mark.parametrize("method", METHODS)
def test_decoders_export_with_a_dynamic_batch(method):
    class Decoder(torch.nn.Module):
        def forward(self, heatmaps):
            return decode_heatmaps(heatmaps, method)

    example = render_heatmaps(torch.rand(2, 3, 2) * 10, (12, 12))
    exported = torch.export.export(
        Decoder(), (example,), dynamic_shapes={"heatmaps": {0: torch.export.Dim("batch", min=1, max=64)}}
    )
    other = render_heatmaps(torch.rand(5, 3, 2) * 10, (12, 12))
    torch.testing.assert_close(exported.module()(other), decode_heatmaps(other, method))


def test_flipping_needs_no_pixel_shift():
    """Mirror the image's keypoints, render, flip the maps back: the same heatmaps, to rounding."""
    width = 48
    keypoints = 5 + torch.rand(4, 16, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 35
    mirrored = keypoints[:, list(MPII.mirror)].clone()
    mirrored[..., 0] = (width - 1) - mirrored[..., 0]
    original = render_heatmaps(keypoints, (64, width))
    torch.testing.assert_close(flip_heatmaps(render_heatmaps(mirrored, (64, width)), MPII.mirror), original)


def test_flipping_twice_changes_nothing():
    heatmaps = torch.rand(2, 16, 6, 5)
    assert torch.equal(flip_heatmaps(flip_heatmaps(heatmaps, MPII.mirror), MPII.mirror), heatmaps)


@pytest.mark.parametrize("mirror", [(0, 1), (0, 0, 1), (1, 2, 3)])
def test_flipping_refuses_a_mirror_of_other_keypoints(mirror):
    with pytest.raises(
        ValueError, match=rf"mirror must hold .* got {re.escape(str(list(mirror)))} and heatmaps \(1, 3,"
    ):
        flip_heatmaps(torch.zeros(1, 3, 4, 4), mirror)


def test_the_softmax_of_a_log_gaussian_is_that_gaussian():
    heatmaps = render_heatmaps(torch.tensor([[[20.2, 31.9]]], dtype=torch.float64), (64, 64), sigma=2.0)
    torch.testing.assert_close(spatial_softmax(heatmaps.log() + 5, sigma=2.0), heatmaps, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_broken_map_changes_no_other(method, bad):
    torch.manual_seed(0)
    heatmaps = torch.randint(0, 4, (3, 5, 9, 7)).float()  # with many equal peaks
    heatmaps[1, 2] = 1.0
    expected = decode_heatmaps(heatmaps, method)
    heatmaps[2, 4, 3, 3] = bad
    for found, whole in zip(decode_heatmaps(heatmaps, method), expected, strict=True):
        assert torch.equal(found.flatten(0, 1)[:-1], whole.flatten(0, 1)[:-1])
    flat = heatmaps[:2].flatten(2)
    first = (flat == flat.amax(dim=2, keepdim=True)).int().argmax(dim=2)
    if method == "argmax":
        peaks = torch.stack((first % 7, first // 7), dim=-1).float()
        peaks[1, 2] = torch.tensor([3.0, 4.0])  # all equal: the middle
        assert torch.equal(expected[0][:2], peaks)
