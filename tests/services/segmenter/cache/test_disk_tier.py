"""The disk tier: atomic, bounded, shared by processes, and its errors never fail a request."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from services.segmenter.cache.disk_tier import DiskTier
from unspoken.errors import InvalidConfig

KIB = 1024
ABOUT = {"sha256": "5" * 64, "height": "64", "width": "96"}


def image_id(number: int) -> str:
    return f"{number:064x}"


def arrays(number: int = 0, *, size: int = 64 * KIB) -> dict[str, np.ndarray]:
    return {"image_embedding": np.full(size // 2, number, dtype=np.float16)}


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_is_kept_comes_back_in_another_process_of_the_same_folder(tmp_path):
    DiskTier(tmp_path, 1).write(image_id(7), arrays(7), **ABOUT)
    other = DiskTier(tmp_path, 1)
    stored = other.read(image_id(7))
    assert stored is not None and stored.id == image_id(7)
    assert stored.arrays["image_embedding"].dtype == np.float16
    assert np.array_equal(stored.arrays["image_embedding"], arrays(7)["image_embedding"])
    assert stored.about["width"] == "96" and other.about(image_id(7))["sha256"] == "5" * 64
    assert other.num_bytes > 64 * KIB


@pytest.mark.parametrize("asked", ["", "street 1", "../../etc/passwd", "A" * 64, "0" * 63])
def test_what_is_no_id_is_no_path(tmp_path, asked):
    tier = DiskTier(tmp_path, 1)
    assert tier.read(asked) is None and tier.about(asked) is None


def test_nothing_is_found_where_nothing_was_kept(tmp_path):
    tier = DiskTier(tmp_path / "new" / "folder", 1)
    assert tier.read(image_id(1)) is None and tier.about(image_id(1)) is None
    assert tier.num_bytes == 0


def test_a_file_that_was_cut_or_changed_is_removed_and_counts_as_absent(tmp_path):
    tier = DiskTier(tmp_path, 1)
    for number, harm in enumerate((_cut, _flip, _empty, _rename)):
        tier.write(image_id(number), arrays(number), **ABOUT)
        harm(next(tmp_path.rglob(f"{image_id(number)}.safetensors")))
    tier.write(image_id(9), arrays(9), **ABOUT)
    assert [tier.read(image_id(number)) for number in range(5)] == [None] * 5
    assert tier.read(image_id(9)) is not None
    assert len(files(tmp_path)) == 1


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _rename(path: Path) -> None:
    path.replace(path.with_name(f"{image_id(4)}.safetensors"))


def test_the_least_recently_used_go_first_and_the_bound_holds(tmp_path):
    tier = DiskTier(tmp_path, 1)
    for number in range(12):
        tier.write(image_id(number), arrays(number), **ABOUT)
        path = next(tmp_path.rglob(f"{image_id(number)}.safetensors"))
        os.utime(path, (number, number))
    assert tier.read(image_id(0)) is not None  # now the youngest
    for number in range(12, 40):
        tier.write(image_id(number), arrays(number), **ABOUT)
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 1024 * KIB
    assert tier.num_evicted > 20 and tier.num_bytes <= 1024 * KIB
    assert tier.read(image_id(1)) is None and tier.read(image_id(39)) is not None


def test_what_a_killed_process_left_half_written_is_removed_once_it_is_old(tmp_path):
    folder = tmp_path / "00" / "00"
    folder.mkdir(parents=True)
    for name, age_s in ((".old.part", 7200), (".new.part", 0)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age_s,) * 2)
    DiskTier(tmp_path, 1)
    assert [path.name for path in files(tmp_path)] == [".new.part"]


def test_a_disk_that_cannot_be_written_costs_the_entry_and_nothing_else(tmp_path):
    tier = DiskTier(tmp_path / "cache", 1)
    (tmp_path / "cache" / "00").write_text("a file where a folder should be")
    tier.write(image_id(1), arrays(), **ABOUT)
    assert tier.read(image_id(1)) is None
    with pytest.raises(InvalidConfig, match="no embeddings can be kept"):
        DiskTier(tmp_path / "cache" / "00" / "below", 1)


def test_processes_that_are_killed_while_they_write_leave_nothing_that_is_taken_for_whole(tmp_path):
    tier = DiskTier(tmp_path, 64)
    content = arrays(1, size=512 * KIB)
    for number in range(30):
        child = os.fork()
        if child == 0:
            for place in range(1000):
                tier.write(image_id(number * 1000 + place), content, **ABOUT)
            os._exit(0)
        time.sleep(random.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    kept = [path.stem for path in files(tmp_path) if path.suffix == ".safetensors"]
    read = [tier.read(each) for each in kept]
    assert all(
        each is not None and np.array_equal(each.arrays["image_embedding"], content[name])
        for each in read
        for name in content
    )


def test_names_of_pictures_that_are_gone_are_removed_once_they_are_old(tmp_path):
    tier = DiskTier(tmp_path, 8)
    gone, fresh = "a" * 64, "b" * 64
    tier.write_name("old", gone)
    tier.write_name("new", fresh)
    long_ago_s = time.time() - 7200
    for path in (tmp_path / "names").rglob("*"):
        if path.is_file() and path.read_text() == gone:
            os.utime(path, (long_ago_s, long_ago_s))
    again = DiskTier(tmp_path, 8)
    assert again.read_name("old") is None and again.read_name("new") == fresh
    assert again.read_name(fresh) is None


def test_a_file_without_a_header_of_ours_counts_as_absent(tmp_path):
    tier = DiskTier(tmp_path, 1)
    tier.write(image_id(7), arrays(7), **ABOUT)
    (path,) = files(tmp_path)
    save_file(arrays(7), path)
    assert tier.about(image_id(7)) is None
