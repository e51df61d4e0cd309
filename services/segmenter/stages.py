"""The Segmenter port as separate stages; each docstring names the thread that may run the stage.

A service runs torch on the inference thread and rendering in a pool. It waits for the detector on
another thread, because a detector in the same process needs the inference thread. Without a
service, the stages run in order.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from services.segmenter.cache.disk_tier import DiskTier, Stored
from services.segmenter.cache.embedding_cache import EmbeddingCache, Held
from unspoken.errors import NotFound
from unspoken.imaging.images import Picture
from unspoken.timings import Timings
from unspoken.wire.base import ModelInfo
from unspoken.wire.detections import DetectionResult
from unspoken.wire.segment import (
    CacheState,
    ImageReply,
    SegmentQuery,
    SegmentQuestion,
    SegmentReply,
    Way,
)

Entry = TypeVar("Entry", bound=Held)


@dataclass(frozen=True, kw_only=True)
class Plan(Generic[Entry]):
    """Plan for answering a question about an image."""

    held: Entry
    question: SegmentQuestion
    way: Way
    queries: tuple[SegmentQuery, ...] = ()
    """The question's queries with normalised texts."""
    problems: Mapping[int, str] = field(default_factory=dict)
    """Problem of each query that cannot be answered, by query index."""
    needs_bank: bool = False
    """True if the bank must be built first."""
    phrases: tuple[str, ...] = ()
    """Phrases for the detector."""


class Detected(NamedTuple):
    """Reply of the detector, with its default threshold.

    The threshold is read together with the reply, because `answer` runs on the inference thread,
    where a detector of the same process could not reply.
    """

    result: DetectionResult
    box_threshold: float
    refused: Mapping[str, str] = MappingProxyType({})
    """Problem of each phrase that the detector refused."""


class BankSteps(Protocol):
    """Port of a bank that is built step by step."""

    def step(self) -> bool:
        """Do one step on the inference thread; return True once the bank is built and stored."""


class StagedSegmenter(ABC, Generic[Entry]):
    """A Segmenter in stages; see unspoken.ports.Segmenter.

    cache: cached images in memory. disk: optional second tier, which survives restarts.
    """

    def __init__(self, cache: EmbeddingCache[Entry], disk: DiskTier | None = None) -> None:
        self.cache = cache
        self.disk = disk

    @property
    @abstractmethod
    def model(self) -> ModelInfo:
        """Name and revision of the weights."""

    # ---- the stages --------------------------------------------------------------------------

    @abstractmethod
    def image_id(self, content_sha256: str) -> str:
        """Return the public id of an image from its file's digest. Any thread."""

    @abstractmethod
    def embed(self, picture: Picture) -> Entry:
        """Encode an image and cache it in memory. Inference thread."""

    @abstractmethod
    def pack(self, held: Entry) -> dict[str, np.ndarray]:
        """Return the arrays of a cached image to store on disk. Any thread."""

    @abstractmethod
    def unpack(self, stored: Stored, *, sha256: str, size_hw: tuple[int, int]) -> Entry:
        """Restore a cached image from its arrays on disk. Any thread."""

    @abstractmethod
    def method_of(self, question: SegmentQuestion) -> Way:
        """Return the method that answers a question, before its picture is read. Any thread.

        Raises Conflict for a method that this service does not have.
        """

    @abstractmethod
    def plan(self, held: Entry, question: SegmentQuestion) -> Plan[Entry]:
        """Return the plan for a question. Fast; any thread. Raises InvalidInput, Conflict."""

    @abstractmethod
    def text_targets(self, texts: Sequence[str]) -> np.ndarray:
        """Return the (N, D) unit vectors that masks of these labels are trained to.

        They can be compared with the masks' vectors. Inference thread. Raises Conflict if the
        semantic head is not trained.
        """

    @abstractmethod
    def bank_steps(self, held: Entry) -> BankSteps:
        """Start building an image's bank. Any thread."""

    @abstractmethod
    def detect(self, plan: Plan[Entry]) -> Detected:
        """Ask the detector for the plan's phrases. Blocks; never on the inference thread."""

    @abstractmethod
    def answer(self, plan: Plan[Entry], detected: Detected | None) -> Any:
        """Return masks and scores as input for `render`. Inference thread."""

    @abstractmethod
    def render(self, answer: Any, *, cache: CacheState, timings: Timings) -> bytes:
        """Return the answer as a SegmentReply in JSON. Any thread."""

    @abstractmethod
    def warm_up(self) -> None:
        """Run every part once. Inference thread."""

    # ---- the port ----------------------------------------------------------------------------

    def add_image(self, picture: Picture, *, name: str | None = None) -> ImageReply:
        """See unspoken.ports.Segmenter."""
        timings = Timings()
        held, state = self._hold(picture, timings)
        if name is not None:
            self.cache.give_name(name, held)
            self.keep_name(name, held.id)
        return self.describe(held, state, name=name, timings=timings)

    def read_image(self, image_id: str) -> ImageReply:
        """See unspoken.ports.Segmenter. An image on disk is not loaded into memory."""
        timings = Timings()
        resolved = self.resolve(image_id)
        held = self.cache.get(resolved)
        if held is not None:
            return self.describe(held, HIT, timings=timings)
        about = None if self.disk is None else self.disk.about(resolved)
        if about is None:
            raise unknown_image(image_id)
        return ImageReply(
            id=resolved,
            sha256=about["sha256"],
            width=int(about["width"]),
            height=int(about["height"]),
            cached=True,
            cache=DISK_HIT,
            bank_ready=False,
            model=self.model,
            timings_ms=timings.as_ms(),
        )

    def delete_image(self, image_id: str) -> None:
        """See unspoken.ports.Segmenter. Any thread; waits for the disk."""
        resolved = self.resolve(image_id)
        was_on_disk = self.disk is not None and self.disk.remove(resolved)
        was_in_memory = self.cache.remove(resolved)
        if not (was_on_disk or was_in_memory):
            raise NotFound(f"no picture {image_id!r} is cached: nothing to delete")

    def segment(self, image: Picture | str, question: SegmentQuestion) -> SegmentReply:
        """See unspoken.ports.Segmenter."""
        timings = Timings()
        held, state = self._hold(image, timings)
        plan = self.plan(held, question)
        if plan.needs_bank:
            with timings.measure("bank"):
                steps = self.bank_steps(held)
                while not steps.step():
                    pass
        detected = None
        if plan.phrases:
            with timings.measure("detect"):
                detected = self.detect(plan)
        answer = self.answer(plan, detected)
        return SegmentReply.model_validate_json(self.render(answer, cache=state, timings=timings))

    def resolve(self, id_or_name: str) -> str:
        """Return the id of the image with this name, from memory or disk. Any thread.

        An id or an unknown name is returned unchanged.
        """
        resolved = self.cache.resolve(id_or_name)
        if resolved == id_or_name and self.disk is not None:
            return self.disk.read_name(id_or_name) or id_or_name
        return resolved

    def keep_name(self, name: str, image_id: str) -> None:
        """Store a name on disk if a disk tier exists. Not on the inference thread."""
        if self.disk is not None:
            self.disk.write_name(name, image_id)

    def restore(self, id_or_name: str) -> Entry | None:
        """Load an image from disk into memory; return None if it is not there. Any thread."""
        image_id = self.resolve(id_or_name)
        if image_id != id_or_name and (held := self.cache.get(image_id)) is not None:
            return held
        stored = None if self.disk is None else self.disk.read(image_id)
        if stored is None:
            return None
        size_hw = (int(stored.about["height"]), int(stored.about["width"]))
        held = self.unpack(stored, sha256=stored.about["sha256"], size_hw=size_hw)
        self.cache.put(held)
        return held

    def store(self, held: Entry) -> None:
        """Store a cached image on disk if a disk tier exists. Not on the inference thread."""
        if self.disk is not None:
            height, width = held.size_hw
            about = {"sha256": held.sha256, "height": str(height), "width": str(width)}
            self.disk.write(held.id, self.pack(held), **about)

    def find(self, id_or_name: str) -> Entry:
        """Return a cached image from memory or disk. Raises NotFound."""
        held = self.cache.get(id_or_name) or self.restore(id_or_name)
        if held is None:
            raise unknown_image(id_or_name)
        return held

    def describe(
        self, held: Entry, state: CacheState, *, timings: Timings, name: str | None = None
    ) -> ImageReply:
        """Return the reply about a cached image."""
        height, width = held.size_hw
        return ImageReply(
            id=held.id,
            sha256=held.sha256,
            width=width,
            height=height,
            name=name,
            cached=state.hit,
            cache=state,
            bank_ready=held.bank_ready,
            model=self.model,
            timings_ms=timings.as_ms(),
        )

    def id_of(self, encoded: bytes) -> str:
        """Return the public id of an image file without decoding it. Any thread."""
        return self.image_id(hashlib.sha256(encoded).hexdigest())

    def _hold(self, image: Picture | str, timings: Timings) -> tuple[Entry, CacheState]:
        image_id = image if isinstance(image, str) else self.image_id(image.sha256)
        held = self.cache.get(image_id)
        if held is not None:
            return held, HIT
        with timings.measure("disk"):
            held = self.restore(image_id)
        if held is not None:
            return held, DISK_HIT
        if isinstance(image, str):
            raise unknown_image(image)
        with timings.measure("encode"):
            held = self.embed(image)
        self.store(held)
        return held, MISS


def unknown_image(id_or_name: str) -> NotFound:
    """Return the error for an image that is in neither memory nor disk."""
    return NotFound(f"no picture {id_or_name!r} is cached: send it again")


HIT = CacheState(hit=True, tier="memory")
DISK_HIT = CacheState(hit=True, tier="disk")
MISS = CacheState(hit=False, tier="none")
