"""Richness of a set of labels: number and evenness of distinct labels.

All functions take counts: the number of boxes of each label.
"""

import math
from collections.abc import Sequence

import numpy as np

MIN_ZIPF_RANK = 10
"""Lower ranks are skipped, because the few most common words deviate from every law."""
_MAX_EXPONENT = 10.0


def rarefied_size(counts: Sequence[int], size: int) -> float:
    """Return the expected number of distinct labels among `size` boxes, without replacement.

    Hurlbert's rarefaction: the sum over labels of 1 - C(N - n_i, size) / C(N, size). NaN if there
    are fewer than `size` boxes.
    """
    total = sum(counts)
    if size > total:
        return math.nan
    whole = _log_choose(total, size)
    absent = (
        math.exp(_log_choose(total - count, size) - whole) if total - count >= size else 0.0
        for count in counts
    )
    return len(counts) - sum(absent)


def type_token_curve(counts: Sequence[int], *, num_points: int = 40) -> list[tuple[int, float]]:
    """Return (boxes, expected distinct labels) pairs, evenly spaced from one box to all."""
    total = sum(counts)
    sizes = sorted({round(size) for size in np.linspace(1, total, num_points)}) if total else []
    return [(size, rarefied_size(counts, size)) for size in sizes]


def zipf_exponent(counts: Sequence[int], *, min_rank: int = MIN_ZIPF_RANK) -> float:
    """Estimate s of p(rank) ~ rank^-s over the ranks from `min_rank` on, by maximum likelihood.

    NaN if fewer than ten labels are left.
    """
    ordered = np.sort(np.asarray(counts, dtype=np.float64))[::-1][min_rank - 1 :]
    if len(ordered) < 10:
        return math.nan
    log_ranks = np.log(np.arange(min_rank, min_rank + len(ordered)))
    mean_log_rank = float((ordered * log_ranks).sum() / ordered.sum())

    # The likelihood is highest where the expected log rank, which falls with s, equals the observed
    # one.
    low, high = 0.0, _MAX_EXPONENT
    for _ in range(60):
        exponent = (low + high) / 2
        shares = np.exp(-exponent * log_ranks)
        if float((shares * log_ranks).sum() / shares.sum()) > mean_log_rank:
            low = exponent
        else:
            high = exponent
    return (low + high) / 2


def entropy_bits(counts: Sequence[int]) -> float:
    """Return the Shannon entropy of the labels in bits; 0 without labels."""
    shares = np.asarray([count for count in counts if count], dtype=np.float64)
    shares /= max(shares.sum(), 1.0)
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def gini(counts: Sequence[int]) -> float:
    """Return the Gini coefficient of the counts: 0 if all are equal, NaN without labels."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    if not ordered.sum():
        return math.nan
    places = np.arange(1, len(ordered) + 1)
    size = len(ordered)
    return float((2 * (places * ordered).sum() / ordered.sum() - (size + 1)) / size)


def _log_choose(total: int, size: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(size + 1) - math.lgamma(total - size + 1)
