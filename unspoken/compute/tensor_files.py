"""Read and write files of tensors: checkpoints in torch's format, and safetensors.

Files are read only as tensors, without running code.
"""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unspoken.errors import InvalidConfig


def read_state_dict(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Return the state dict of a `.pth` file, or of its `model` or `state_dict` entry if present.

    `mmap`: read tensors only when they are used. Raises InvalidConfig for a file that is not a
    checkpoint, such as an HTML page or a Git LFS pointer, or that contains more than tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise InvalidConfig(
            f"{path} is not a checkpoint, or contains more than tensors; it was not loaded: {error}"
        ) from error
    # A damaged file, or one in another format, can make the unpickler raise any exception.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InvalidConfig(f"{path} cannot be read: {error.strerror}") from error
        raise InvalidConfig(
            f"{path} is not a checkpoint of tensors ({type(error).__name__}: {error})"
        ) from error
    for name in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise InvalidConfig(f"{path} contains no state dict (names with tensors)")
    return state


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to `path`, replacing an existing file. Raises OSError.

    safetensors creates files with mode 0600; this function uses the mode that the umask allows.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.touch()
        mode = draft.stat().st_mode & 0o777
        save_file(dict(tensors), draft, metadata=None if metadata is None else dict(metadata))
        draft.chmod(mode)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
