"""Where a network computes."""

import torch

from unspoken.errors import InvalidConfig


def prepare_device(name: str) -> None:
    """Check that torch can compute on a device, and let float32 be float32 there.

    cuDNN rounds the inputs of float32 convolutions to TF32 unless told otherwise, which moved boxes
    of the small detector by up to 63 px. Raises InvalidConfig before any weights are read.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise InvalidConfig(
            f"no device {name} here ({reason}): set UNSPOKEN_DEVICE, or device in models.yaml"
        ) from error
    torch.backends.cudnn.allow_tf32 = False
