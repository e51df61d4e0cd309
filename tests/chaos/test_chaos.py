"""The chaos suite in its short form: every fault once, on real processes; see `make chaos`."""

import pytest

from tests.chaos.campaign import Scale, run_campaign

SHORT = Scale(chunks=100, rounds=1, hold_s=(0.5, 1.5))
SEED = 5


@pytest.mark.timeout(900)
def test_whatever_is_killed_or_harmed_every_row_is_there_once_and_the_same(tmp_path):
    findings = run_campaign(tmp_path / "rig", SHORT, seed=SEED)
    assert not findings.faults, f"seed {SEED}: {findings.faults}; {findings.figures}"
