"""The chaos suite in its short form: every fault once, on real processes; see `make chaos`."""

import pytest

from tests.chaos.campaign import Scale, run_campaign
from tests.chaos.redis_memory import MAX_MIB, redis_mib

SHORT = Scale(chunks=60, rounds=1, hold_s=(0.3, 1.0))
SEED = 5


@pytest.mark.timeout(900)
def test_whatever_is_killed_or_harmed_every_row_is_there_once_and_the_same(tmp_path):
    findings = run_campaign(tmp_path / "rig", SHORT, seed=SEED)
    assert not findings.faults, f"seed {SEED}: {findings.faults}; {findings.figures}"


def test_redis_holds_little_of_a_run_of_many_rows(tmp_path):
    assert redis_mib(tmp_path, num_rows=200_000) <= MAX_MIB
