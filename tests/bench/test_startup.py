import subprocess
import sys

import psutil
import pytest

from bench.startup import best_cpu_s, wait_until


def test_cpu_seconds_of_help_are_measured():
    assert 0 < best_cpu_s("--help") < 5


def test_a_process_that_ends_before_it_is_ready_ends_the_bench():
    with (
        subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process,
        pytest.raises(SystemExit, match="did not become ready"),
    ):
        wait_until(lambda: False, psutil.Process(process.pid))
