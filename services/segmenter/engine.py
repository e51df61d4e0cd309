"""The text encoder engine: encodes texts and caches their vectors."""

import logging
from collections.abc import Sequence

import numpy as np
from cachetools import LRUCache

from services.segmenter.settings import SegmenterSettings
from unspoken.compute.precision import prepare_device
from unspoken.config.profiles import resolve_files
from unspoken.model.text_encoder import TextTower, load_text_tower
from unspoken.wire.base import ModelInfo
from unspoken.wire.texts import EMBEDDING_DIM

logger = logging.getLogger(__name__)


class TextEncoderEngine:
    """TextEncoder port over a text tower, with an LRU cache of vectors by text.

    Not thread-safe: call it on the inference thread only.
    """

    def __init__(
        self,
        tower: TextTower,
        *,
        model: ModelInfo,
        max_batch: int = 64,
        cache_entries: int = 16_384,
    ) -> None:
        self.model = model
        self._tower = tower
        self._max_batch = max_batch
        self._vectors: LRUCache[str, np.ndarray] = LRUCache(cache_entries)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """See unspoken.ports.TextEncoder."""
        vectors = {text: self._vectors[text] for text in texts if text in self._vectors}
        new = [text for text in dict.fromkeys(texts) if text not in vectors]
        for start in range(0, len(new), self._max_batch):
            batch = new[start : start + self._max_batch]
            rows = self._tower.encode(batch).numpy()  # (N, 768)
            # Copy the rows, because a view would keep its whole batch in memory.
            vectors.update((text, row.copy()) for text, row in zip(batch, rows, strict=True))
        if self._vectors.maxsize:
            self._vectors.update((text, vectors[text]) for text in texts)
        return np.asarray([vectors[text] for text in texts], dtype=np.float32).reshape(
            len(texts), EMBEDDING_DIM
        )


def build_engine(settings: SegmenterSettings) -> TextEncoderEngine:
    """Build the text encoder of the profile. Raises MissingWeights, InvalidConfig."""
    entry = settings.read_profile().text_encoder
    prepare_device(entry.device)
    folder = resolve_files(entry, cache_dir=settings.cache_dir)
    tower = load_text_tower(entry, folder)
    logger.info("loaded text_encoder=%s device=%s dtype=%s", entry.name, entry.device, entry.dtype)
    return TextEncoderEngine(
        tower,
        model=ModelInfo(
            name=entry.name, kind="text_encoder", revision=entry.revision, device=entry.device
        ),
        max_batch=settings.text_batch,
        cache_entries=settings.text_cache_entries,
    )
