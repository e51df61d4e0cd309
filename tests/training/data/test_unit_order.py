"""The endless order of units: complete, shuffled, and the same from any place."""

import numpy as np
import pytest

from training.data.unit_order import UnitOrder
from unspoken.errors import InvalidInput

COUNTS = np.array([3, 1, 0, 4, 2])


def flat(order, start, stop):
    return [(each.picture, unit) for each in order.take(start, stop) for unit in each.units]


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(InvalidInput, match="nothing to train on"):
        UnitOrder(np.zeros(3, int), seed=0)


def test_an_epoch_has_every_unit_once():
    order = UnitOrder(COUNTS, seed=1)
    every = flat(order, 0, order.units_per_epoch)
    assert sorted(every) == [(p, u) for p, count in enumerate(COUNTS) for u in range(count)]


def test_epochs_differ_in_their_order():
    order = UnitOrder(COUNTS, seed=1)
    first, second = flat(order, 0, 10), flat(order, 10, 20)
    assert sorted(first) == sorted(second)
    assert first != second


@pytest.mark.parametrize("cut", [1, 4, 9, 10, 17])
def test_a_stretch_is_the_same_wherever_it_is_cut(cut):
    whole = flat(UnitOrder(COUNTS, seed=1), 0, 25)
    fresh = UnitOrder(COUNTS, seed=1)
    assert flat(fresh, 0, cut) + flat(fresh, cut, 25) == whole


def test_pictures_of_a_few_files_are_met_together():
    files = np.repeat(np.arange(64), 10)
    order = UnitOrder(np.ones(640, int), seed=3, files=files)
    met = [int(files[each.picture]) for each in order.take(0, 640)]
    assert len(set(met[:160])) == 16
    assert met[:160] != sorted(met[:160])
