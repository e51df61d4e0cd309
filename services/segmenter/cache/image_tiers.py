"""Cached images of an engine in memory and on disk, by id or by a client's own name."""

import hashlib
from typing import Generic, NamedTuple

from services.segmenter.ports import Entry, ImageEngine
from unspoken.errors import NotFound
from unspoken.timings import Timings
from unspoken.wire.segment import CacheState, ImageReply

MEMORY_HIT = CacheState(hit=True, tier="memory")
DISK_HIT = CacheState(hit=True, tier="disk")
MISS = CacheState(hit=False, tier="none")


class Lookup(NamedTuple, Generic[Entry]):
    """A cached image in memory, the tier that had it, and the time that the lookup took."""

    entry: Entry
    state: CacheState
    timings: Timings


class ImageTiers(Generic[Entry]):
    """Both cache tiers of an engine. Any thread except the inference thread; waits for the disk."""

    def __init__(self, engine: ImageEngine[Entry]) -> None:
        self.memory = engine.cache
        self.disk = engine.disk
        self._engine = engine

    def id_of(self, encoded: bytes) -> str:
        """Return the public id of an image file without decoding it."""
        return self._engine.image_id(hashlib.sha256(encoded).hexdigest())

    def restore(self, id_or_name: str) -> Entry | None:
        """Load an image from disk into memory; return None if it is not there."""
        image_id = self._resolve(id_or_name)
        if image_id != id_or_name and (entry := self.memory.get(image_id)) is not None:
            return entry
        stored = None if self.disk is None else self.disk.read(image_id)
        if stored is None:
            return None
        size_hw = (int(stored.about["height"]), int(stored.about["width"]))
        entry = self._engine.unpack(stored, sha256=stored.about["sha256"], size_hw=size_hw)
        self.memory.put(entry)
        return entry

    def store(self, entry: Entry) -> None:
        """Store a cached image on disk if a disk tier exists."""
        if self.disk is not None:
            height, width = entry.size_hw
            about = {"sha256": entry.sha256, "height": str(height), "width": str(width)}
            self.disk.write(entry.id, self._engine.pack(entry), **about)

    def store_name(self, name: str, image_id: str) -> None:
        """Store a client's own name on disk if a disk tier exists."""
        if self.disk is not None:
            self.disk.write_name(name, image_id)

    def read(self, id_or_name: str) -> ImageReply:
        """Return the details of a cached image. One on disk is not loaded. Raises NotFound."""
        timings = Timings()
        image_id = self._resolve(id_or_name)
        entry = self.memory.get(image_id)
        if entry is not None:
            return self.describe(entry, MEMORY_HIT, timings=timings)
        about = None if self.disk is None else self.disk.about(image_id)
        if about is None:
            raise unknown_image(id_or_name)
        return ImageReply(
            id=image_id,
            sha256=about["sha256"],
            width=int(about["width"]),
            height=int(about["height"]),
            cached=True,
            cache=DISK_HIT,
            bank_ready=False,
            model=self._engine.model,
            timings_ms=timings.as_ms(),
        )

    def delete(self, id_or_name: str) -> None:
        """Remove an image and its names from both tiers. Raises NotFound."""
        image_id = self._resolve(id_or_name)
        was_on_disk = self.disk is not None and self.disk.remove(image_id)
        was_in_memory = self.memory.remove(image_id)
        if not (was_on_disk or was_in_memory):
            raise NotFound(f"no picture {id_or_name!r} is cached: nothing to delete")

    def describe(
        self, entry: Entry, state: CacheState, *, timings: Timings, name: str | None = None
    ) -> ImageReply:
        """Return the reply about a cached image in memory."""
        height, width = entry.size_hw
        return ImageReply(
            id=entry.id,
            sha256=entry.sha256,
            width=width,
            height=height,
            name=name,
            cached=state.hit,
            cache=state,
            bank_ready=entry.bank is not None,
            model=self._engine.model,
            timings_ms=timings.as_ms(),
        )

    def _resolve(self, id_or_name: str) -> str:
        """Return the id of the image with this name; an id or an unknown name is unchanged."""
        image_id = self.memory.resolve(id_or_name)
        if image_id == id_or_name and self.disk is not None:
            return self.disk.read_name(id_or_name) or id_or_name
        return image_id


def unknown_image(id_or_name: str) -> NotFound:
    """Return the error for an image that is in neither tier."""
    return NotFound(f"no picture {id_or_name!r} is cached: send it again")
