"""How rich a set of labels is: the words that its boxes carry, and how evenly.

All figures are of counts: how many boxes each label has.
"""

import math
from collections.abc import Sequence

import numpy as np

MIN_ZIPF_RANK = 10
"""Below it the few commonest words bend every law."""
_MAX_EXPONENT = 10.0


def rarefied_size(counts: Sequence[int], size: int) -> float:
    """Expected number of distinct labels among `size` boxes drawn without putting back.

    Hurlbert's rarefaction: the sum over labels of 1 - C(N - n_i, size) / C(N, size). NaN where
    there are fewer boxes.
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
    """(boxes, expected distinct labels), from one box to all, evenly spaced."""
    total = sum(counts)
    sizes = sorted({round(size) for size in np.linspace(1, total, num_points)}) if total else []
    return [(size, rarefied_size(counts, size)) for size in sizes]


def zipf_exponent(counts: Sequence[int], *, min_rank: int = MIN_ZIPF_RANK) -> float:
    """Exponent s of p(rank) ~ rank^-s over the ranks from `min_rank` on, by maximum likelihood.

    NaN where fewer than ten labels are left.
    """
    ordered = np.sort(np.asarray(counts, dtype=np.float64))[::-1][min_rank - 1 :]
    if len(ordered) < 10:
        return math.nan
    log_ranks = np.log(np.arange(min_rank, min_rank + len(ordered)))
    mean_log_rank = float((ordered * log_ranks).sum() / ordered.sum())

    # It is likeliest where the expected log rank is the observed one, which falls as s grows.
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
    """Shannon entropy of the labels, in bits; 0 where there are none."""
    shares = np.asarray([count for count in counts if count], dtype=np.float64)
    shares /= max(shares.sum(), 1.0)
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def gini(counts: Sequence[int]) -> float:
    """Gini coefficient of the labels' counts: 0 where all are as common; NaN without any."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    if not ordered.sum():
        return math.nan
    places = np.arange(1, len(ordered) + 1)
    size = len(ordered)
    return float((2 * (places * ordered).sum() / ordered.sum() - (size + 1)) / size)


def _log_choose(total: int, size: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(size + 1) - math.lgamma(total - size + 1)
