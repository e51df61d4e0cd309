"""Leases and the calls to storage, on a real folder."""

import errno
import hashlib
import os
import threading

import pytest

from unspoken.runs import storage
from unspoken.runs.lease import acquire, leased, leased_names


def make_old(path, seconds):
    found = path.stat()
    os.utime(path, (found.st_atime, found.st_mtime - seconds))


def test_of_many_who_take_a_lease_that_lapsed_one_gets_it(tmp_path):
    path = tmp_path / "a"
    for _ in range(20):
        path.write_text("dead")
        make_old(path, 60)
        barrier, got = threading.Barrier(8), []

        def take(barrier=barrier, got=got):
            barrier.wait()
            lease = acquire(path, lease_s=30)
            if lease is not None:
                got.append(lease)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1 and got[0].is_ours()
        got[0].release()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_whose_maker_ended_on_the_way_does_not_bar_the_lease_for_ever(tmp_path):
    path = tmp_path / "a"
    path.write_text("dead")
    make_old(path, 60)
    claim = tmp_path / f".a.{hashlib.sha256(b'dead').hexdigest()[:16]}.claim"
    claim.touch()
    assert acquire(path, lease_s=30) is None  # its maker may be about to take the lease
    make_old(claim, 60)
    assert acquire(path, lease_s=30) is None and not claim.exists()
    assert acquire(path, lease_s=30) is not None
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_lease_that_another_took_meanwhile_is_neither_renewed_nor_removed(tmp_path):
    lease = acquire(tmp_path / "a", lease_s=30)
    (tmp_path / "a").write_text("another")
    assert not lease.renew()
    lease.release()
    assert (tmp_path / "a").read_text() == "another"


def test_a_lease_that_should_be_released_is_free_at_once(tmp_path):
    over = threading.Event()
    with leased(tmp_path / "a", lease_s=30, should_release=over.is_set) as lease:
        assert lease is not None and leased_names(tmp_path, lease_s=30) == {"a"}
        over.set()
        for _ in range(100):
            if not leased_names(tmp_path, lease_s=30):
                break
            threading.Event().wait(0.1)
        assert acquire(tmp_path / "a", lease_s=30) is not None


def test_a_lease_dated_in_the_future_ages_from_the_moment_it_is_seen(tmp_path):
    path = tmp_path / "a"
    path.write_text("dead")
    make_old(path, -3600)
    assert leased_names(tmp_path, lease_s=0.3) == {"a"}
    assert acquire(path, lease_s=0.3) is None
    make_old(path, 0.3)
    assert leased_names(tmp_path, lease_s=0.3) == frozenset()
    assert acquire(path, lease_s=0.3) is not None


def test_a_claim_dated_in_the_future_does_not_bar_the_lease_for_long(tmp_path):
    path = tmp_path / "a"
    path.write_text("dead")
    make_old(path, 60)
    claim = tmp_path / f".a.{hashlib.sha256(b'dead').hexdigest()[:16]}.claim"
    claim.touch()
    make_old(claim, -3600)
    assert acquire(path, lease_s=30) is None
    make_old(claim, 30)
    assert acquire(path, lease_s=30) is None and not claim.exists()
    assert acquire(path, lease_s=30) is not None


def full_disk(*_arguments, **_named):
    raise OSError(errno.ENOSPC, "no space left")


def test_a_full_disk_leaves_no_half_of_a_file(tmp_path, monkeypatch):
    (tmp_path / "old").write_bytes(b"old")
    monkeypatch.setattr("os.write", full_disk)
    with pytest.raises(OSError, match="no space"):
        storage.create(tmp_path / "new", b"content")
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        storage.replace(tmp_path / "old", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_a_link_whose_answer_was_lost_was_ours(tmp_path):
    draft, final = tmp_path / "draft", tmp_path / "final"
    draft.write_bytes(b"ours")
    assert storage.publish_first(draft, final)
    assert storage.publish_first(draft, final)
    other = tmp_path / "other"
    other.write_bytes(b"theirs")
    assert not storage.publish_first(other, final)
    assert final.read_bytes() == b"ours"
