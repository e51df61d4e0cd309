"""Calls about pictures and masks, as generators of effects; see `unspoken.client.calls`.

A picture is sent once; later requests use its id. If the gateway has removed the picture since, it
replies 404, and the picture is sent again within the same call.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from pydantic import TypeAdapter

from unspoken.client.calls import (
    Call,
    Effects,
    Exchange,
    RunBlocking,
    checked,
    checked_path,
    parsed,
)
from unspoken.client.pictures import File, ImageRef, ImageSource, KnownIds, read_file
from unspoken.client.replies import Segmentation
from unspoken.client.request_bodies import image_form, segment_body
from unspoken.errors import InvalidInput, NotFound
from unspoken.wire.segment import ImageReply, Method, SegmentQuestion, SegmentReply
from unspoken.wire.texts import EMBEDDING_DIM, MAX_TEXTS, EmbeddingSpace, TextEmbeddingsReply

_IMAGE = TypeAdapter(ImageReply)
_SEGMENT = TypeAdapter(SegmentReply)
_VECTORS = TypeAdapter(TextEmbeddingsReply)


@dataclass(frozen=True)
class Query:
    """A query: a text; or boxes and points, whose masks are then scored by the text.

    Args:
        text: The text to look for.
        boxes: (x0, y0, x1, y1) each, in pixels.
        points: (x, y) on the thing, or (x, y, 0) off it.
        negative: Texts that the thing must not match.
        threshold: Lowest score to return.
    """

    text: str | None = None
    _: KW_ONLY
    boxes: Sequence[Sequence[float]] = ()
    points: Sequence[Sequence[float]] = ()
    negative: Sequence[str] = ()
    threshold: float | None = None

    def to_wire(self) -> dict[str, object]:
        """Return the query as JSON. Raises InvalidInput for boxes and points in another form."""
        try:
            boxes = [
                dict(zip(("x0", "y0", "x1", "y1"), map(float, box), strict=True))
                for box in self.boxes
            ]
        except (TypeError, ValueError) as error:
            raise InvalidInput("a query's box is (x0, y0, x1, y1), pixels") from error
        try:
            points = [
                {"x": float(x), "y": float(y), "label": int(*label) if label else 1}
                for x, y, *label in self.points
            ]
        except (TypeError, ValueError) as error:
            raise InvalidInput(
                "a query's point is (x, y), or (x, y, 0) for a point outside of the object"
            ) from error
        return {
            "text": self.text,
            "boxes": boxes,
            "points": points,
            "negative": list(self.negative),
            "threshold": self.threshold,
        }


AnyQuery: TypeAlias = str | Query


def question_of(
    queries: Sequence[AnyQuery],
    *,
    method: Method,
    masks: bool,
    embeddings: bool,
    top_k: int,
    nms_iou: float | None,
    independent: bool,
) -> SegmentQuestion:
    """Convert queries and options into a request. Raises InvalidInput."""
    asked = [_query_of(query) for query in queries]
    return checked(
        SegmentQuestion,
        {
            "queries": [query.to_wire() for query in asked],
            "method": method,
            "output": {
                "mask": "rle" if masks else "none",
                "embedding": embeddings,
                "top_k": top_k,
            },
            "nms_iou": nms_iou,
            "independent": independent,
        },
    )


def _query_of(query: object) -> Query:
    if isinstance(query, str):
        return Query(query)
    if not isinstance(query, Query):
        raise InvalidInput(
            f"a query is a text or a Query, got {type(query).__name__}; give each one as an "
            'argument, as in segment(picture, "a dog", "a wheel"), and a list as *queries'
        )
    return query


class ImageCalls:
    """The calls about pictures, shared by all calls and threads of a client."""

    def __init__(self, begin: Callable[[], Exchange]) -> None:
        self._begin = begin
        self._known = KnownIds()

    def segment(self, image: ImageSource, question: SegmentQuestion) -> Effects[Segmentation]:
        """Return masks. Raises NotFound for an id without a file that is not cached."""
        exchange = self._begin()
        file, image_id = yield from self._look_up(image)
        return (yield from self._segment(exchange, question, file, image_id))

    def add_image(self, image: ImageSource, *, name: str | None, bank: bool) -> Effects[ImageRef]:
        """Send a picture in advance; with `bank`, also have its mask bank built."""
        exchange = self._begin()
        file = yield RunBlocking(partial(read_file, image))
        call = Call(method="POST", path="/images", body=image_form(file.encoded, name=name))
        reply = parsed(_IMAGE, (yield from exchange.send(call)))
        self._known.put(file.sha256, reply.id)
        if bank and not reply.bank_ready:
            question = SegmentQuestion(queries=(), method="bank")
            yield from self._segment(exchange, question, file, reply.id)
            reply = reply.model_copy(update={"bank_ready": True})
        return ImageRef.of(reply, file)

    def find_image(self, id_or_name: str) -> Effects[ImageRef]:
        """Return a cached image. Raises NotFound."""
        call = Call(method="GET", path=checked_path("images", id_or_name))
        return ImageRef.of(parsed(_IMAGE, (yield from self._begin().send(call))), None)

    def delete_image(self, image: ImageRef | str) -> Effects[None]:
        """Remove a picture from memory and disk. Raises NotFound."""
        image_id = image.id if isinstance(image, ImageRef) else image
        call = Call(method="DELETE", path=checked_path("images", image_id))
        yield from self._begin().send(call)

    def embed_texts(self, texts: Sequence[str], *, space: EmbeddingSpace) -> Effects[np.ndarray]:
        """Return (N, 768) float32 unit vectors in the space."""
        exchange = self._begin()
        rows: list[list[float]] = []
        for start in range(0, len(texts), MAX_TEXTS):
            body = {"phrases": list(texts[start : start + MAX_TEXTS]), "space": space}
            call = Call(method="POST", path="/text-embeddings", body={"json": body})
            rows += parsed(_VECTORS, (yield from exchange.send(call))).embeddings
        return np.asarray(rows, dtype=np.float32).reshape(len(texts), EMBEDDING_DIM)

    def _segment(
        self, exchange: Exchange, question: SegmentQuestion, file: File | None, image_id: str | None
    ) -> Effects[Segmentation]:
        """Ask by id; send the picture itself if its id is unknown or outdated."""
        if image_id is not None:
            try:
                response = yield from exchange.send(_segment_call(question, image_id))
                return Segmentation.of(parsed(_SEGMENT, response))
            except NotFound:
                if file is None:
                    raise
        assert file is not None, "what has no id has a file"
        response = yield from exchange.send(_segment_call(question, file))
        answer = Segmentation.of(parsed(_SEGMENT, response))
        self._known.put(file.sha256, answer.image_id)
        return answer

    def _look_up(self, image: ImageSource) -> Effects[tuple[File | None, str | None]]:
        """Return the picture's file and its id; at least one of them is not None."""
        if isinstance(image, ImageRef):
            known = None if image.file is None else self._known.get(image.file.sha256)
            return image.file, known or image.id
        file: File = yield RunBlocking(partial(read_file, image))
        return file, self._known.get(file.sha256)


def _segment_call(question: SegmentQuestion, image: File | str) -> Call:
    sent = image if isinstance(image, str) else image.encoded
    return Call(method="POST", path="/segment", body=segment_body(sent, question))
