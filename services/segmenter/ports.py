"""Port of the engine behind `/segment`, with the threads that may call each method.

A service runs the network on the inference thread and everything else in other threads.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from services.segmenter.answer.planning import Detected, QueryPlan, QueryPlanner
from services.segmenter.cache.disk_tier import DiskTier, Stored
from services.segmenter.cache.embedding_cache import CacheEntry, EmbeddingCache
from unspoken.imaging.images import Picture
from unspoken.timings import Timings
from unspoken.wire.base import ModelInfo
from unspoken.wire.segment import CacheState

Entry = TypeVar("Entry", bound=CacheEntry)
AnyEntry = TypeVar("AnyEntry", bound=CacheEntry, contravariant=True)


class ReplyContent(Protocol):
    """Masks and scores of a reply that is not rendered yet."""

    def to_json(self, *, cache: CacheState, timings: Timings) -> bytes:
        """Return a SegmentReply in JSON. Any thread."""


class QueryEngine(Protocol[AnyEntry]):
    """Answers planned queries about a cached image."""

    def answer(self, entry: AnyEntry, plan: QueryPlan, detected: Detected | None) -> ReplyContent:
        """Return the masks of all queries; method `bank` needs the bank. Inference thread."""


class ImageEngine(Protocol[Entry]):
    """Encodes images, builds their mask banks and answers queries.

    cache: images in memory. disk: optional second tier, which survives restarts.
    """

    cache: EmbeddingCache[Entry]
    disk: DiskTier | None
    planner: QueryPlanner

    @property
    def model(self) -> ModelInfo:
        """Name and revision of the weights."""

    @property
    def queries(self) -> QueryEngine[Entry]:
        """Answers queries about images of this engine."""

    def image_id(self, content_sha256: str) -> str:
        """Return the public id of an image from its file's digest. Any thread."""

    def embed(self, picture: Picture) -> Entry:
        """Encode an image. Inference thread."""

    def pack(self, entry: Entry) -> Mapping[str, np.ndarray]:
        """Return the arrays of a cached image to store on disk. Any thread."""

    def unpack(self, stored: Stored, *, sha256: str, size_hw: tuple[int, int]) -> Entry:
        """Restore a cached image from its arrays on disk. Any thread."""

    def bank_steps(self, entry: Entry) -> Iterator[None]:
        """Build an image's bank in steps, and set it after the last one. Inference thread."""

    def text_targets(self, texts: Sequence[str]) -> np.ndarray:
        """Return the (N, D) unit vectors that masks of these labels are trained to.

        They can be compared with the masks' vectors. Inference thread. Raises Conflict if the
        semantic head is not trained.
        """

    def warm_up(self) -> None:
        """Run every part once. Inference thread."""
