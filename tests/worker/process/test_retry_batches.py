from collections import Counter

import pytest

from unspoken.runs.attempts import PastAttempts
from worker.process.attempt import poison_items, retry_batches


def past(number, **suspects):
    return PastAttempts(number, number, Counter({int(k[1:]): v for k, v in suspects.items()}))


@pytest.mark.parametrize(
    ("tries", "expected"),
    [
        pytest.param(past(0), [[0, 1, 2, 3]], id="first-try"),
        pytest.param(past(1), [[0, 1, 2, 3]], id="nobody-was-under-way"),
        pytest.param(past(1, i2=1), [[2], [0, 1, 3]], id="one-suspect-goes-first-and-alone"),
        pytest.param(past(2, i1=1, i3=2), [[3], [1], [0, 2]], id="the-worst-first"),
        pytest.param(past(3, i3=3), [[0], [1], [2]], id="given-up-and-the-rest-one-by-one"),
    ],
)
def test_suspects_go_alone_and_before_the_others(tries, expected):
    assert retry_batches(4, tries) == expected


def test_many_suspects_go_in_eighths_and_are_never_begun_a_fourth_time():
    everyone = Counter(dict.fromkeys(range(80), 1))
    parts = retry_batches(80, PastAttempts(1, 1, everyone))
    assert [len(part) for part in parts] == [10] * 8
    assert poison_items(past(4, i2=3, i3=2)) == {2}
