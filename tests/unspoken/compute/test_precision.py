import os
import subprocess
import sys

import pytest
import torch

from unspoken.compute import precision
from unspoken.compute.precision import compute_dtype, computing_in, faster_dtype
from unspoken.errors import InvalidConfig

PROBE_PROCESS = """
import time
import torch
from unspoken.compute.precision import faster_dtype
started_s = time.process_time()
dtype = faster_dtype("cpu")
print(dtype, time.process_time() - started_s)
"""


@pytest.fixture
def products(monkeypatch):
    """Set the seconds of a layer by type, and clear the probe's cache."""
    taken_s = {torch.float32: 1.0, torch.bfloat16: 1.0}
    monkeypatch.setattr(precision, "_linear_s", lambda dtype, _rows, _size: taken_s[dtype])
    faster_dtype.cache_clear()
    yield taken_s
    faster_dtype.cache_clear()


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_a_named_type_is_taken_as_it_is(name):
    assert compute_dtype(name, device="cpu") == getattr(torch, name)


def test_another_name_is_refused_with_those_there_are():
    with pytest.raises(InvalidConfig, match="float32, float16, bfloat16 or auto"):
        compute_dtype("int8", device="cpu")


@pytest.mark.parametrize(
    ("bfloat16_s", "expected"), [(0.4, torch.bfloat16), (0.95, torch.float32), (3, torch.float32)]
)
def test_auto_is_bfloat16_only_where_that_is_clearly_faster(products, bfloat16_s, expected):
    products[torch.bfloat16] = bfloat16_s
    assert compute_dtype("auto", device="cpu") == expected


def test_auto_is_float32_on_a_device_that_was_never_measured(products):
    products[torch.bfloat16] = 0.1
    assert compute_dtype("auto", device="cuda:0") == torch.float32


def test_the_probe_runs_on_this_machine():
    threads = torch.get_num_threads()
    faster_dtype.cache_clear()
    assert faster_dtype("cpu") in (torch.float32, torch.bfloat16)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("isa", ["AVX2", "ALL"])
def test_the_probe_takes_no_more_than_0_3_cpu_seconds_with_and_without_bfloat16(isa):
    # AVX2 has no bfloat16 instructions; ALL allows all instructions of this processor.
    told = subprocess.run(
        [sys.executable, "-c", PROBE_PROCESS],
        env={
            "ONEDNN_MAX_CPU_ISA": isa,
            "OMP_NUM_THREADS": "2",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    dtype, taken_s = told.stdout.split()
    assert float(taken_s) <= 0.3
    assert isa == "ALL" or dtype == "torch.float32"


def test_products_are_of_the_type_within_the_block_only():
    one = torch.ones(4, 4)
    with computing_in(torch.bfloat16, device="cpu"):
        assert (one @ one).dtype == torch.bfloat16
    with computing_in(torch.float32, device="cpu"):
        assert (one @ one).dtype == torch.float32
