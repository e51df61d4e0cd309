"""Prepare a network's device, and choose the dtype that it computes in.

The dtype is the one in models.yaml, or the one that a probe finds faster here.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import torch
from torch.nn import functional as F

from unspoken.errors import InvalidConfig

PROBE_SIZES = ((256, 2048), (768, 3072), (3072, 768))
"""(inputs, outputs) of probed layers: an MLP of Grounding-DINO's encoder, both of a SAM ViT-B's."""
PROBE_ROWS = (8, 128)
"""Rows per product, few first: without a native kernel, many rows take seconds."""
PROBE_ROUNDS = 3
MIN_SPEEDUP = 1.2
"""A smaller speed-up does not justify the loss of precision."""
MAX_SLOWDOWN = 1.5
"""The probe stops at a layer where bfloat16 takes this many times as long as float32."""


def prepare_device(name: str) -> None:
    """Check that torch can use a device, and disable TF32 for float32 convolutions there.

    By default cuDNN rounds the inputs of float32 convolutions to TF32, so a GPU would answer
    otherwise than the CPU. Raises InvalidConfig before any weights are read.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise InvalidConfig(
            f"no device {name} here ({reason}): set UNSPOKEN_DEVICE, or device in models.yaml"
        ) from error
    torch.backends.cudnn.allow_tf32 = False


def compute_dtype(name: str, *, device: str) -> torch.dtype:
    """Return the dtype named in models.yaml; `auto` means `faster_dtype`. Raises InvalidConfig."""
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
    """Return bfloat16 if linear layers are faster in it on this processor, else float32.

    Measured once per process, in at most 0.3 s. Without avx512_bf16 or AMX, bfloat16 is emulated
    and slower. Devices other than the CPU use float32, because they have not been measured.
    """
    if torch.device(device).type != "cpu":
        return torch.float32
    with _one_thread():
        for rows in PROBE_ROWS:
            plain_s = short_s = 0.0
            for size in PROBE_SIZES:
                plain_s += _linear_s(torch.float32, rows, size)
                short_s += _linear_s(torch.bfloat16, rows, size)
                if short_s > MAX_SLOWDOWN * plain_s:
                    return torch.float32
        return torch.bfloat16 if plain_s >= MIN_SPEEDUP * short_s else torch.float32


def computing_in(dtype: torch.dtype, *, device: str) -> AbstractContextManager[object]:
    """Return a context that runs products and convolutions in `dtype` (autocast).

    Operations that need more precision stay in float32.
    """
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use only the calling thread in the block.

    On a busy processor, threads that wait for each other use CPU time and hide the difference.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def _linear_s(dtype: torch.dtype, rows: int, size: tuple[int, int]) -> float:
    """Return the CPU seconds of this thread for a linear layer: the best of PROBE_ROUNDS calls."""
    inputs, outputs = size
    values, weight = torch.ones(rows, inputs, dtype=dtype), torch.ones(outputs, inputs, dtype=dtype)
    taken_s = []
    for _ in range(PROBE_ROUNDS):
        started_s = time.thread_time()
        F.linear(values, weight)
        taken_s.append(time.thread_time() - started_s)
    return min(taken_s)
