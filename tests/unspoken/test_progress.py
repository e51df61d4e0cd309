"""Rate of items over the last minutes, and progress that nobody shows."""

import pytest

from unspoken.progress import NO_PROGRESS, Rate

WINDOW_S = 300.0


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def test_the_rate_is_that_of_the_last_minutes_and_a_restart_counts_from_what_it_found():
    clock = Clock()
    rate = Rate(clock, window_s=WINDOW_S)
    rate.note(1000)
    assert rate.per_s() is None
    clock.now_s += 10
    rate.note(1040)
    assert rate.per_s() == 4
    clock.now_s += 3600  # nothing for an hour, then as quick as before
    rate.note(1040)
    for done in range(1080, 2680, 40):
        clock.now_s += 10
        rate.note(done)
    assert rate.per_s() == pytest.approx(4, rel=0.05)
    clock.now_s += 10 * WINDOW_S
    rate.note(2640)
    assert rate.per_s() == 0


def test_lost_work_is_not_a_negative_rate():
    clock = Clock()
    rate = Rate(clock, window_s=WINDOW_S)
    for done in (0, 80, 40):
        rate.note(done)
        clock.now_s += 10
    assert rate.per_s() is None


def test_progress_that_nobody_shows_costs_nothing_and_prints_nothing(capsys):
    with NO_PROGRESS.stage("writing", total=2) as stage:
        stage.advance()
        stage.advance(note="loss 1")
    assert capsys.readouterr() == ("", "")
