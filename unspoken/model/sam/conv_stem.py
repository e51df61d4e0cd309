"""A frozen convolutional stem beside SAM's image encoder, for local appearance and fine edges.

A transformer of this size, trained from scratch on a few thousand pictures, learns masks but hardly
learns names, and its patches are as wide as many parts. The first layers of the small detector's
backbone encode names (a linear readout names half of the objects) and have a stride of 2. So these
layers run beside the small encoder and stay frozen, and 1 x 1 convolutions ("mixes") of their
features are trained. The mix at stride 8 is added to the embedding. Those at strides 4 and 2 become
further channels of it, which the decoder adds while it upscales masks, as in SAM 2
(arXiv:2408.00714, section 4). Figures: docs/decisions/0007.

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
    """Features that the decoder adds while it upscales masks."""

    of_stride_4: Tensor  # (B, C / 4, 2h, 2w)
    of_stride_2: Tensor  # (B, C / 8, 4h, 4w)


class StemmedImageEncoder(ImageEncoderViT):  # type: ignore[misc]
    """The package's ViT, with the stem's features added to its embedding and in further channels.

    mean, std: SAM's normalisation; stem_size: side of the stem's input, if it differs from the
    network's. The other arguments are the package's own.
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
        # Convert from SAM's normalisation to the backbone's.
        gain = torch.tensor(std) / _DETECTOR_STD
        shift = (torch.tensor(mean) - _DETECTOR_MEAN) / _DETECTOR_STD
        self.register_buffer("gain", gain.view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(-1, 1, 1), persistent=False)

    @torch.no_grad()
    def start_mixes(self) -> None:
        """Initialise the mixes: half of the coarse features, and zero for the fine ones."""
        for mix in (self.mix, self.mix_4, self.mix_2):
            nn.init.zeros_(mix.weight)
            nn.init.zeros_(mix.bias)  # type: ignore[arg-type]
        nn.init.eye_(self.mix.weight[:, :, 0, 0]).mul_(MIX_START)

    def forward(self, x: Tensor) -> Tensor:
        """Encode normalised pictures, (B, 3, S, S) -> (B, 4C, h, h): see `split_embedding`."""
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
    """Split the output of a `StemmedImageEncoder`, (B, 4C, h, w).

    Returns SAM's embedding, (B, C, h, w), and the fine features.
    """
    width = embedding.shape[1] // 4
    coarse, middle, fine = torch.split(embedding, [width, width, 2 * width], dim=1)
    return coarse, FineFeatures(F.pixel_shuffle(middle, 2), F.pixel_shuffle(fine, 4))


def _resize(planes: Tensor, side: int) -> Tensor:
    """Resize (B, C, s, s) -> (B, C, side, side); returns the input if the side is the same."""
    if planes.shape[-1] == side:
        return planes
    # Resize in float32, because torch does not support this in bfloat16 on CPUs.
    resized = F.interpolate(
        planes.float(), (side, side), mode="bilinear", align_corners=False, antialias=True
    )
    return resized.to(planes.dtype)


def build_stem() -> Any:
    """Build the first layers of a timm network, frozen with its batch norms: strides 2, 4 and 8."""
    stem = timm.create_model(STEM, features_only=True, out_indices=(0, 1, 2), pretrained=False)
    return freeze_batch_norm_2d(stem).requires_grad_(requires_grad=False)
