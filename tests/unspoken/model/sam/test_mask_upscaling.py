"""Upscaling of masks to the picture's size: like SAM, or along the picture's edges."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unspoken.model.sam.config import sam_config
from unspoken.model.sam.mask_upscaling import MaskUpscaler

PLAIN = sam_config("tiny")  # 64 px, mask logits of 32 x 32
REFINING = replace(PLAIN, refines_masks=True)


def two_colours(size_hw: tuple[int, int], edge: int) -> np.ndarray:
    """Draw a picture that is dark left of a column and light right of it."""
    pixels = np.full((*size_hw, 3), 40, dtype=np.uint8)
    pixels[:, edge:] = 210
    return pixels


def logits_of(share: torch.Tensor) -> torch.Tensor:
    """Convert shares to logits that are positive above one half."""
    return 4 * (share - 0.5)


def test_without_refinement_masks_are_the_logits_signs():
    upscaler = MaskUpscaler.of(two_colours((64, 64), 31), PLAIN)
    logits = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert upscaler.guide is None and upscaler.num_bytes == 0
    assert torch.equal(
        upscaler.masks(logits), upscaler.frame.logits_to_original(logits[None])[0] > 0
    )


@pytest.mark.parametrize("size_hw", [(64, 64), (48, 60)])
def test_a_ragged_mask_follows_the_edge_that_it_runs_along(size_hw):
    pixels = two_colours(size_hw, 31)
    truth = torch.from_numpy(pixels[:, :, 0] == 40)
    noise = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    columns = torch.arange(32)[None] + 1.5 * noise  # a column is two pixels
    ragged = logits_of((columns < 31 / size_hw[1] * 32).float())[None]

    def wrong(upscaler: MaskUpscaler) -> int:
        return int((upscaler.masks(ragged)[0] != truth).sum())

    before = wrong(MaskUpscaler.of(pixels, PLAIN))
    after = wrong(MaskUpscaler.of(pixels, REFINING))
    assert before > 100 and after < before / 5


def test_where_a_picture_has_one_colour_a_masks_edge_moves_little():
    upscaler = MaskUpscaler.of(np.full((64, 64, 3), 128, dtype=np.uint8), REFINING)
    half = logits_of((torch.arange(32) < 16).float().expand(1, 32, 32))
    plain = upscaler.frame.logits_to_original(half[None])[0] > 0
    assert (upscaler.masks(half) != plain).any(1).sum() <= 2  # columns of 64


def test_masks_do_not_depend_on_each_other():
    upscaler = MaskUpscaler.of(two_colours((40, 64), 20), REFINING)
    logits = torch.randn(5, 32, 32, generator=torch.Generator().manual_seed(2))
    together = upscaler.masks(logits)
    assert together.shape == (5, 40, 64) and together.dtype == torch.bool
    for number in range(5):
        assert torch.equal(upscaler.masks(logits[number : number + 1])[0], together[number])


def test_the_guide_of_a_large_picture_is_what_the_network_sees_of_it():
    upscaler = MaskUpscaler.of(two_colours((300, 400), 200), REFINING)
    assert upscaler.guide is not None and upscaler.guide.shape == (3, 48, 64)
    assert upscaler.num_bytes == 3 * 48 * 64
    assert upscaler.masks(torch.zeros(2, 32, 32)).shape == (2, 300, 400)
