"""A convolutional stem beside SAM's image encoder: what every point looks like, and fine edges.

A transformer of this size that starts from nothing learns masks from a few thousand pictures, and
hardly what things are called; its patches are as wide as many parts. The first layers of the small
detector's backbone know names (a linear readout names half of the objects) and see every other
pixel. So they stand beside the small encoder and rest, and mixes of them learn: at stride 8 added
to the embedding, at strides 4 and 2 folded into further channels of it, for the decoder to add
while it makes masks larger, as SAM 2 does (arXiv:2408.00714, section 4). Figures:
docs/decisions/0007.

Legend: B pictures, S side of the network's input, h = S / STRIDE cells, C width of the decoder.
"""

from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

STRIDE = 8
STEM = "resnet10t"
STEM_PREFIX = "image_encoder.stem."
MIX_PREFIX = "image_encoder.mix"
MIX_START = 0.5
_DETECTOR_MEAN, _DETECTOR_STD = 127.5, 63.75  # of 0 to 255, as the backbone was trained

Colour = tuple[float, float, float]


class FineFeatures(NamedTuple):
    """What the decoder adds while it upscales."""

    of_stride_4: Tensor  # (B, C / 4, 2h, 2w)
    of_stride_2: Tensor  # (B, C / 8, 4h, 4w)


class StemmedImageEncoder(ImageEncoderViT):  # type: ignore[misc]
    """The package's ViT with the stem's features in and beside its embedding.

    mean, std: of SAM's normal colours; stem_size: the side that the stem sees, if another. The
    other arguments are the package's own.
    """

    def __init__(
        self, *, mean: Colour, std: Colour, stem_size: int | None, out_chans: int, **sizes: Any
    ) -> None:
        super().__init__(out_chans=out_chans, **sizes)
        self._stem_size = stem_size
        self.stem = build_stem()
        fine, middle, coarse = self.stem.feature_info.channels()
        self.mix = nn.Conv2d(coarse, out_chans, 1)
        self.mix_4 = nn.Conv2d(middle, out_chans // 4, 1)
        self.mix_2 = nn.Conv2d(fine, out_chans // 8, 1)
        self.start_mixes()
        # From SAM's normal colours to the backbone's.
        gain = torch.tensor(std) / _DETECTOR_STD
        shift = (torch.tensor(mean) - _DETECTOR_MEAN) / _DETECTOR_STD
        self.register_buffer("gain", gain.view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(-1, 1, 1), persistent=False)

    @torch.no_grad()
    def start_mixes(self) -> None:
        """Half of the coarse features as they are; nothing of the fine ones until they learn."""
        for mix in (self.mix, self.mix_4, self.mix_2):
            nn.init.zeros_(mix.weight)
            nn.init.zeros_(mix.bias)  # type: ignore[arg-type]
        nn.init.eye_(self.mix.weight[:, :, 0, 0]).mul_(MIX_START)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) in SAM's normal colours -> (B, 4C, h, h): see `split_embedding`."""
        seen = x if self._stem_size is None else _resize(x, self._stem_size)
        with torch.no_grad():
            fine, middle, coarse = self.stem(seen * self.gain + self.shift)
        cells = x.shape[-1] // STRIDE
        return torch.cat(
            [
                super().forward(x) + _resize(self.mix(coarse), cells),
                F.pixel_unshuffle(_resize(self.mix_4(middle), 2 * cells), 2),
                F.pixel_unshuffle(_resize(self.mix_2(fine), 4 * cells), 4),
            ],
            dim=1,
        )


def split_embedding(embedding: Tensor) -> tuple[Tensor, FineFeatures]:
    """(B, 4C, h, w) of a `StemmedImageEncoder` -> SAM's embedding (B, C, h, w), and the rest."""
    width = embedding.shape[1] // 4
    coarse, middle, fine = torch.split(embedding, [width, width, 2 * width], dim=1)
    return coarse, FineFeatures(F.pixel_shuffle(middle, 2), F.pixel_shuffle(fine, 4))


def _resize(planes: Tensor, side: int) -> Tensor:
    """(B, C, s, s) -> (B, C, side, side); as they are where the sides are the same."""
    if planes.shape[-1] == side:
        return planes
    # torch has no such resize in bfloat16 on CPUs.
    resized = F.interpolate(
        planes.float(), (side, side), mode="bilinear", align_corners=False, antialias=True
    )
    return resized.to(planes.dtype)


def build_stem() -> Any:
    """The first layers of a timm network with batch norms that rest: strides 2, 4 and 8."""
    stem = timm.create_model(STEM, features_only=True, out_indices=(0, 1, 2), pretrained=False)
    return freeze_batch_norm_2d(stem).requires_grad_(requires_grad=False)
