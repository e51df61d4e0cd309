"""Mask refinement by the picture's colours: expected changes, and masks that must not change."""

import torch

from unspoken.model.sam.mask_refinement import likeness_of, refine, smooth, weigh_colours


def pixels_of(*columns: tuple[int, int], height: int = 20) -> torch.Tensor:
    """Draw a picture of vertical bars, each (width, grey) -> (3, height, w) uint8."""
    line = torch.cat([torch.full((width,), grey, dtype=torch.uint8) for width, grey in columns])
    return line.expand(3, height, -1).contiguous()


def test_noise_is_smoothed_within_a_colour_and_not_across_its_edge():
    pixels = pixels_of((15, 30), (15, 200))
    truth = (pixels[0] == 200).float()
    noisy = truth[None] * 0.6 + 0.2 + 0.2 * torch.randn(1, 20, 30, generator=seeded(0))
    smoothed = smooth(noisy.clamp(0, 1), likeness_of(pixels))[0]
    assert smoothed[:, 15:].std() < noisy[0, :, 15:].std() / 4
    assert smoothed[:, 14].max() < 0.4 and smoothed[:, 15].min() > 0.6


def test_a_colour_that_lies_in_the_mask_brings_its_doubtful_pixels_along():
    pixels = pixels_of((4, 90), (6, 30), (6, 30), (4, 90))  # a dark bar of twelve columns
    doubtful = torch.full((1, 20, 20), 0.05)
    doubtful[:, :, 4:16] = 0.9
    doubtful[:, :, 8:11] = 0.3  # a gap in the middle
    weighed = weigh_colours(doubtful, pixels)[0]
    assert (weighed[:, 4:16] > 0.5).all() and (weighed[:, 16:] < 0.5).all()


def test_colours_far_from_a_mask_say_nothing_and_are_not_touched():
    pixels = pixels_of((10, 30), (80, 120), (10, 30))  # the same colour again, far away
    found = torch.full((1, 20, 100), 0.02)
    found[:, 2:18, :10] = 0.95
    weighed = weigh_colours(found, pixels)
    assert torch.equal(weighed[:, :, 20:], found[:, :, 20:])


def test_an_empty_mask_stays_empty_and_a_full_one_full():
    pixels = torch.randint(0, 256, (3, 24, 24), dtype=torch.uint8, generator=seeded(1))
    assert (refine(torch.zeros(1, 24, 24), pixels) < 0.5).all()
    assert (refine(torch.ones(1, 24, 24), pixels) > 0.5).all()


def test_probabilities_stay_between_nought_and_one():
    pixels = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=seeded(2))
    refined = refine(torch.rand(4, 20, 30, generator=seeded(3)), pixels)
    assert refined.shape == (4, 20, 30) and refined.min() >= 0 and refined.max() <= 1 + 1e-6


def test_no_masks_are_refined_to_no_masks():
    assert refine(torch.zeros(0, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)).shape == (0, 8, 8)


def seeded(seed: int) -> torch.Generator:
    """Return a new random generator for each use."""
    return torch.Generator().manual_seed(seed)
