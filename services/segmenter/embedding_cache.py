"""Pictures that the segmenter holds: the least recently used out first, bounded in MiB.

The public id is a hash of what an embedding depends on: the file's content, the weights, the
preprocessing and the precision. A client's own name is an alias and never a key: two pictures under
one name have two ids.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from unspoken.process import give_back_free_memory

MAX_NAMES = 16_384
MIN_TRIM_BYTES = 8 * 1024 * 1024


class Held(Protocol):
    """A picture with its embedding, as the cache sees it."""

    @property
    def id(self) -> str:
        """The public id."""

    @property
    def sha256(self) -> str:
        """Digest of the encoded file."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Pixels of the picture."""

    @property
    def bank_ready(self) -> bool:
        """Whether its bank is built."""

    @property
    def num_bytes(self) -> int:
        """Memory that it holds; may grow."""


Entry = TypeVar("Entry", bound=Held)


def public_id(content_sha256: str, *, weights_sha256: str, preprocessing: str, dtype: str) -> str:
    """The id of a picture under these weights, as 64 hexadecimal digits."""
    key = {
        "content": content_sha256,
        "weights": weights_sha256,
        "preprocessing": preprocessing,
        "dtype": dtype,
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


class EmbeddingCache(Generic[Entry]):
    """Holds at most `capacity_mib`, and always the newest; shared by threads."""

    def __init__(self, capacity_mib: float) -> None:
        self._capacity_bytes = int(capacity_mib * 1024 * 1024)
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._bytes: dict[str, int] = {}
        self._total_bytes = 0
        self._put_bytes = 0
        self._names: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()
        self.num_evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def total_bytes(self) -> int:
        """What the entries held when they were last weighed."""
        return self._total_bytes

    def get(self, id_or_name: str) -> Entry | None:
        """The entry, which is now the youngest; None where it was never there or is gone."""
        with self._lock:
            key = self._names.get(id_or_name, id_or_name)
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    def put(self, entry: Entry) -> None:
        """Add or replace an entry, and let the oldest go where there is no room.

        Now and then the heap is told to let go, too: what stays for long between an encoder's
        large blocks leaves holes, and 512 MiB took 770 after 1 500 pictures.
        """
        with self._lock:
            self._entries[entry.id] = entry
            self._entries.move_to_end(entry.id)
            self._weigh(entry)
            self._put_bytes += entry.num_bytes
            is_time = self._put_bytes > max(self._capacity_bytes / 16, MIN_TRIM_BYTES)
            if is_time:
                self._put_bytes = 0
        if is_time:
            give_back_free_memory()

    def resolve(self, id_or_name: str) -> str:
        """Return the id that a name stands for; what is no known name comes back as it is."""
        with self._lock:
            return self._names.get(id_or_name, id_or_name)

    def remove(self, image_id: str) -> bool:
        """Drop an entry and its names; False where there was no entry."""
        with self._lock:
            entry = self._entries.pop(image_id, None)
            self._total_bytes -= self._bytes.pop(image_id, 0)
            for name in [name for name, named in self._names.items() if named == image_id]:
                del self._names[name]
            return entry is not None

    def weigh_again(self, entry: Entry) -> None:
        """Count an entry that has grown; nothing where it has gone meanwhile."""
        with self._lock:
            if self._entries.get(entry.id) is entry:
                self._weigh(entry)

    def give_name(self, name: str, entry: Entry) -> None:
        """Let a client's own name mean this picture from now on."""
        with self._lock:
            self._names[name] = entry.id
            self._names.move_to_end(name)
            while len(self._names) > MAX_NAMES:
                self._names.popitem(last=False)

    def _weigh(self, entry: Entry) -> None:
        self._total_bytes += entry.num_bytes - self._bytes.get(entry.id, 0)
        self._bytes[entry.id] = entry.num_bytes
        while self._total_bytes > self._capacity_bytes and len(self._entries) > 1:
            oldest, _ = self._entries.popitem(last=False)
            self._total_bytes -= self._bytes.pop(oldest)
            self.num_evicted += 1
