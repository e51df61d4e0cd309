"""Checkpoints in torch's own format: read as tensors alone, never run."""

import pickle
from pathlib import Path
from typing import Any

import torch

from unspoken.errors import InvalidConfig


def read_state_dict(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Return the state dict of a `.pth` file, out of its `model` or `state_dict` if it has one.

    mmap: do not read tensors before they are used. Raises InvalidConfig for a file that is no
    checkpoint, as a page of HTML or a Git LFS pointer is, or that holds more than tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise InvalidConfig(
            f"{path} holds more than tensors, or is no checkpoint; it is not read: {error}"
        ) from error
    # A damaged or foreign file raises whatever its bytes lead the unpickler to.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InvalidConfig(f"{path} cannot be read: {error.strerror}") from error
        raise InvalidConfig(
            f"{path} is no checkpoint of tensors ({type(error).__name__}: {error})"
        ) from error
    for name in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise InvalidConfig(f"{path} holds no state dict: names with tensors")
    return state
