"""The routes `/segment` and `/images` over the stages of a segmenter.

Concurrent requests for one image encode it once. A bank is built in steps, and other requests are
served between the steps. This module does not import torch.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
from fastapi import APIRouter, Header, Path, Request, Response

from services.segmenter.cache.bank_line import BankLine
from services.segmenter.cache.single_flight import SingleFlight
from services.segmenter.stages import (
    DISK_HIT,
    HIT,
    MISS,
    Detected,
    Plan,
    StagedSegmenter,
    unknown_image,
)
from services.segmenter.wire_requests import (
    Asked,
    read_image,
    read_question,
)
from unspoken.errors import Conflict, NotAnImage, TooLarge
from unspoken.http.admission import Admission
from unspoken.http.app import in_decode_pool
from unspoken.http.batching import InferenceThread, MicroBatcher
from unspoken.http.error_replies import error_replies
from unspoken.http.url_fetch import Fetcher
from unspoken.imaging.images import Picture, decode_picture
from unspoken.logs import carried, fields
from unspoken.timings import Spent, Timings
from unspoken.wire.segment import (
    MAX_IMAGE_NAME_CHARS,
    CacheState,
    ImageReply,
    SegmentQuestion,
    SegmentReply,
)
from unspoken.wire.segment_bodies import ADDED_IMAGE, IMAGES_BODY, KNOWN_IMAGE, SEGMENT_BODY

Result = TypeVar("Result")
logger = logging.getLogger(__name__)

# Threads that wait for the detector. They are not those of the decode pool, because a detector in
# the same process decodes its images there.
DETECTIONS_AT_ONCE = 8
MAX_WRITES_BEHIND = 32
_MORE_ERRORS = error_replies(409, 502)
ImageId = Annotated[str, Path(max_length=MAX_IMAGE_NAME_CHARS)]


class Work(NamedTuple):
    """Input of the `answer` stage."""

    plan: Plan[Any]
    detected: Detected | None


class _Held(NamedTuple):
    """A cached image in memory, the tier it came from, and the time that this took."""

    held: Any
    state: CacheState
    timings: Timings


class SegmentFlow:
    """Runs requests through the stages of a segmenter; owns the batchers."""

    def __init__(
        self,
        segmenter: StagedSegmenter[Any],
        *,
        thread: InferenceThread,
        max_queue: int,
        max_queue_bytes: int,
        request_timeout_s: float,
    ) -> None:
        def batcher(
            name: str,
            run: Callable[[Any], Any],
            *,
            weigh: Callable[[Any], int] | None = None,
        ) -> MicroBatcher[Any, Any]:
            # One image at a time, because encoder and decoder gain nothing from batches on a CPU.
            return MicroBatcher(
                lambda items: [run(item) for item in items],
                name=name,
                thread=thread,
                max_batch=1,
                max_queue=max_queue,
                max_queue_bytes=max_queue_bytes,
                weigh=weigh,
            )

        self.segmenter = segmenter
        self._embedding: MicroBatcher[Picture, Any] = batcher(
            "embed", segmenter.embed, weigh=lambda picture: picture.num_bytes
        )
        self._answering: MicroBatcher[Work, Any] = batcher(
            "segment", lambda work: segmenter.answer(work.plan, work.detected)
        )
        self.banks = BankLine(
            segmenter, thread=thread, max_queue=max_queue, timeout_s=request_timeout_s
        )
        self._targets: MicroBatcher[Sequence[str], np.ndarray] = batcher(
            "text-targets", segmenter.text_targets, weigh=lambda texts: sum(map(len, texts))
        )
        self.batchers: list[MicroBatcher[Any, Any]] = [
            self._embedding,
            self._answering,
            self.banks.batcher,
            self._targets,
        ]
        self.admission = Admission(self._embedding, self._answering, max_bytes=max_queue_bytes)
        self._pictures: SingleFlight[_Held] = SingleFlight(kept=(NotAnImage, TooLarge))
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._writes: set[asyncio.Future[None]] = set()
        self.lookups = Counter({"memory": 0, "disk": 0, "none": 0})
        """Number of requested images that were found in each tier; "none": newly encoded."""
        self._detecting = ThreadPoolExecutor(DETECTIONS_AT_ONCE, thread_name_prefix="detect")
        self._timeout_s = request_timeout_s

    async def close(self) -> None:
        """Cancel banks that are being built, finish pending writes, and stop the threads."""
        await self.banks.close()
        await asyncio.gather(*self._writes, return_exceptions=True)
        self._writing.shutdown(wait=False)
        self._detecting.shutdown(wait=False)

    async def hold(self, asked: Asked, timings: Timings) -> tuple[Any, CacheState]:
        """Return the image of a request from memory or disk, or encode it.

        Raises NotFound, NotAnImage.
        """
        image_id = await self._id_of(asked)
        held = self.segmenter.cache.get(image_id)
        if held is not None:
            return self._count(asked, held, HIT)
        started = time.perf_counter()
        brought = await self._fetch(image_id, asked.encoded)
        timings.share((time.perf_counter() - started) * 1000, [brought.timings])
        return self._count(asked, brought.held, brought.state)

    async def hold_with_bank(self, asked: Asked, timings: Timings) -> tuple[Any, CacheState]:
        """Return the image of a request with its bank. Raises Overloaded, NotFound, NotAnImage."""
        image_id = await self._id_of(asked)
        held = self.segmenter.cache.get(image_id)
        if held is not None and held.bank_ready:
            return self._count(asked, held, HIT)
        started = time.perf_counter()
        brought = await self.banks.run(
            (image_id, asked.encoded is None), lambda: self._fetch(image_id, asked.encoded)
        )
        took_ms = (time.perf_counter() - started) * 1000
        building = Timings()
        building.add({"bank": max(0.0, took_ms - sum(brought.timings.stages_ms().values()))})
        timings.share(took_ms, [brought.timings, building])
        return self._count(asked, brought.held, brought.state)

    async def _id_of(self, asked: Asked) -> str:
        if asked.encoded is None:
            return asked.image_id or ""
        return await in_decode_pool(self.segmenter.id_of, asked.encoded)

    def _count(self, asked: Asked, held: Any, state: CacheState) -> tuple[Any, CacheState]:
        if asked.name is not None:
            self.segmenter.cache.give_name(asked.name, held)
            self._write_behind(held, self.segmenter.keep_name, asked.name, held.id)
        self.lookups[state.tier] += 1
        return held, state

    async def _fetch(self, image_id: str, encoded: bytes | None) -> _Held:
        # A request with only an id has its own key, because its failure must not fail requests that
        # sent the file.
        key = (image_id, encoded is None)
        return await self._pictures.run(key, lambda: self._bring(image_id, encoded))

    async def _bring(self, image_id: str, encoded: bytes | None) -> _Held:
        """Load an image into memory, from disk or by encoding it."""
        timings = Timings()
        held = self.segmenter.cache.get(image_id)  # another call may have loaded it meanwhile
        if held is not None:
            return _Held(held, HIT, timings)
        if self.segmenter.disk is not None:
            with timings.measure("disk"):
                held = await in_decode_pool(self.segmenter.restore, image_id)
            if held is not None:
                return _Held(held, DISK_HIT, timings)
        if encoded is None:
            raise unknown_image(image_id)
        with timings.measure("decode"):
            picture = await in_decode_pool(decode_picture, encoded)
        with timings.computing("encode") as own:
            held = await self._embedding.submit(picture, timeout_s=self._timeout_s, own=own)
        self._write_behind(held, self.segmenter.store, held)
        return _Held(held, MISS, timings)

    def _write_behind(self, held: Any, write: Callable[..., None], *args: object) -> None:
        """Write to the disk in the background; skip the write if too many are pending."""
        if self.segmenter.disk is None:
            return
        if len(self._writes) >= MAX_WRITES_BEHIND:
            logger.warning("the disk is too slow: not kept", extra=fields(image=held.id[:16]))
            return
        loop = asyncio.get_running_loop()
        writing = loop.run_in_executor(self._writing, write, *args)
        self._writes.add(writing)
        writing.add_done_callback(self._writes.discard)

    async def text_targets(self, texts: Sequence[str], own: Spent) -> np.ndarray:
        """Return the (N, D) vectors of texts in the space of the masks' vectors."""
        return await self._targets.submit(texts, timeout_s=self._timeout_s, own=own)

    async def read(self, image_id: str) -> ImageReply:
        """Return the details of a cached image. Raises NotFound."""
        if self.segmenter.disk is None or self.segmenter.cache.get(image_id) is not None:
            return self.segmenter.read_image(image_id)
        return await in_decode_pool(self.segmenter.read_image, image_id)

    async def delete(self, image_id: str) -> None:
        """Remove an image from memory and disk after all pending writes. Raises NotFound."""
        loop = asyncio.get_running_loop()
        held = self.segmenter.cache.get(image_id)
        self.banks.forget(image_id if held is None else held.id)
        await loop.run_in_executor(self._writing, self.segmenter.delete_image, image_id)

    async def answer(self, held: Any, question: SegmentQuestion, timings: Timings) -> Any:
        """Return the masks and scores of a question, not yet rendered."""
        plan = self.segmenter.plan(held, question)
        detected = None
        if plan.phrases:
            with timings.asking("detect"):
                detected = await self._off_thread(self.segmenter.detect, plan)
        with timings.computing() as own:  # the answer has its own stages
            return await self._answering.submit(
                Work(plan, detected), timeout_s=self._timeout_s, own=own
            )

    async def _off_thread(self, function: Callable[[Plan[Any]], Result], plan: Plan[Any]) -> Result:
        loop = asyncio.get_running_loop()
        waiting: Awaitable[Result] = loop.run_in_executor(self._detecting, carried(function, plan))
        return await waiting


def segment_router(flow: SegmentFlow | None, *, fetcher: Fetcher | None = None) -> APIRouter:
    """Return the router of `/segment` and `/images`.

    flow: None if the profile has no segmenter; requests are then answered 409.
    """
    router = APIRouter(tags=["segmenter"], responses=_MORE_ERRORS)

    def served() -> SegmentFlow:
        if flow is None:
            raise Conflict(
                "this profile has no segmenter: choose one that has (UNSPOKEN_PROFILE), or set "
                "SEGMENTER_WEIGHTS"
            )
        return flow

    @router.post(
        "/segment", response_model=SegmentReply, openapi_extra={"requestBody": SEGMENT_BODY}
    )
    async def segment(request: Request) -> Response:
        """Return masks for texts, boxes and points, in the order of the queries.

        A query that finds nothing has an empty list. A bad query gets an `error`, and the other
        queries are answered. With method `detector`, a text's score depends on the other texts of
        the request, unless `independent` is set. With method `bank` it never does. An id that is
        not cached, or no longer, is answered 404: send the image again.
        """
        flow, timings = served(), Timings()
        with timings.measure("decode"):
            asked, question = await read_question(request, fetcher)
        is_bank = flow.segmenter.method_of(question) == "bank"
        hold = flow.hold_with_bank if is_bank else flow.hold
        held, state = await hold(asked, timings)
        answer = await flow.answer(held, question, timings)

        def render() -> bytes:
            return flow.segmenter.render(answer, cache=state, timings=timings)

        reply = Response(await in_decode_pool(render), media_type="application/json")
        _log("segmented", held, state, timings, queries=len(question.queries))
        return reply

    @router.post("/images", responses=ADDED_IMAGE, openapi_extra={"requestBody": IMAGES_BODY})
    async def add_image(request: Request, response: Response) -> ImageReply:
        """Encode and cache an image before it is queried.

        The status is 201 for a new image and 200 for an image that was already cached.
        """
        flow, timings = served(), Timings()
        with timings.measure("decode"):
            asked = await read_image(request, fetcher)
        held, state = await flow.hold(asked, timings)
        response.status_code = 200 if state.hit else 201
        response.headers["Location"] = f"/images/{held.id}"
        response.headers["ETag"] = f'"{held.id}"'
        _log("embedded", held, state, timings)
        return flow.segmenter.describe(held, state, name=asked.name, timings=timings)

    @router.get("/images/{image_id:path}", response_model=ImageReply, responses=KNOWN_IMAGE)
    async def read(
        image_id: ImageId, if_none_match: Annotated[str | None, Header()] = None
    ) -> Response:
        """Return a cached image's details: 200, 304 if its ETag matches, 404 if not cached."""
        reply = await served().read(image_id)
        tag = f'"{reply.id}"'
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        known = {each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")}
        if known & {tag, "*"}:
            return Response(status_code=304, headers=headers)
        return Response(reply.model_dump_json(), media_type="application/json", headers=headers)

    @router.delete("/images/{image_id:path}", status_code=204)
    async def delete(image_id: ImageId) -> None:
        """Remove an image, by id or name, from memory and disk.

        This removes its file, embedding, bank and names. The status is 204, or 404 if the image is
        not cached. Each replica has its own memory, so send the request to every replica.
        """
        await served().delete(image_id)

    return router


def _log(message: str, held: Any, state: CacheState, timings: Timings, **more: object) -> None:
    """Log one line per request: the image, the tier it came from, and the time of each stage."""
    stages = {f"{stage}_ms": took_ms for stage, took_ms in timings.as_ms().items()}
    about = {"image": held.id[:16], "hit": state.hit, "tier": state.tier}
    logger.info(message, extra=fields(**about, **more, **stages))
