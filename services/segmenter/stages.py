"""The Segmenter port cut into stages, each with the place where it may run.

A service runs them apart: torch on the inference thread, the detector's answer awaited off it (in
one process the detector needs that very thread), rendering in a pool. In process they run in order.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from services.segmenter.disk_tier import DiskTier, Stored
from services.segmenter.embedding_cache import EmbeddingCache, Held
from unspoken.errors import NotFound
from unspoken.images import Picture
from unspoken.schemas import DetectionResult, ModelInfo
from unspoken.segment_schemas import (
    CacheState,
    ImageReply,
    SegmentQuery,
    SegmentQuestion,
    SegmentReply,
    Way,
)
from unspoken.timings import Timings

Entry = TypeVar("Entry", bound=Held)


@dataclass(frozen=True, kw_only=True)
class Plan(Generic[Entry]):
    """How a question about a picture will be answered."""

    held: Entry
    question: SegmentQuestion
    way: Way
    queries: tuple[SegmentQuery, ...] = ()
    """The question's queries with their texts in normal form."""
    problems: Mapping[int, str] = field(default_factory=dict)
    """Index of a query that cannot be answered -> what is wrong with it."""
    needs_bank: bool = False
    """The bank must be built first."""
    phrases: tuple[str, ...] = ()
    """What the detector is asked for."""


class Detected(NamedTuple):
    """What the detector said. Its threshold is asked with it: where the answer is made, on the
    inference thread, a detector of the same process could not reply.
    """

    result: DetectionResult
    box_threshold: float
    refused: Mapping[str, str] = MappingProxyType({})
    """Phrases that the detector cannot read -> why."""


class BankSteps(Protocol):
    """A bank that is being built."""

    def step(self) -> bool:
        """Do a piece of it on the inference thread; True when it is done and kept."""


class StagedSegmenter(ABC, Generic[Entry]):
    """See unspoken.ports.Segmenter; `cache` holds its pictures, `disk` keeps them longer."""

    def __init__(self, cache: EmbeddingCache[Entry], disk: DiskTier | None = None) -> None:
        self.cache = cache
        self.disk = disk

    @property
    @abstractmethod
    def model(self) -> ModelInfo:
        """Which weights answer."""

    # ---- the stages --------------------------------------------------------------------------

    @abstractmethod
    def image_id(self, content_sha256: str) -> str:
        """The public id of a picture by the digest of its file. Any thread."""

    @abstractmethod
    def embed(self, picture: Picture) -> Entry:
        """Encode a picture and keep it. Inference thread."""

    @abstractmethod
    def pack(self, held: Entry) -> dict[str, np.ndarray]:
        """What of a picture is kept on disk. Any thread."""

    @abstractmethod
    def unpack(self, stored: Stored, *, sha256: str, size_hw: tuple[int, int]) -> Entry:
        """The picture of which this was kept. Any thread."""

    @abstractmethod
    def method_of(self, question: SegmentQuestion) -> Way:
        """Return the method that answers a question, before its picture is read. Any thread.

        Raises Conflict for a method that this service does not have.
        """

    @abstractmethod
    def plan(self, held: Entry, question: SegmentQuestion) -> Plan[Entry]:
        """Decide how to answer. Any thread, quick. Raises InvalidInput, Conflict."""

    @abstractmethod
    def text_targets(self, texts: Sequence[str]) -> np.ndarray:
        """Return the (N, D) unit vectors that masks of these labels are trained to.

        They can be compared with the masks' vectors. Inference thread. Raises Conflict where the
        semantic head is not trained.
        """

    @abstractmethod
    def bank_steps(self, held: Entry) -> BankSteps:
        """Start building a picture's bank. Any thread."""

    @abstractmethod
    def detect(self, plan: Plan[Entry]) -> Detected:
        """Ask the detector for the plan's phrases. Blocks; never on the inference thread."""

    @abstractmethod
    def answer(self, plan: Plan[Entry], detected: Detected | None) -> Any:
        """Masks and scores. Inference thread. The answer is for `render`."""

    @abstractmethod
    def render(self, answer: Any, *, cache: CacheState, timings: Timings) -> bytes:
        """The answer as a SegmentReply in JSON. Any thread."""

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
        """See unspoken.ports.Segmenter. A picture on disk is left there."""
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
            raise NotFound(f"no picture {image_id!r} is held here (any more): nothing to delete")

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
        """Return the id that a name stands for, by memory or disk; an id as it is. Any thread."""
        resolved = self.cache.resolve(id_or_name)
        if resolved == id_or_name and self.disk is not None:
            return self.disk.read_name(id_or_name) or id_or_name
        return resolved

    def keep_name(self, name: str, image_id: str) -> None:
        """Keep a name on disk, where there is one. Any thread but the inference thread."""
        if self.disk is not None:
            self.disk.write_name(name, image_id)

    def restore(self, id_or_name: str) -> Entry | None:
        """Return a picture that is on disk, which is then in memory too. Any thread."""
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
        """Keep a picture on disk, where there is one. Any thread but the inference thread."""
        if self.disk is not None:
            height, width = held.size_hw
            about = {"sha256": held.sha256, "height": str(height), "width": str(width)}
            self.disk.write(held.id, self.pack(held), **about)

    def find(self, id_or_name: str) -> Entry:
        """A picture that is held, in memory or on disk. Raises NotFound."""
        held = self.cache.get(id_or_name) or self.restore(id_or_name)
        if held is None:
            raise unknown_image(id_or_name)
        return held

    def describe(
        self, held: Entry, state: CacheState, *, timings: Timings, name: str | None = None
    ) -> ImageReply:
        """What is said about a picture that is held."""
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
        """The public id of a file, before anything is decoded. Any thread."""
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
    """The error for a picture that is in no tier."""
    return NotFound(f"no picture {id_or_name!r} is held here (any more): send it again")


HIT = CacheState(hit=True, tier="memory")
DISK_HIT = CacheState(hit=True, tier="disk")
MISS = CacheState(hit=False, tier="none")
