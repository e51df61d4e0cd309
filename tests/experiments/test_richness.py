import math
from itertools import pairwise

import numpy as np
import pytest

from experiments.richness import (
    entropy_bits,
    gini,
    rarefied_size,
    type_token_curve,
    zipf_exponent,
)


def test_one_box_has_one_label_and_all_boxes_all():
    assert rarefied_size([5, 3, 2], 1) == pytest.approx(1)
    assert rarefied_size([5, 3, 2], 10) == pytest.approx(3)
    assert math.isnan(rarefied_size([5, 3, 2], 11))


def test_rarefaction_is_the_mean_of_draws():
    labels = np.repeat(np.arange(4), [8, 4, 2, 1])
    rng = np.random.default_rng(0)
    drawn = [len(set(rng.choice(labels, 5, replace=False))) for _ in range(4000)]
    assert rarefied_size([8, 4, 2, 1], 5) == pytest.approx(np.mean(drawn), abs=0.05)


def test_the_curve_rises_from_one_to_all():
    curve = type_token_curve([8, 4, 2, 1], num_points=5)
    assert curve[0] == (1, pytest.approx(1))
    assert curve[-1] == (15, pytest.approx(4))
    assert all(low[1] < high[1] for low, high in pairwise(curve))
    assert type_token_curve([]) == []


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.6])
def test_the_exponent_of_a_power_law_is_found_again(exponent):
    counts = [1e6 * rank**-exponent for rank in range(1, 400)]
    assert zipf_exponent(counts) == pytest.approx(exponent, abs=1e-3)


def test_few_labels_have_no_exponent():
    assert math.isnan(zipf_exponent([3] * 18))


def test_entropy_and_gini_tell_even_from_uneven():
    assert entropy_bits([5, 5, 5, 5]) == pytest.approx(2)
    assert entropy_bits([7]) == 0
    assert entropy_bits([]) == 0
    assert gini([5, 5, 5, 5]) == pytest.approx(0)
    assert gini([0, 0, 0, 8]) == pytest.approx(0.75)
    assert math.isnan(gini([]))
