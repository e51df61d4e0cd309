"""The flow of a request about an image, for the service and for the command line.

1. Find the image in memory or on disk, or decode and encode it. Concurrent requests for one image
   share this.
2. Build its mask bank if the method needs one, in steps between which other requests are answered.
3. Ask the detector if the method needs it.
4. Answer the queries on the inference thread, and render the reply in the decode pool.

This module does not import torch.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from services.segmenter.answer.planning import Detected, QueryPlan
from services.segmenter.cache.bank_queue import BankQueue
from services.segmenter.cache.image_tiers import (
    DISK_HIT,
    MEMORY_HIT,
    MISS,
    ImageTiers,
    Lookup,
    unknown_image,
)
from services.segmenter.cache.single_flight import SingleFlight
from services.segmenter.ports import Entry, ImageEngine, ReplyContent
from unspoken.errors import NotAnImage, TooLarge
from unspoken.http.app import in_decode_pool
from unspoken.http.batching import InferenceThread, MicroBatcher
from unspoken.imaging.images import Picture, decode_picture
from unspoken.logs import bind_context, fields
from unspoken.timings import Spent, Timings
from unspoken.wire.segment import CacheState, ImageReply, SegmentQuestion

Item = TypeVar("Item")
Result = TypeVar("Result")
logger = logging.getLogger(__name__)

# Threads that wait for the detector. They are not those of the decode pool, because a detector in
# the same process decodes its images there.
DETECTIONS_AT_ONCE = 8
MAX_WRITES_BEHIND = 32


class RequestImage(NamedTuple):
    """The image of a request: a file, a decoded picture, or the id or name of a cached image."""

    content: bytes | Picture | None = None
    image_id: str = ""
    name: str | None = None


class SegmentFlow(Generic[Entry]):
    """Runs requests through an engine; owns the batchers and the threads. One event loop only."""

    def __init__(
        self,
        engine: ImageEngine[Entry],
        *,
        thread: InferenceThread,
        max_queue: int,
        max_queue_bytes: int,
        request_timeout_s: float,
    ) -> None:
        def batcher(
            name: str, run: Callable[[Item], Result], size_of: Callable[[Item], int] | None = None
        ) -> MicroBatcher[Item, Result]:
            # One image at a time, because encoder and decoder gain nothing from batches on a CPU.
            return MicroBatcher(
                lambda items: [run(item) for item in items],
                name=name,
                thread=thread,
                max_batch=1,
                max_queue=max_queue,
                max_queue_bytes=max_queue_bytes,
                size_of=size_of,
            )

        def answer(work: tuple[Entry, QueryPlan, Detected | None]) -> ReplyContent:
            return queries.answer(*work)

        queries = engine.queries
        self.tiers = ImageTiers(engine)
        self.encoding = batcher("embed", self._embed, lambda picture: picture.num_bytes)
        self.answering = batcher("segment", answer)
        self.banks = BankQueue(
            engine, thread=thread, max_queue=max_queue, timeout_s=request_timeout_s
        )
        self.lookups = Counter({"memory": 0, "disk": 0, "none": 0})
        """Number of requested images that were found in each tier; "none": newly encoded."""
        self._engine = engine
        self._planner = engine.planner
        self._targets = batcher(
            "text-targets", engine.text_targets, lambda texts: sum(map(len, texts))
        )
        self._fetching: SingleFlight[Lookup[Entry]] = SingleFlight(kept=(NotAnImage, TooLarge))
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._writes: set[asyncio.Future[None]] = set()
        self._detecting = ThreadPoolExecutor(DETECTIONS_AT_ONCE, thread_name_prefix="detect")
        self._timeout_s = request_timeout_s

    @property
    def batchers(self) -> list[MicroBatcher[Any, Any]]:
        """All batchers, to be started before the first request and closed after the last."""
        return [self.encoding, self.answering, self.banks.batcher, self._targets]

    async def finish_writes(self) -> None:
        """Wait until all pending writes to the disk are done."""
        await asyncio.gather(*self._writes, return_exceptions=True)

    async def close(self) -> None:
        """Cancel banks that are being built, finish pending writes, and stop the threads."""
        await self.banks.close()
        await self.finish_writes()
        self._writing.shutdown(wait=False)
        self._detecting.shutdown(wait=False)

    # ---- requests ----------------------------------------------------------------------------

    async def segment(
        self, image: RequestImage, question: SegmentQuestion, timings: Timings
    ) -> bytes:
        """Return a SegmentReply in JSON. Raises NotFound, InvalidInput, Conflict, Overloaded."""
        if self._planner.method_of(question) == "bank":
            entry, state = await self._find_with_bank(image, timings)
        else:
            entry, state = await self._find(image, timings)
        plan = self._planner.plan(question, size_hw=entry.size_hw)
        detected = None
        if plan.phrases:
            loop = asyncio.get_running_loop()
            ask = bind_context(self._planner.ask_detector, plan, entry.encoded)
            with timings.asking("detect"):
                detected = await loop.run_in_executor(self._detecting, ask)
        with timings.computing() as own:  # the answer reports its own stages
            content = await self.answering.submit(
                (entry, plan, detected), timeout_s=self._timeout_s, own=own
            )
        reply = await in_decode_pool(partial(content.to_json, cache=state, timings=timings))
        _log("segmented", entry, state, timings, queries=len(question.queries))
        return reply

    async def add_image(self, image: RequestImage, timings: Timings) -> ImageReply:
        """Encode and cache an image. Raises NotAnImage, TooLarge, Overloaded."""
        entry, state = await self._find(image, timings)
        _log("embedded", entry, state, timings)
        return self.tiers.describe(entry, state, name=image.name, timings=timings)

    async def read_image(self, id_or_name: str) -> ImageReply:
        """Return the details of a cached image. Raises NotFound."""
        if self.tiers.disk is None or self.tiers.memory.get(id_or_name) is not None:
            return self.tiers.read(id_or_name)
        return await in_decode_pool(self.tiers.read, id_or_name)

    async def delete_image(self, id_or_name: str) -> None:
        """Remove an image from memory and disk after all pending writes. Raises NotFound."""
        loop = asyncio.get_running_loop()
        entry = self.tiers.memory.get(id_or_name)
        self.banks.forget(id_or_name if entry is None else entry.id)
        await loop.run_in_executor(self._writing, self.tiers.delete, id_or_name)

    async def text_targets(self, texts: Sequence[str], own: Spent) -> np.ndarray:
        """Return the (N, D) vectors of texts in the space of the masks' vectors."""
        return await self._targets.submit(texts, timeout_s=self._timeout_s, own=own)

    # ---- finding or encoding an image --------------------------------------------------------

    async def _find(self, image: RequestImage, timings: Timings) -> tuple[Entry, CacheState]:
        """Return the image of a request from memory or disk, or encode it."""
        image_id = await self._id_of(image)
        entry = self.tiers.memory.get(image_id)
        if entry is not None:
            return self._count(image, entry, MEMORY_HIT)
        started = time.perf_counter()
        found = await self._fetch(image_id, image.content)
        timings.share((time.perf_counter() - started) * 1000, [found.timings])
        return self._count(image, found.entry, found.state)

    async def _find_with_bank(
        self, image: RequestImage, timings: Timings
    ) -> tuple[Entry, CacheState]:
        """Return the image of a request with its bank. Raises Overloaded."""
        image_id = await self._id_of(image)
        entry = self.tiers.memory.get(image_id)
        if entry is not None and entry.bank is not None:
            return self._count(image, entry, MEMORY_HIT)
        started = time.perf_counter()
        found = await self.banks.run(
            (image_id, image.content is None), lambda: self._fetch(image_id, image.content)
        )
        took_ms = (time.perf_counter() - started) * 1000
        building = Timings()
        building.add({"bank": max(0.0, took_ms - sum(found.timings.stages_ms().values()))})
        timings.share(took_ms, [found.timings, building])
        return self._count(image, found.entry, found.state)

    async def _id_of(self, image: RequestImage) -> str:
        match image.content:
            case None:
                return image.image_id
            case Picture(sha256=sha256):
                return self._engine.image_id(sha256)
            case encoded:
                return await in_decode_pool(self.tiers.id_of, encoded)

    def _count(
        self, image: RequestImage, entry: Entry, state: CacheState
    ) -> tuple[Entry, CacheState]:
        if image.name is not None:
            self.tiers.memory.give_name(image.name, entry)
            self._write_behind(entry, partial(self.tiers.store_name, image.name, entry.id))
        self.lookups[state.tier] += 1
        return entry, state

    async def _fetch(self, image_id: str, content: bytes | Picture | None) -> Lookup[Entry]:
        """Load an image into memory once for all concurrent requests."""
        # A request with only an id has its own key, because its failure must not fail requests that
        # sent the file.
        key = (image_id, content is None)
        return await self._fetching.run(key, lambda: self._load(image_id, content))

    async def _load(self, image_id: str, content: bytes | Picture | None) -> Lookup[Entry]:
        """Load an image into memory, from disk or by encoding it."""
        timings = Timings()
        entry = self.tiers.memory.get(image_id)  # another call may have loaded it meanwhile
        if entry is not None:
            return Lookup(entry, MEMORY_HIT, timings)
        if self.tiers.disk is not None:
            with timings.measure("disk"):
                entry = await in_decode_pool(self.tiers.restore, image_id)
            if entry is not None:
                return Lookup(entry, DISK_HIT, timings)
        if content is None:
            raise unknown_image(image_id)
        if isinstance(content, bytes):
            with timings.measure("decode"):
                content = await in_decode_pool(decode_picture, content)
        with timings.computing("encode") as own:
            entry = await self.encoding.submit(content, timeout_s=self._timeout_s, own=own)
        self._write_behind(entry, partial(self.tiers.store, entry))
        return Lookup(entry, MISS, timings)

    def _embed(self, picture: Picture) -> Entry:
        """Encode and cache an image on the inference thread, even if its caller leaves."""
        entry = self._engine.embed(picture)
        self.tiers.memory.put(entry)
        return entry

    def _write_behind(self, entry: Entry, write: Callable[[], None]) -> None:
        """Write to the disk in the background; skip the write if too many are pending."""
        if self.tiers.disk is None:
            return
        if len(self._writes) >= MAX_WRITES_BEHIND:
            logger.warning("the disk is too slow: not kept", extra=fields(image=entry.id[:16]))
            return
        writing = asyncio.get_running_loop().run_in_executor(self._writing, write)
        self._writes.add(writing)
        writing.add_done_callback(self._writes.discard)


def _log(message: str, entry: Entry, state: CacheState, timings: Timings, **more: object) -> None:
    """Log one line per request: the image, the tier it came from, and the time of each stage."""
    stages = {f"{stage}_ms": took_ms for stage, took_ms in timings.as_ms().items()}
    about = {"image": entry.id[:16], "hit": state.hit, "tier": state.tier}
    logger.info(message, extra=fields(**about, **more, **stages))
