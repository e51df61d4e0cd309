"""Who works on what, and what is finished: plain files, so that an emptied broker forgets nothing.

attempts/000007.2          second attempt at chunk 7, created exclusively before any work
attempts/000007.2.waited   the same, given back because a service was busy: not counted
attempts/000007.3.item-5.1 chunk 7 is done item by item; a process that ends badly leaves this
leases/000007              somebody works on chunk 7; its mtime is renewed every few seconds
dataset/shard-000007.parquet, .json   the shard and its commit record: only these are the truth;
                           in `undecided/` where the run's thresholds are chosen at its end

Two workers on one chunk cost time and nothing else: the first to link its shard wins. Ages of
leases are taken from the file system's own clock, so hosts need not agree on the time.
"""

import logging
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError

from unspoken.errors import NotReady, Overloaded
from unspoken.runs.files import file_sha256, sync_folder, write_atomically
from unspoken.runs.rows import Row
from unspoken.runs.shards import (
    CommitRecord,
    count_rows,
    dump_record,
    read_record,
    read_shard,
    record_name,
    shard_name,
    write_shard,
)
from unspoken.timings import Timings

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class Ledger:
    """The ledger of one run's folder."""

    run_dir: Path
    lease_s: float = 20.0
    """A lease that was not renewed for so long is nobody's."""
    folder: str = "dataset"
    """Where in `run_dir` shards are published."""

    @property
    def shards_dir(self) -> Path:
        """Where shards are published."""
        return self.run_dir / self.folder

    # ---- attempts ------------------------------------------------------------------------

    def begin_attempt(self, chunk_id: int) -> "Attempt":
        """Note, before any work, that a chunk is tried once more."""
        while True:
            number = self._last_attempt(chunk_id) + 1
            path = self.run_dir / "attempts" / f"{chunk_id:06d}.{number}"
            if _create_exclusively(path):
                return Attempt(chunk_id=chunk_id, number=number, path=path)

    def num_attempts(self, chunk_id: int) -> int:
        """How often a chunk was tried, without the times when it had to wait."""
        pattern = re.compile(rf"{chunk_id:06d}\.\d+")
        return sum(bool(pattern.fullmatch(name)) for name in self._attempt_names(chunk_id))

    def total_attempts(self) -> int:
        """Attempts at all chunks."""
        pattern = re.compile(r"\d+\.\d+")
        names = (entry.name for entry in os.scandir(self.run_dir / "attempts"))
        return sum(bool(pattern.fullmatch(name)) for name in names)

    def num_item_attempts(self, chunk_id: int, item: int) -> int:
        """How many processes ended while they had this item alone."""
        pattern = re.compile(rf"{chunk_id:06d}\.\d+\.item-{item}")
        return sum(bool(pattern.fullmatch(name)) for name in self._attempt_names(chunk_id))

    def _attempt_names(self, chunk_id: int) -> list[str]:
        return [path.name for path in (self.run_dir / "attempts").glob(f"{chunk_id:06d}.*")]

    def _last_attempt(self, chunk_id: int) -> int:
        numbers = [int(name.split(".")[1]) for name in self._attempt_names(chunk_id)]
        return max(numbers, default=0)

    # ---- leases --------------------------------------------------------------------------

    @contextmanager
    def lease(self, chunk_id: int) -> Iterator["Lease | None"]:
        """Hold a chunk while a thread renews the lease; None where another holds it.

        The lease is given back at the end; after `Lease.rest` it lapses at its own time.
        """
        path = self.run_dir / "leases" / f"{chunk_id:06d}"
        lease = self._acquire(path)
        if lease is None:
            yield None
            return
        renewing = threading.Thread(target=lease.keep_renewed, name="lease", daemon=True)
        renewing.start()
        try:
            yield lease
        finally:
            lease.stop()
            renewing.join()
            lease.give_back()

    def leased_chunks(self) -> frozenset[int]:
        """Chunks that somebody works on."""
        now_s = self._file_system_time()
        held = set()
        for entry in os.scandir(self.run_dir / "leases"):
            if not entry.name.isdigit():
                continue
            try:
                age_s = now_s - entry.stat().st_mtime
            except FileNotFoundError:
                continue
            if age_s < self.lease_s:
                held.add(int(entry.name))
        return frozenset(held)

    def _acquire(self, path: Path) -> "Lease | None":
        token = secrets.token_hex(8)
        for _ in range(2):
            if _create_exclusively(path, content=token):
                return Lease(path=path, token=token, lease_s=self.lease_s)
            if not self._remove_stale(path):
                return None
        return None

    def _remove_stale(self, path: Path) -> bool:
        try:
            if self._file_system_time() - path.stat().st_mtime < self.lease_s:
                return False
            path.unlink()
        except FileNotFoundError:
            pass
        return True

    def _file_system_time(self) -> float:
        probe = self.run_dir / "leases" / f".clock-{os.getpid()}-{threading.get_ident()}"
        probe.touch()
        now_s = probe.stat().st_mtime
        probe.unlink(missing_ok=True)
        return now_s

    # ---- publication ---------------------------------------------------------------------

    def publish(
        self,
        chunk_id: int,
        rows: Sequence[Row],
        *,
        attempt: int,
        models: Mapping[str, str],
        timings: Timings | None = None,
    ) -> bool:
        """Publish a chunk's rows; False where another writer was first, and its shard stays.

        timings: of the attempt so far; they go into the commit record, with the writing's own.
        """
        timings = timings or Timings()
        final = self.shards_dir / shard_name(chunk_id)
        draft = self.shards_dir / f".{final.name}.{secrets.token_hex(6)}.tmp"
        try:
            with timings.measure("write"):
                write_shard(draft, rows)
                with draft.open("rb") as file:
                    os.fsync(file.fileno())
                won = self._link(draft, final)
        finally:
            draft.unlink(missing_ok=True)
        if won:
            self._write_record(
                chunk_id, rows, attempt=attempt, models=models, timings_ms=timings.as_ms()
            )
        return won

    def committed(self, chunk_id: int) -> bool:
        """Whether the chunk has its commit record."""
        return (self.shards_dir / record_name(chunk_id)).exists()

    def committed_chunks(self) -> frozenset[int]:
        """Chunks with a commit record."""
        return frozenset(self._numbered(r"shard-(\d+)\.json"))

    def orphans(self) -> frozenset[int]:
        """Chunks with a shard and no record: their writer ended in between, or is about to."""
        return frozenset(self._numbered(r"shard-(\d+)\.parquet")) - self.committed_chunks()

    def adopt(self, chunk_id: int, *, keys: Sequence[tuple[str, int]]) -> bool:
        """Give a shard without a record its record, if it holds the rows that were planned.

        `keys`: (source file, row) of the chunk. A file that is something else is set aside.
        """
        final = self.shards_dir / shard_name(chunk_id)
        try:
            rows = read_shard(final)
        except FileNotFoundError:
            return False
        except (OSError, pa.ArrowInvalid, ValidationError, TypeError) as error:
            self._set_aside(final, why=str(error))
            return False
        if [(row.source_shard, row.source_row) for row in rows] != list(keys):
            self._set_aside(final, why="it holds other rows")
            return False
        self._write_record(chunk_id, rows, attempt=0, models={}, adopted=True)
        return True

    def verify(self, chunk_id: int) -> bool:
        """Whether the shard is the one that its record names; both are set aside if not."""
        record_path = self.shards_dir / record_name(chunk_id)
        final = self.shards_dir / shard_name(chunk_id)
        try:
            if file_sha256(final) == read_record(record_path).sha256:
                return True
        except (FileNotFoundError, ValidationError):
            pass
        self._set_aside(record_path, why="its shard is not the one it names")
        self._set_aside(final, why="its record names another one")
        return False

    def sweep(self) -> None:
        """Remove what dead writers left in the shards' folder."""
        for path in self.shards_dir.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def _link(self, draft: Path, final: Path) -> bool:
        try:
            final.hardlink_to(draft)
        except FileExistsError:
            return False
        sync_folder(self.shards_dir)
        return True

    def _write_record(
        self,
        chunk_id: int,
        rows: Sequence[Row],
        *,
        attempt: int,
        models: Mapping[str, str],
        timings_ms: Mapping[str, float] | None = None,
        adopted: bool = False,
    ) -> None:
        name = shard_name(chunk_id)
        record = CommitRecord(
            shard=name,
            sha256=file_sha256(self.shards_dir / name),
            attempt=attempt,
            adopted=adopted,
            models=dict(models),
            timings_ms=dict(timings_ms or {}),
            **count_rows(rows),
        )
        write_atomically(self.shards_dir / record_name(chunk_id), dump_record(record))

    def _set_aside(self, path: Path, *, why: str) -> None:
        if path.exists():
            aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.foreign")
            path.rename(aside)
            logger.warning("set aside %s as %s: %s", path.name, aside.name, why)

    def _numbered(self, pattern: str) -> Iterator[int]:
        compiled = re.compile(pattern)
        for entry in os.scandir(self.shards_dir):
            match = compiled.fullmatch(entry.name)
            if match:
                yield int(match.group(1))


@dataclass(frozen=True)
class Attempt:
    """One try at a chunk."""

    chunk_id: int
    number: int
    path: Path

    def wait_instead(self) -> None:
        """The try is not counted: a service was busy, and the chunk is not to blame."""
        self.path.rename(self.path.with_name(self.path.name + ".waited"))

    @contextmanager
    def item(self, item: int) -> Iterator[None]:
        """Mark one item while it is worked on alone; the mark stays when the process ends badly."""
        mark = self.path.with_name(f"{self.path.name}.item-{item}")
        _create_exclusively(mark)
        try:
            yield
        except (Overloaded, NotReady):
            mark.unlink(missing_ok=True)
            raise
        mark.unlink(missing_ok=True)


@dataclass
class Lease:
    """A chunk that is ours until we stop renewing it."""

    path: Path
    token: str
    lease_s: float
    _ended: threading.Event = field(default_factory=threading.Event)
    _rest_s: float | None = None

    def rest(self, seconds: float) -> None:
        """At the end, leave the chunk alone for `seconds` (at most a lease's life)."""
        self._rest_s = min(max(seconds, 0.0), self.lease_s)

    def keep_renewed(self) -> None:
        """Renew every third of a lease's life, until `stop`."""
        while not self._ended.wait(self.lease_s / 3):
            if self._is_ours():
                self._touch(age_s=0.0)

    def stop(self) -> None:
        """Renew no more."""
        self._ended.set()

    def give_back(self) -> None:
        """Remove the lease, or let it rest."""
        if not self._is_ours():
            return
        if self._rest_s is None:
            self.path.unlink(missing_ok=True)
        else:
            self._touch(age_s=self.lease_s - self._rest_s)

    def _is_ours(self) -> bool:
        try:
            return self.path.read_text() == self.token
        except FileNotFoundError:
            return False

    def _touch(self, *, age_s: float) -> None:
        try:
            os.utime(self.path)
            if age_s:
                now_s = self.path.stat().st_mtime
                os.utime(self.path, (now_s, now_s - age_s))
        except FileNotFoundError:
            logger.warning("lease %s is gone; the chunk may be done twice", self.path.name)


def _create_exclusively(path: Path, *, content: str = "") -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
    return True
