import numpy as np
import pytest

from experiments.bootstrap import difference_intervals, draw_weights, figure_intervals
from experiments.judging import COLUMNS


def counts(**columns):
    length = len(next(iter(columns.values())))
    table = np.zeros((length, len(COLUMNS)))
    for name, values in columns.items():
        table[:, COLUMNS.index(name)] = values
    return table


def test_every_draw_has_as_many_pictures_and_the_same_seed_the_same_draws():
    weights = draw_weights(7, num_draws=20, seed=1)
    assert weights.shape == (20, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert (weights == draw_weights(7, num_draws=20, seed=1)).all()


def test_a_figure_is_a_ratio_of_sums_within_its_interval():
    table = counts(all_50=[1, 0, 3, 2] * 20, objects=[2, 1, 5, 2] * 20)
    figure = figure_intervals(table, draw_weights(80, num_draws=500, seed=0))["recall_50"]
    assert figure.value == pytest.approx(6 / 10)
    assert figure.low < figure.value < figure.high


def test_a_difference_is_paired_so_that_what_pictures_share_cancels():
    rng = np.random.default_rng(0)
    first, objects = rng.integers(0, 5, 200), np.full(200, 6)
    table, better = (
        counts(all_50=first, objects=objects),
        counts(all_50=first + 1, objects=objects),
    )
    weights = draw_weights(200, num_draws=300, seed=0)
    gain = difference_intervals(better, table, weights)["recall_50"]
    assert gain == pytest.approx((1 / 6, 1 / 6, 1 / 6))


def test_what_is_counted_nowhere_has_no_interval():
    figure = figure_intervals(counts(boxes=[1, 1]), draw_weights(2, num_draws=5, seed=0))
    assert np.isnan(figure["recall_50"].value)
    assert np.isnan(figure["recall_50"].low)
