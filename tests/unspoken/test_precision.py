import pytest
import torch

from unspoken import precision
from unspoken.errors import InvalidConfig
from unspoken.precision import compute_dtype, computing_in, faster_dtype


@pytest.fixture
def products(monkeypatch):
    """Seconds that a product takes by type; the probe remembers its answer no longer."""
    taken_s = {torch.float32: 1.0, torch.bfloat16: 1.0}
    monkeypatch.setattr(precision, "_product_s", taken_s.__getitem__)
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
    faster_dtype.cache_clear()
    assert faster_dtype("cpu") in (torch.float32, torch.bfloat16)


def test_products_are_of_the_type_within_the_block_only():
    one = torch.ones(4, 4)
    with computing_in(torch.bfloat16, device="cpu"):
        assert (one @ one).dtype == torch.bfloat16
    with computing_in(torch.float32, device="cpu"):
        assert (one @ one).dtype == torch.float32
