"""The Segmenter port in this process: the flow of the service on an event loop of its own."""

import asyncio
import math
from collections.abc import Coroutine
from types import TracebackType
from typing import Generic, Self, TypeVar

from services.segmenter.ports import Entry, ImageEngine
from services.segmenter.segment_flow import RequestImage, SegmentFlow
from unspoken.http.batching import MAX_QUEUE_BYTES, InferenceThread
from unspoken.imaging.images import Picture
from unspoken.timings import Timings
from unspoken.wire.base import ModelInfo
from unspoken.wire.segment import ImageReply, SegmentQuestion, SegmentReply

Result = TypeVar("Result")


class LocalSegmenter(Generic[Entry]):
    """A Segmenter over an engine, without HTTP and without time limits; see unspoken.ports.

    Use it as a context manager, in one thread. Each call returns after its writes to the disk.
    """

    def __init__(self, engine: ImageEngine[Entry]) -> None:
        self._engine = engine
        self._thread = InferenceThread(name="segmenter")
        self._flow = SegmentFlow(
            engine,
            thread=self._thread,
            max_queue=1,
            max_queue_bytes=MAX_QUEUE_BYTES,
            request_timeout_s=math.inf,
        )
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.run(self._start())
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._runner.run(self._close())
        self._runner.close()
        self._thread.close()

    @property
    def model(self) -> ModelInfo:
        """See unspoken.ports.Segmenter."""
        return self._engine.model

    def add_image(self, picture: Picture, *, name: str | None = None) -> ImageReply:
        """See unspoken.ports.Segmenter."""
        return self._run(self._flow.add_image(RequestImage(picture, name=name), Timings()))

    def read_image(self, image_id: str) -> ImageReply:
        """See unspoken.ports.Segmenter."""
        return self._run(self._flow.read_image(image_id))

    def delete_image(self, image_id: str) -> None:
        """See unspoken.ports.Segmenter."""
        self._run(self._flow.delete_image(image_id))

    def segment(self, image: Picture | str, question: SegmentQuestion) -> SegmentReply:
        """See unspoken.ports.Segmenter."""
        asked = RequestImage(image_id=image) if isinstance(image, str) else RequestImage(image)
        return SegmentReply.model_validate_json(
            self._run(self._flow.segment(asked, question, Timings()))
        )

    def _run(self, request: Coroutine[None, None, Result]) -> Result:
        async def with_writes() -> Result:
            result = await request
            await self._flow.finish_writes()
            return result

        return self._runner.run(with_writes())

    async def _start(self) -> None:
        for batcher in self._flow.batchers:
            await batcher.start()

    async def _close(self) -> None:
        await self._flow.close()
        for batcher in self._flow.batchers:
            await batcher.close()
