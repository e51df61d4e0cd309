"""Conversion of SAM's weights to another grid: another patch size or another input size.

Weights trained on coarse patches are a good start for fine ones. Positions and relative positions
are interpolated, as the segment-anything package does with relative positions if sizes differ. The
new patch kernel equals resizing each new patch to the old size first (as in FlexiViT for larger
patches, arXiv:2212.08013, section 3.4), so that a uniform surface gives the same output as before.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from unspoken.errors import InvalidConfig
from unspoken.model.sam.config import SamConfig


def regrid(state: Mapping[str, Tensor], *, old: SamConfig, new: SamConfig) -> dict[str, Tensor]:
    """Convert a state dict of config `old` to one of config `new`.

    If only `new` has a stem, the result lacks the stem's weights. Raises InvalidConfig if the
    configs differ in more than the grid, the stem, `draws_boxes` and `refines_masks`.
    """
    free = {"image_size", "patch_size", "draws_boxes", "stem", "stem_size", "refines_masks"}
    if replace(old, **{name: getattr(new, name) for name in free}) != new:
        raise InvalidConfig(
            f"weights of a {old.name} cannot start a {new.name}: only the grid, the stem and the "
            "drawing of boxes may differ"
        )
    return {name: _fit(name, tensor, new) for name, tensor in state.items()}


def _fit(name: str, tensor: Tensor, new: SamConfig) -> Tensor:
    side = new.embedding_side
    if name == "image_encoder.pos_embed":  # (1, h, w, C)
        channels_first = tensor.permute(0, 3, 1, 2)
        resized = F.interpolate(channels_first, (side, side), mode="bicubic", align_corners=False)
        return resized.permute(0, 2, 3, 1).contiguous()
    if name == "image_encoder.patch_embed.proj.weight":  # (C, 3, p, p)
        resize = _resizing(new.patch_size, tensor.shape[-1])
        return (resize.T @ tensor @ resize).contiguous()
    if name.endswith((".rel_pos_h", ".rel_pos_w")):  # (2 * cells - 1, head width)
        block = int(name.split(".")[2])
        cells = side if block in new.global_attention else new.window_size
        resized = F.interpolate(tensor.T[None], 2 * cells - 1, mode="linear", align_corners=True)
        return resized[0].T.contiguous()
    return tensor


def _resizing(size: int, target: int) -> Tensor:
    """Return the (target, size) matrix that resizes a line linearly."""
    lines = torch.eye(size)[None]  # (1, size, size): one line for each of its places
    return F.interpolate(lines, target, mode="linear", align_corners=False)[0].T.contiguous()
