"""A picture as the segmenter's engine keeps it."""

from dataclasses import dataclass

from torch import Tensor

from services.segmenter.rendering import WireBank
from unspoken.model.mask_upscaling import MaskUpscaler

OVERHEAD_BYTES = 8192
"""Objects around a picture's data, and what is rounded up to pages."""


@dataclass(eq=False)
class HeldPicture:
    """Embedding, file and, once it is built, bank. See embedding_cache.Held."""

    id: str
    sha256: str
    size_hw: tuple[int, int]
    encoded: bytes
    """The file: the detector is asked about it."""
    embedding: Tensor  # (1, C, cells, cells) float16, on the CPU
    upscaler: MaskUpscaler
    bank: WireBank | None = None

    @property
    def bank_ready(self) -> bool:
        """Whether its bank is built."""
        return self.bank is not None

    @property
    def num_bytes(self) -> int:
        """Memory of embedding, file, guide and bank, and of what is around them."""
        bank_bytes = 0 if self.bank is None else self.bank.num_bytes
        own_bytes = self.embedding.nbytes + len(self.encoded) + self.upscaler.num_bytes
        return OVERHEAD_BYTES + own_bytes + bank_bytes
