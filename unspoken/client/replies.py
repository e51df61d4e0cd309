"""Results of `segment` as arrays. Masks are decoded on access."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unspoken.errors import InvalidInput
from unspoken.wire.base import ModelInfo
from unspoken.wire.segment import Instance, QueryResult, RleMask, SegmentReply


@dataclass(frozen=True, eq=False)
class FoundInstances:
    """The N instances that one query found; N is 0 if nothing was found.

    Instances of a text are sorted by score, descending. Instances of boxes and points are in the
    order of the prompts, and sorted by score for each prompt.
    """

    text: str | None
    instances: tuple[Instance, ...]
    """Instances as in the reply: box, score, predicted IoU, similarity, area, run lengths."""
    size_hw: tuple[int, int]
    method: str | None
    """Method that answered this query: 'bank', 'detector' or 'prompts'."""
    threshold: float | None
    """Lowest score returned."""
    error: str | None
    """The reason why this query was not answered while the others were; None if it was."""
    num_empty: int
    """Number of the detector's boxes that were dropped because their mask is empty."""

    @classmethod
    def of(cls, result: QueryResult, size_hw: tuple[int, int]) -> "FoundInstances":
        """Convert one result of a reply."""
        return cls(
            text=result.text,
            instances=tuple(result.instances),
            size_hw=size_hw,
            method=result.method,
            threshold=result.threshold,
            error=None if result.error is None else result.error.message,
            num_empty=result.num_empty,
        )

    def __len__(self) -> int:
        return len(self.instances)

    @property
    def scores(self) -> np.ndarray:
        """(N,) float64 in [0, 1]."""
        return np.asarray([each.score for each in self.instances], dtype=np.float64)

    @property
    def prompt_indices(self) -> np.ndarray:
        """(N,) int64: index of the query's box of each instance, 0 for points.

        It is -1 for instances of a query with only a text.
        """
        indices = [each.prompt_index for each in self.instances]
        return np.asarray([-1 if n is None else n for n in indices], dtype=np.int64)

    @property
    def boxes_xyxy(self) -> np.ndarray:
        """(N, 4) float64 in pixels of the picture."""
        boxes = [each.box.to_list() for each in self.instances]
        return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)

    @property
    def masks(self) -> np.ndarray:
        """(N, H, W) bool in the picture's size, decoded on each access.

        Raises InvalidInput if masks were not requested.
        """
        # Imported here, because workers import this package without pycocotools for its ports.
        from unspoken.imaging.masks import decode_rle

        return decode_rle([_counts(each) for each in self.instances], self.size_hw)

    def mask(self, index: int) -> np.ndarray:
        """Return one instance's mask, (H, W) bool; needs less memory than all masks at once."""
        from unspoken.imaging.masks import decode_rle

        return np.asarray(decode_rle([_counts(self.instances[index])], self.size_hw)[0])

    @property
    def embeddings(self) -> np.ndarray:
        """(N, 768) float32, unit length, in the segmenter's own space.

        `client.embed_texts(texts)` returns comparable vectors of texts. Raises InvalidInput if
        embeddings were not requested.
        """
        vectors = [each.embedding for each in self.instances]
        if any(vector is None for vector in vectors):
            raise InvalidInput("the reply has no embeddings: call segment(..., embeddings=True)")
        return np.asarray(vectors, dtype=np.float32).reshape(len(vectors), -1)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Results for one picture: `results` has one entry per query, in the order of the queries."""

    image_id: str
    size_hw: tuple[int, int]
    results: tuple[FoundInstances, ...]
    method: str
    """Method that answered the texts: 'bank' or 'detector'; 'prompts' if there were none."""
    model: ModelInfo
    was_cached: bool
    """True if the picture was already encoded."""
    timings_ms: Mapping[str, float]

    @classmethod
    def of(cls, reply: SegmentReply) -> "Segmentation":
        """Convert a reply."""
        size_hw = (reply.image.height, reply.image.width)
        return cls(
            image_id=reply.image.id,
            size_hw=size_hw,
            results=tuple(FoundInstances.of(result, size_hw) for result in reply.results),
            method=reply.method,
            model=reply.model,
            was_cached=reply.cache.hit,
            timings_ms=reply.timings_ms,
        )


def _counts(instance: Instance) -> bytes:
    if not isinstance(instance.mask, RleMask):
        raise InvalidInput("the reply has no masks: call segment(..., masks=True)")
    return instance.mask.counts.encode("ascii")
