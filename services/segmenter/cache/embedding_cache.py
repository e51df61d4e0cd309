"""LRU cache of images in memory, bounded in MiB.

The public id is a hash of everything that an embedding depends on: the file's content, the weights,
the preprocessing and the precision. A client's own name is an alias, never a key, so two images
with one name have two ids.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from unspoken.process import give_back_free_memory

MAX_NAMES = 16_384
MIN_TRIM_BYTES = 8 * 1024 * 1024


class CacheEntry(Protocol):
    """Port of a cached image with its embedding."""

    @property
    def id(self) -> str:
        """The public id."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the encoded file."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""

    @property
    def encoded(self) -> bytes:
        """The image file, which is sent to the detector."""

    @property
    def bank(self) -> object | None:
        """Its mask bank; None until it is built."""

    @property
    def num_bytes(self) -> int:
        """Bytes of memory that it uses. They grow when its mask bank is built."""


Entry = TypeVar("Entry", bound=CacheEntry)


def public_id(content_sha256: str, *, weights_sha256: str, preprocessing: str, dtype: str) -> str:
    """Return the id of an image for these weights, as 64 hexadecimal digits."""
    key = {
        "content": content_sha256,
        "weights": weights_sha256,
        "preprocessing": preprocessing,
        "dtype": dtype,
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


class EmbeddingCache(Generic[Entry]):
    """Thread-safe LRU cache of at most `capacity_mib`, or of one entry if that is larger."""

    def __init__(self, capacity_mib: float) -> None:
        self._capacity_bytes = int(capacity_mib * 1024 * 1024)
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._bytes: dict[str, int] = {}
        self._total_bytes = 0
        self._untrimmed_bytes = 0
        self._names: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()
        self.num_evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def total_bytes(self) -> int:
        """Total memory of the entries in bytes, each as last measured."""
        return self._total_bytes

    def get(self, id_or_name: str) -> Entry | None:
        """Return the entry and mark it as used; None if it is not in the cache."""
        with self._lock:
            key = self._names.get(id_or_name, id_or_name)
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    def put(self, entry: Entry) -> None:
        """Add or replace an entry; if the cache is full, evict the least recently used entries.

        After every few megabytes this also returns free heap memory to the system. Long-lived
        entries between the encoder's large blocks fragment the heap: after 1 500 images, a cache of
        512 MiB used 770 MiB.
        """
        with self._lock:
            self._entries[entry.id] = entry
            self._entries.move_to_end(entry.id)
            self._measure(entry)
            self._untrimmed_bytes += entry.num_bytes
            must_trim = self._untrimmed_bytes > max(self._capacity_bytes / 16, MIN_TRIM_BYTES)
            if must_trim:
                self._untrimmed_bytes = 0
        if must_trim:
            give_back_free_memory()

    def resolve(self, id_or_name: str) -> str:
        """Return the id of the image with this name; return anything else unchanged."""
        with self._lock:
            return self._names.get(id_or_name, id_or_name)

    def remove(self, image_id: str) -> bool:
        """Remove an entry and its names; return False if it was not in the cache."""
        with self._lock:
            entry = self._entries.pop(image_id, None)
            self._total_bytes -= self._bytes.pop(image_id, 0)
            for name in [name for name, named in self._names.items() if named == image_id]:
                del self._names[name]
            return entry is not None

    def update_size(self, entry: Entry) -> None:
        """Update the size of an entry that has grown; do nothing if it was evicted."""
        with self._lock:
            if self._entries.get(entry.id) is entry:
                self._measure(entry)

    def give_name(self, name: str, entry: Entry) -> None:
        """Make a client's own name an alias of this image, and no longer of any other image."""
        with self._lock:
            self._names[name] = entry.id
            self._names.move_to_end(name)
            while len(self._names) > MAX_NAMES:
                self._names.popitem(last=False)

    def _measure(self, entry: Entry) -> None:
        self._total_bytes += entry.num_bytes - self._bytes.get(entry.id, 0)
        self._bytes[entry.id] = entry.num_bytes
        while self._total_bytes > self._capacity_bytes and len(self._entries) > 1:
            oldest, _ = self._entries.popitem(last=False)
            self._total_bytes -= self._bytes.pop(oldest)
            self.num_evicted += 1
