"""Refinement of coarse masks by the picture's colours, at the picture's own pixels.

`refine` calls `smooth`, `weigh_colours` and `smooth` again. `smooth` replaces each pixel's
probability by the mean of its neighbours, weighted by colour similarity, several times. This is a
bilateral filter (Tomasi and Manduchi, ICCV 1998), iterated as in PAMR (Araslanov and Roth,
arXiv:2005.08104, section 4.1). `weigh_colours` treats a colour that occurs mostly inside a mask as
evidence for it, as in GrabCut (Rother et al., SIGGRAPH 2004), with histograms instead of mixtures.

Constants were chosen on scenes that no benchmark or training uses: docs/decisions/0013.

Legend: N masks, h x w pixels.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS = 2  # pixels
SMOOTH_STD = 0.05  # of colours in 0 to 1, as a distance in three channels
ITERATIONS = 4
BINS = 16  # of each channel
HISTOGRAM_STD = 0.04  # of colours in 0 to 1
MARGIN = 0.05  # of a mask's extent: pixels farther away are not used for its histograms
SURE = 0.99  # probabilities are clamped to [1 - SURE, SURE] before their log odds


def refine(probabilities: Tensor, pixels: Tensor) -> Tensor:
    """Refine each mask separately: (N, h, w) probabilities, (3, h, w) uint8 -> (N, h, w)."""
    likeness = likeness_of(pixels)
    smoothed = smooth(probabilities, likeness)
    return smooth(weigh_colours(smoothed, pixels), likeness)


def weigh_colours(probabilities: Tensor, pixels: Tensor) -> Tensor:
    """Add colour evidence near each mask: the log odds of a colour's share inside the mask."""
    num_masks = len(probabilities)
    near = _near_masks(probabilities > 0.5)  # (N, h, w)
    bins = (pixels.long() * BINS) >> 8
    place = ((bins[0] * BINS + bins[1]) * BINS + bins[2]).flatten()  # (h * w,)

    def histogram(weights: Tensor) -> Tensor:
        counts = weights.new_zeros(num_masks, BINS**3).index_add_(1, place, weights.flatten(1))
        return _blur(counts.view(num_masks, BINS, BINS, BINS)).flatten(1)

    inside, every = histogram(probabilities * near), histogram(near.to(probabilities.dtype))
    share = (inside + 0.5) / (every + 1)
    evidence = _log_odds(share)[:, place].view_as(probabilities)
    weighed = (_log_odds(probabilities) + evidence).sigmoid()
    return torch.where(near, weighed, probabilities)


def likeness_of(pixels: Tensor) -> Tensor:
    """Return the weight of each neighbour, (3, h, w) uint8 -> (offsets, h, w); they sum to one."""
    colours = pixels.float() / 255
    around = F.pad(colours[None], (RADIUS,) * 4, mode="replicate")[0]
    weights = torch.stack(
        [
            (-((shifted - colours) ** 2).sum(0) / (2 * SMOOTH_STD**2)).exp()
            for shifted in _neighbours(around)
        ]
    )
    return weights / weights.sum(0)


def smooth(probabilities: Tensor, likeness: Tensor) -> Tensor:
    """Average probabilities over neighbours: (N, h, w), weights (offsets, h, w) -> (N, h, w)."""
    for _ in range(ITERATIONS):
        around = F.pad(probabilities[:, None], (RADIUS,) * 4, mode="replicate")[:, 0]
        probabilities = torch.zeros_like(probabilities)
        for weight, shifted in zip(likeness, _neighbours(around), strict=True):
            probabilities.addcmul_(weight, shifted)
    return probabilities


def _neighbours(around: Tensor) -> list[Tensor]:
    """Return a view of (..., h, w) for each offset, from (..., h + 2 RADIUS, w + 2 RADIUS)."""
    height, width = (length - 2 * RADIUS for length in around.shape[-2:])
    places = range(2 * RADIUS + 1)
    return [around[..., y : y + height, x : x + width] for y, x in product(places, places)]


def _near_masks(masks: Tensor) -> Tensor:
    """Return each mask's bounding rectangle with its margin, (N, h, w) bool -> (N, h, w) bool.

    The result is all False for an empty mask.
    """
    rows, columns = _near_runs(masks.any(2)), _near_runs(masks.any(1))
    return rows[:, :, None] & columns[:, None]


def _near_runs(covered: Tensor) -> Tensor:
    """Mark the cells from the first to the last True, plus the margin: (N, s) bool -> (N, s)."""
    side = covered.shape[1]
    first = covered.int().argmax(1)
    last = side - 1 - covered.flip(1).int().argmax(1)
    margin = ((last - first + 1) * MARGIN).long() + 1
    places = torch.arange(side, device=covered.device)
    near = (places >= (first - margin)[:, None]) & (places <= (last + margin)[:, None])
    return near & covered.any(1, keepdim=True)


def _blur(counts: Tensor) -> Tensor:
    """Apply a Gaussian over the three axes of (N, BINS, BINS, BINS)."""
    centres = torch.arange(BINS, device=counts.device) / BINS
    kernel = (-((centres[:, None] - centres) ** 2) / (2 * HISTOGRAM_STD**2)).exp()
    return torch.einsum("nabc,ax,by,cz->nxyz", counts, kernel, kernel, kernel)


def _log_odds(share: Tensor) -> Tensor:
    return torch.logit(share, eps=1 - SURE)
