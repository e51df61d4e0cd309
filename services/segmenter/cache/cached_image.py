"""The cached image of the segment engine.

A module of its own because the engine imports the query methods, and both use it.
"""

from dataclasses import dataclass

from torch import Tensor

from services.segmenter.answer.rendering import WireBank
from unspoken.model.sam.mask_upscaling import MaskUpscaler

OVERHEAD_BYTES = 8192
"""Estimated overhead of one cached image: Python objects, and rounding up to memory pages."""


@dataclass(eq=False)
class CachedImage:
    """A cached image: its file, its embedding and, once built, its bank.

    See embedding_cache.CacheEntry.
    """

    id: str
    sha256: str
    size_hw: tuple[int, int]
    encoded: bytes
    """The image file, which is sent to the detector."""
    embedding: Tensor  # (1, C, cells, cells) float16, on the CPU
    upscaler: MaskUpscaler
    bank: WireBank | None = None

    @property
    def num_bytes(self) -> int:
        """Memory of the embedding, file, guide and bank in bytes, with OVERHEAD_BYTES."""
        bank_bytes = 0 if self.bank is None else self.bank.num_bytes
        own_bytes = self.embedding.nbytes + len(self.encoded) + self.upscaler.num_bytes
        return OVERHEAD_BYTES + own_bytes + bank_bytes
