import os
import subprocess
import sys

import psutil
import pytest

from bench.memory import MemoryReading, resident_sizes, tenth_means
from unspoken.errors import InvalidInput


def test_growth_compares_the_first_and_the_last_tenth_of_the_pictures():
    samples = [
        MemoryReading(0, 900),
        MemoryReading(5, 100),
        MemoryReading(10, 120),
        MemoryReading(50, 500),
        MemoryReading(95, 130),
    ]
    assert tenth_means(samples, total=100) == (110.0, 130.0)
    with pytest.raises(InvalidInput, match="too few"):
        tenth_means(samples[3:], total=100)


def test_a_process_is_known_by_the_module_that_it_runs_and_counted_with_its_children(tmp_path):
    (tmp_path / "worker.py").write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('up', flush=True)\n"
        "child.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "worker"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        sizes = resident_sizes(os.getpid())
        for each in psutil.Process(process.pid).children():
            each.kill()  # its parent then ends by itself
    assert set(sizes) == {"worker"}
    assert sizes["worker"] > 5 * 2**20
