"""In which type a network computes: what models.yaml names, or what a probe finds faster here."""

import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from unspoken.errors import InvalidConfig

PROBE_MKN = (1024, 768, 3072)
"""The first product of an MLP of ViT-B over 1024 patches."""
PROBE_ROUNDS = 5
MIN_SPEEDUP = 1.2
"""Less is not worth the digits."""


def compute_dtype(name: str, *, device: str) -> torch.dtype:
    """The type that models.yaml names; `auto` is `faster_dtype`. Raises InvalidConfig."""
    match name:
        case "float32":
            return torch.float32
        case "float16":
            return torch.float16
        case "bfloat16":
            return torch.bfloat16
        case "auto":
            return faster_dtype(device)
        case _:
            raise InvalidConfig(f"dtype must be float32, float16, bfloat16 or auto, got {name!r}")


@cache
def faster_dtype(device: str) -> torch.dtype:
    """bfloat16 where this processor multiplies it faster than float32; tried once, some 0.2 s.

    Without avx512_bf16 or AMX it is emulated, and slower. Devices other than the CPU compute in
    float32 until they are measured.
    """
    if torch.device(device).type != "cpu":
        return torch.float32
    seconds = {dtype: _product_s(dtype) for dtype in (torch.float32, torch.bfloat16)}
    faster = seconds[torch.float32] >= MIN_SPEEDUP * seconds[torch.bfloat16]
    return torch.bfloat16 if faster else torch.float32


def computing_in(dtype: torch.dtype, *, device: str) -> AbstractContextManager[object]:
    """Products and convolutions in the type, what needs more digits in float32 (autocast)."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype)


def _product_s(dtype: torch.dtype) -> float:
    rows, inner, columns = PROBE_MKN
    one, other = torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype)
    taken_s = []
    for _ in range(PROBE_ROUNDS):
        started_s = time.perf_counter()
        one @ other
        taken_s.append(time.perf_counter() - started_s)
    return min(taken_s)
