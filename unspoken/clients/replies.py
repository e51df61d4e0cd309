"""What `segment` answers, as arrays: masks are decoded where they are asked for."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unspoken.errors import InvalidInput
from unspoken.schemas import ModelInfo
from unspoken.segment_schemas import Instance, RleMask, SegmentReply


@dataclass(frozen=True, eq=False)
class Found:
    """The N instances that one query found, best first; none is N = 0."""

    text: str | None
    instances: tuple[Instance, ...]
    """As they stand on the wire: box, score, predicted IoU, similarity, area, run lengths."""
    size_hw: tuple[int, int]

    def __len__(self) -> int:
        return len(self.instances)

    @property
    def scores(self) -> np.ndarray:
        """(N,) float64 in [0, 1]."""
        return np.asarray([each.score for each in self.instances], dtype=np.float64)

    @property
    def boxes_xyxy(self) -> np.ndarray:
        """(N, 4) float64 in pixels of the picture."""
        boxes = [each.box.to_list() for each in self.instances]
        return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)

    @property
    def masks(self) -> np.ndarray:
        """(N, H, W) bool in the picture's size, decoded anew each time.

        Raises InvalidInput where no masks were asked for.
        """
        # Here: a worker imports this package for its ports, and has no pycocotools.
        from unspoken.masks import decode_rle

        return decode_rle([_counts(each) for each in self.instances], self.size_hw)

    def mask(self, index: int) -> np.ndarray:
        """(H, W) bool of one instance: less memory than all at once."""
        from unspoken.masks import decode_rle

        return np.asarray(decode_rle([_counts(self.instances[index])], self.size_hw)[0])

    @property
    def embeddings(self) -> np.ndarray:
        """(N, 768) float32, unit length, in CLIP's text space.

        Raises InvalidInput where none were asked for.
        """
        vectors = [each.embedding for each in self.instances]
        if any(vector is None for vector in vectors):
            raise InvalidInput("no embeddings were asked for: segment(..., embeddings=True)")
        return np.asarray(vectors, dtype=np.float32).reshape(len(vectors), -1)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What was found in one picture: `results` has one entry a query, in the order asked."""

    image_id: str
    size_hw: tuple[int, int]
    results: tuple[Found, ...]
    method: str
    """What answered the texts: 'bank' or 'detector'; 'prompts' where there were none."""
    model: ModelInfo
    was_cached: bool
    """Whether the picture was encoded already."""
    timings_ms: Mapping[str, float]

    @classmethod
    def of(cls, reply: SegmentReply) -> "Segmentation":
        """The wire's reply."""
        size_hw = (reply.image.height, reply.image.width)
        return cls(
            image_id=reply.image.id,
            size_hw=size_hw,
            results=tuple(
                Found(result.text, tuple(result.instances), size_hw) for result in reply.results
            ),
            method=reply.method,
            model=reply.model,
            was_cached=reply.cache.hit,
            timings_ms=reply.timings_ms,
        )


def _counts(instance: Instance) -> bytes:
    if not isinstance(instance.mask, RleMask):
        raise InvalidInput("no masks were asked for: segment(..., masks=True)")
    return instance.mask.counts.encode("ascii")
