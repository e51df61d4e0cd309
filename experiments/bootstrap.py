"""Paired bootstrap over pictures: confidence intervals of figures and of their differences.

All sources use the same draws, so the interval of a difference is paired. Thresholds are those
chosen on the whole set; they are not chosen again per draw.

Legend: P pictures, C columns of counts, D draws.
"""

from typing import NamedTuple

import numpy as np

from experiments.judging import ratios


class Interval(NamedTuple):
    """A value with its 95 % bootstrap interval; NaN where nothing was counted."""

    value: float
    low: float
    high: float


def draw_weights(num_pictures: int, *, num_draws: int, seed: int) -> np.ndarray:
    """Draw the number of times that each draw contains each picture: (D, P)."""
    rng = np.random.default_rng(seed)
    shares = np.full(num_pictures, 1 / num_pictures)
    return rng.multinomial(num_pictures, shares, size=num_draws).astype(np.float64)


def figure_intervals(counts: np.ndarray, weights: np.ndarray) -> dict[str, Interval]:
    """Return every figure of one source with its interval: (P, C), (D, P) -> figure -> interval."""
    whole, drawn = ratios(counts.sum(axis=0)), ratios(weights @ counts)
    return {name: _interval(float(whole[name]), drawn[name]) for name in whole}


def difference_intervals(
    first: np.ndarray, second: np.ndarray, weights: np.ndarray
) -> dict[str, Interval]:
    """Return every figure of the first source minus that of the second, on the same draws."""
    whole_first, whole_second = ratios(first.sum(axis=0)), ratios(second.sum(axis=0))
    drawn_first, drawn_second = ratios(weights @ first), ratios(weights @ second)
    return {
        name: _interval(
            float(whole_first[name] - whole_second[name]), drawn_first[name] - drawn_second[name]
        )
        for name in whole_first
    }


def _interval(value: float, drawn: np.ndarray) -> Interval:
    drawn = drawn[~np.isnan(drawn)]
    if not drawn.size:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value, float(low), float(high))
