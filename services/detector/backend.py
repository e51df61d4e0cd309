"""The port between the detector engine and the code that runs a network."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from services.detector.packing import Chunk
from services.detector.scoring import RawDetections


class Backend(Protocol):
    """A Grounding-DINO network with its tokenizer and its image preprocessing."""

    @property
    def max_word_pieces(self) -> int:
        """Largest number of tokens in a text prompt, with separators and special tokens."""

    @property
    def box_threshold(self) -> float | None:
        """The threshold that the weights were calibrated to; None if their config has none."""

    def word_pieces(self, text: str) -> Sequence[int]:
        """Return the ids of a text's word pieces, without special tokens."""

    def predict(self, pixels: np.ndarray, chunks: Sequence[Chunk]) -> list[RawDetections]:
        """Return the raw detections of each chunk; the picture is encoded once.

        pixels: (H, W, 3) uint8 RGB.
        """
