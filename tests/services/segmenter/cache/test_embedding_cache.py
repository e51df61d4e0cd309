"""The embedding cache: bounded in bytes, evicts the oldest first, names are aliases only."""

from dataclasses import dataclass

import pytest

from services.segmenter.cache.embedding_cache import EmbeddingCache, public_id

MIB = 1024 * 1024


@dataclass(eq=False)
class Entry:
    id: str
    num_bytes: int = MIB
    sha256: str = ""
    size_hw: tuple[int, int] = (1, 1)
    bank_ready: bool = False


def test_an_empty_cache_knows_nothing():
    cache = EmbeddingCache[Entry](1)
    assert cache.get("x") is None and len(cache) == 0 and cache.total_bytes == 0


def test_the_least_recently_used_goes_first_and_bytes_are_counted():
    cache = EmbeddingCache[Entry](3)
    for name in "abc":
        cache.put(Entry(name))
    assert cache.get("a") is not None  # now younger than b
    cache.put(Entry("d"))
    assert cache.get("b") is None
    assert all(cache.get(name) is not None for name in "acd")
    assert cache.total_bytes == 3 * MIB
    cache.put(Entry("big", num_bytes=3 * MIB))
    assert len(cache) == 1 and cache.total_bytes == 3 * MIB


def test_an_entry_that_grows_is_counted_again_and_pushes_others_out():
    cache = EmbeddingCache[Entry](3)
    for name in "abc":
        cache.put(Entry(name))
    grown = cache.get("c")
    assert grown is not None
    grown.num_bytes = 2 * MIB
    cache.update_size(grown)
    assert cache.get("a") is None and cache.total_bytes == 3 * MIB
    gone = Entry("z", num_bytes=9 * MIB)
    cache.update_size(gone)
    assert cache.total_bytes == 3 * MIB


def test_the_newest_is_held_even_when_it_is_over_the_bound():
    cache = EmbeddingCache[Entry](1)
    cache.put(Entry("huge", num_bytes=5 * MIB))
    assert cache.get("huge") is not None
    cache.put(Entry("small"))
    assert cache.get("huge") is None and cache.total_bytes == MIB


def test_replacing_an_entry_counts_it_once():
    cache = EmbeddingCache[Entry](4)
    cache.put(Entry("a"))
    cache.put(Entry("a", num_bytes=2 * MIB))
    assert len(cache) == 1 and cache.total_bytes == 2 * MIB


def test_a_name_means_the_latest_picture_that_was_given_it():
    cache = EmbeddingCache[Entry](4)
    first, second = Entry("1"), Entry("2")
    for entry in (first, second):
        cache.put(entry)
        cache.give_name("mine", entry)
    assert cache.get("mine") is second and cache.get("1") is first


@pytest.mark.parametrize("changed", ["content", "weights_sha256", "preprocessing", "dtype"])
def test_the_id_depends_on_everything_that_an_embedding_depends_on(changed):
    parts = {"weights_sha256": "w", "preprocessing": "p", "dtype": "d"}
    before = public_id("c", **parts)
    after = (
        public_id("other", **parts)
        if changed == "content"
        else public_id("c", **{**parts, changed: "other"})
    )
    assert before != after and len(before) == len(after) == 64
