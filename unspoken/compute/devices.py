"""Prepare the device that a network runs on."""

import torch

from unspoken.errors import InvalidConfig


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
