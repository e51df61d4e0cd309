"""What the engine asks of a network, whichever code runs it."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from services.detector.packing import Chunk
from services.detector.scoring import RawDetections


class Backend(Protocol):
    """A Grounding-DINO with its tokenizer and its way to prepare a picture."""

    @property
    def max_word_pieces(self) -> int:
        """Tokens that one text prompt may have, separators and specials included."""

    @property
    def box_threshold(self) -> float | None:
        """The threshold that the weights were calibrated to, when their config names one."""

    def word_pieces(self, text: str) -> Sequence[int]:
        """Ids of a text's word pieces, without specials."""

    def predict(self, pixels: np.ndarray, chunks: Sequence[Chunk]) -> list[RawDetections]:
        """(H, W, 3) uint8 RGB and chunks -> one answer per chunk; the picture is encoded once."""
