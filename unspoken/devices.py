"""Where a network computes."""

import torch

from unspoken.errors import InvalidConfig


def check_device(name: str) -> None:
    """Raise InvalidConfig unless this torch can put a tensor there, before any weights are read."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise InvalidConfig(
            f"no device {name} here ({reason}): set UNSPOKEN_DEVICE, or device in models.yaml"
        ) from error
