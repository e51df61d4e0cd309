import os
import threading

import pytest

from tests.unspoken.runs.rows import labelled_row, plan
from unspoken.runs.dataset.shards import (
    read_record,
    read_shard,
    record_name,
    shard_name,
    write_shard,
)
from unspoken.runs.ledger import Ledger

ROWS = [labelled_row(index) for index in range(4)]
KEYS = plan().chunks[0].keys


@pytest.fixture
def ledger(tmp_path):
    for name in ("attempts", "leases", "dataset"):
        (tmp_path / name).mkdir()
    return Ledger(tmp_path, lease_s=0.6)


def publish(ledger, rows=ROWS, attempt=1):
    return ledger.publish(0, rows, attempt=attempt, models={})


def test_a_published_chunk_has_a_shard_and_a_record_that_fits(ledger):
    assert publish(ledger)
    record = read_record(ledger.shards_dir / record_name(0))
    assert (record.num_rows, record.labelled, record.annotations) == (4, 4, 8)
    assert ledger.verify(0) and ledger.committed(0) and not ledger.orphans()
    names = sorted(path.name for path in ledger.shards_dir.iterdir())
    assert names == [record_name(0), shard_name(0)]


def test_of_two_writers_the_first_wins_and_nothing_is_torn(ledger):
    barrier = threading.Barrier(8)
    won = []

    def write(number):
        rows = [row.model_copy(update={"caption": f"writer {number}"}) for row in ROWS]
        barrier.wait()
        if publish(ledger, rows, attempt=number):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    rows = read_shard(ledger.shards_dir / shard_name(0))
    assert {row.caption for row in rows} == {f"writer {won[0]}"}
    assert ledger.verify(0)


def test_a_shard_whose_writer_died_before_the_record_is_adopted(ledger):
    write_shard(ledger.shards_dir / shard_name(0), ROWS)
    assert ledger.orphans() == {0}
    assert ledger.adopt(0, keys=KEYS)
    assert ledger.committed_chunks() == {0} and ledger.verify(0)
    assert read_record(ledger.shards_dir / record_name(0)).adopted


@pytest.mark.parametrize("content", ["torn", "foreign", "rows of another chunk"])
def test_what_is_no_shard_of_the_chunk_is_set_aside(ledger, content):
    path = ledger.shards_dir / shard_name(0)
    write_shard(path, ROWS if content != "rows of another chunk" else ROWS[:2])
    if content == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    elif content == "foreign":
        path.write_bytes(b"something else")
    assert not ledger.adopt(0, keys=KEYS)
    assert not path.exists() and publish(ledger)


def test_a_shard_that_is_not_the_recorded_one_is_found_and_done_again(ledger):
    publish(ledger)
    (ledger.shards_dir / shard_name(0)).write_bytes(b"flipped")
    assert not ledger.verify(0)
    assert not ledger.committed(0) and publish(ledger) and ledger.verify(0)


def test_one_worker_holds_a_lease_and_renews_it(ledger):
    with ledger.lease(3) as first:
        assert first is not None
        threading.Event().wait(1.0)
        assert ledger.leased_chunks() == {3}
        with ledger.lease(3) as second:
            assert second is None
    assert ledger.leased_chunks() == frozenset()


def test_the_lease_of_a_dead_worker_lapses(ledger):
    path = ledger.run_dir / "leases/000003"
    path.write_text("dead")
    with ledger.lease(3) as lease:
        assert lease is None
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 1))
    assert ledger.leased_chunks() == frozenset()
    with ledger.lease(3) as lease:
        assert lease is not None


def test_a_chunk_that_rests_is_left_alone_for_that_time(ledger):
    with ledger.lease(3) as lease:
        lease.delay_release(0.4)
    assert ledger.leased_chunks() == {3}
    threading.Event().wait(0.5)
    assert ledger.leased_chunks() == frozenset()


def test_attempts_are_counted_unless_they_only_waited(ledger):
    ledger.begin_attempt(0)
    ledger.begin_attempt(0, after=1).discard()
    second = ledger.begin_attempt(0, after=ledger.past_attempts(0).number)
    ledger.begin_attempt(1)
    assert second.number == 2
    assert [ledger.past_attempts(chunk).number for chunk in (0, 1, 2)] == [2, 1, 0]


def test_an_attempt_that_ends_badly_says_which_items_were_under_way(ledger):
    attempt = ledger.begin_attempt(0)
    with attempt.under_way([0, 1, 2]):
        pass
    with pytest.raises(KeyError), attempt.under_way([1, 2]), attempt.under_way([3]):
        raise KeyError
    assert ledger.past_attempts(0).ended_with == {1: 1, 2: 1, 3: 1}
    again = ledger.begin_attempt(0, after=1)
    with pytest.raises(KeyError), again.under_way([1]):
        raise KeyError
    assert ledger.past_attempts(0).ended_with == {1: 2, 2: 1, 3: 1}
