import subprocess
import sys
import time

import psutil
import pytest

from bench.queue import (
    commit,
    cpu_s,
    ledger_ms_per_chunk,
    planned_run,
    resume_figures,
    whole_run_figures,
    worker_ms_per_picture,
)
from unspoken.runs.ledger import Ledger
from unspoken.runs.plan import read_plan


def test_a_planned_run_has_its_chunks_and_those_committed_hold_what_their_records_say(tmp_path):
    run_dir = planned_run(tmp_path, 6)
    commit(run_dir, range(4))
    ledger = Ledger(run_dir)
    assert len(read_plan(run_dir).chunks) == 6
    assert ledger.committed_chunks() == frozenset(range(4)) and not ledger.orphans()
    assert [ledger.past_attempts(chunk).number for chunk in range(6)] == [1, 1, 1, 1, 0, 0]


def test_the_ledgers_part_of_a_chunk_is_measured_on_chunks_that_are_really_committed(tmp_path):
    assert ledger_ms_per_chunk(tmp_path, 40, sample=10) > 0
    assert len(Ledger(tmp_path / "runs/r").committed_chunks()) == 20 + 10


def test_a_dispatcher_that_resumes_rings_for_what_is_left(tmp_path):
    assert set(resume_figures(tmp_path, 20, ticks=2)) == {"resume_s", "tick_ms"}


def test_the_cpu_of_a_process_counts_the_children_that_ended():
    burn = "sum(range(5_000_000))"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{burn}']); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, text=True
    ) as process:
        observed = psutil.Process(process.pid)
        while not observed.cpu_times().children_user:
            time.sleep(0.01)
        assert cpu_s(observed) >= observed.cpu_times().children_user > 0
        process.communicate("\n")


@pytest.mark.timeout(600)
def test_a_workers_own_time_is_measured_on_pictures_that_it_labels(tmp_path):
    assert worker_ms_per_picture(tmp_path, 8, size_px=64) > 0
    assert min(whole_run_figures(tmp_path).values()) > 0
