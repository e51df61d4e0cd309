"""Cores of a process, child processes, free ports, and the collector during imports."""

import os
import socket
import subprocess
import sys

import pytest

from unspoken import process


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Fake four usable threads on two cores; return the folder for the quota file `cpu.max`."""
    monkeypatch.setattr(process, "_CPUS", tmp_path)
    monkeypatch.setattr(process, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    for cpu in range(4):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu % 2},{cpu % 2 + 2}\n")
    return tmp_path


def test_two_threads_of_one_core_count_once(machine):
    assert process.num_cores() == 2


def test_only_cores_that_are_ours_count(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3})
    assert process.num_cores() == 1


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000\n", 2), ("100000 100000\n", 1), ("50000 100000\n", 1)]
)
def test_a_containers_quota_counts(machine, quota, cores):
    (machine / "cpu.max").write_text(quota)
    assert process.num_cores() == cores


def test_a_system_that_says_nothing_is_counted_by_its_processors(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_CPUS", tmp_path / "nowhere")
    assert process.num_cores() == 4


INTERRUPTED = """
import os, signal, sys
from unspoken.process import start_child
signal.signal(signal.SIGTERM, signal.default_int_handler)
os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGTERM))
children = []
try:
    start_child(["sleep", "600"], children.append)
except KeyboardInterrupt:
    print("interrupted", len(children))
"""


def test_where_sockets_of_a_process_cannot_be_seen_it_is_taken_for_the_owner_of_its_port():
    child = subprocess.Popen(["true"])
    child.wait()
    assert process.listens_on(child.pid, 1)


def test_a_signal_that_comes_while_a_child_is_started_is_not_lost():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("interrupted 1\n", "")


def test_a_free_port_can_be_bound():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", process.free_port()))


def test_the_collector_runs_again_after_imports_and_does_not_visit_what_they_created():
    program = """
import gc
from unspoken.process import collector_paused
with collector_paused():
    assert not gc.isenabled()
    kept = [[] for _ in range(1000)]
assert gc.isenabled() and gc.get_freeze_count() >= 1000
"""
    subprocess.run([sys.executable, "-c", program], check=True)
