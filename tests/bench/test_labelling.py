"""Shortfall of the pipeline's figures against the loop's, and its interval."""

from bench.labelling import shortfall, shortfall_interval
from smallworld.truth import Counts, Score


def scores(*rights: int) -> dict[str, Score]:
    """Return pictures with two judged boxes, of which the given number are right."""
    return {str(key): Score(named=Counts(n, 2, n, 2)) for key, n in enumerate(rights)}


def test_a_pipeline_that_is_as_good_falls_short_of_nothing():
    assert shortfall(scores(2, 1), scores(2, 1)) == 0
    assert shortfall_interval(scores(2, 1), scores(2, 1)) == [0, 0]


def test_the_worst_figure_counts_also_where_nothing_is_right():
    assert shortfall(scores(2, 1), scores(0, 0)) == 0.75
    assert shortfall(scores(0, 0), scores(2, 1)) == -0.75


def test_the_interval_holds_the_difference_and_is_wider_for_uneven_pictures():
    loop, pipeline = scores(*[2, 1] * 20), scores(*[1, 1] * 20)
    low, high = shortfall_interval(loop, pipeline)
    assert low <= shortfall(loop, pipeline) <= high
    assert low < high
