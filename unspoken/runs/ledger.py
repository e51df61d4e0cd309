"""Leases, attempts and committed shards of a run, as plain files.

Files are used so that no state is lost if the broker loses its messages.

attempts/000007.2   second attempt at chunk 7, with the items in progress (attempts.py)
leases/000007       the lease of chunk 7; renewed every few seconds (lease.py)
dataset/shard-000007.parquet, .json   the shard and its commit record, which alone decide that a
                    chunk is done; in `undecided/` if the run's thresholds are chosen at its end

Two workers on one chunk only cost time: the first to link its shard wins. An operation on one chunk
has a cost that does not depend on the number of chunks. Methods that list a folder say so.
"""

import logging
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from unspoken.runs import storage
from unspoken.runs.attempts import (
    Attempt,
    PastAttempts,
    begin_attempt,
    past_attempts,
)
from unspoken.runs.dataset.rows import Row
from unspoken.runs.dataset.shards import (
    CommitRecord,
    count_rows,
    dump_record,
    read_record,
    read_shard,
    record_name,
    shard_name,
    write_shard,
)
from unspoken.runs.files import file_sha256
from unspoken.runs.lease import Lease, leased, leased_names
from unspoken.timings import Timings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ledger:
    """The ledger of one run's folder."""

    run_dir: Path
    lease_s: float = 20.0
    """A lease expires if it is not renewed for this long."""
    folder: str = "dataset"
    """Name of the folder in `run_dir` where shards are published."""

    @cached_property
    def shards_dir(self) -> Path:
        """Path of the folder where shards are published."""
        return self.run_dir / self.folder

    @cached_property
    def _attempts_dir(self) -> Path:
        return self.run_dir / "attempts"

    @cached_property
    def _leases_dir(self) -> Path:
        return self.run_dir / "leases"

    # ---- attempts ------------------------------------------------------------------------

    def past_attempts(self, chunk_id: int) -> PastAttempts:
        """Return a summary of a chunk's attempts."""
        return past_attempts(self._attempts_dir, chunk_id)

    def begin_attempt(self, chunk_id: int, *, after: int = 0) -> Attempt:
        """Record a new attempt at a chunk. Call it before any work. Raises OSError.

        after: number of the chunk's attempts so far.
        """
        return begin_attempt(self._attempts_dir, chunk_id, after=after)

    # ---- leases --------------------------------------------------------------------------

    def lease(
        self, chunk_id: int, *, should_release: Callable[[], bool] = lambda: False
    ) -> AbstractContextManager[Lease | None]:
        """Acquire the lease of a chunk as a context manager. See unspoken.runs.lease.leased.

        Yields None if another process holds the lease.
        """
        path = self._leases_dir / f"{chunk_id:06d}"
        return leased(path, lease_s=self.lease_s, should_release=should_release)

    def leased_chunks(self) -> frozenset[int]:
        """Return the chunks whose lease is held; lists the folder."""
        names = leased_names(self._leases_dir, lease_s=self.lease_s)
        return frozenset(int(name) for name in names if name.isdigit())

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
        """Publish a chunk's rows; return False if another writer was first, whose shard stays.

        timings: of the attempt so far; they go into the commit record, with the time for writing.
        Raises OSError if the disk rejects a write. Then either no file is left, or a shard without
        its record, which is adopted later.
        """
        final = self.shards_dir / shard_name(chunk_id)
        draft = self.shards_dir / f".{final.name}.{secrets.token_hex(6)}.tmp"
        timings = timings or Timings()
        try:
            with timings.measure("write"):
                write_shard(draft, rows)
                sha256 = storage.seal(draft)
                won = storage.publish_first(draft, final)
        finally:
            storage.remove(draft)
        if won:
            self._write_record(
                chunk_id,
                rows,
                sha256=sha256,
                attempt=attempt,
                models=dict(models),
                timings_ms=timings.as_ms(),
            )
        return won

    def committed(self, chunk_id: int) -> bool:
        """Return True if the chunk has its commit record."""
        return storage.exists(self.shards_dir / record_name(chunk_id))

    def orphaned(self, chunk_id: int) -> bool:
        """Return True if a shard has no record.

        Its writer ended before it wrote the record, or is about to write it.
        """
        return storage.exists(self.shards_dir / shard_name(chunk_id)) and not self.committed(
            chunk_id
        )

    def read_record(self, chunk_id: int) -> CommitRecord | None:
        """Return the chunk's commit record; None if there is none. Raises ValidationError."""
        content = storage.read(self.shards_dir / record_name(chunk_id))
        return None if content is None else CommitRecord.model_validate_json(content)

    def committed_chunks(self) -> frozenset[int]:
        """Return the chunks with a commit record; lists the folder."""
        return frozenset(self._numbered(r"shard-(\d+)\.json"))

    def orphans(self) -> frozenset[int]:
        """Return the chunks with a shard and no record; lists the folder."""
        return frozenset(self._numbered(r"shard-(\d+)\.parquet")) - self.committed_chunks()

    def adopt(self, chunk_id: int, *, keys: Sequence[tuple[str, int]]) -> bool:
        """Write the missing record of a shard; return True if the shard holds the planned rows.

        `keys`: (source file, row) of the chunk. Any other file is renamed out of the way.
        """
        final = self.shards_dir / shard_name(chunk_id)
        try:
            rows = read_shard(final)
        except FileNotFoundError:
            return False
        except (OSError, pa.ArrowInvalid, ValidationError, TypeError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # an error of the disk; Arrow's own errors have no errno
            self._set_aside(final, why=str(error))
            return False
        if [(row.source_shard, row.source_row) for row in rows] != list(keys):
            self._set_aside(final, why="it contains other rows")
            return False
        sha256 = file_sha256(final)
        self._write_record(chunk_id, rows, sha256=sha256, attempt=0, adopted=True)
        return True

    def verify(self, chunk_id: int) -> bool:
        """Return True if the shard matches the sha256 in its record.

        If not, both files are renamed out of the way.
        """
        record_path = self.shards_dir / record_name(chunk_id)
        final = self.shards_dir / shard_name(chunk_id)
        try:
            if file_sha256(final) == read_record(record_path).sha256:
                return True
        except (FileNotFoundError, ValidationError):
            pass
        self._set_aside(record_path, why="its shard has another hash")
        self._set_aside(final, why="its record has another hash")
        return False

    def sweep(self, num_chunks: int) -> None:
        """Remove drafts of writers that ended, and rename shards that are not in the plan."""
        for folder in {self.shards_dir, self.run_dir / "dataset"}:
            for name in list(storage.names(folder)):
                if name.startswith(".") and name.endswith(".tmp"):
                    storage.remove(folder / name)
                elif (chunk_id := _chunk_of(name)) is not None and chunk_id >= num_chunks:
                    self._set_aside(folder / name, why=f"the plan has {num_chunks} chunks")

    def _write_record(self, chunk_id: int, rows: Sequence[Row], **about: Any) -> None:
        """Write a commit record. `about`: its fields that do not follow from the rows."""
        record = CommitRecord(shard=shard_name(chunk_id), **about, **count_rows(rows))
        storage.replace(self.shards_dir / record_name(chunk_id), dump_record(record))

    def _set_aside(self, path: Path, *, why: str) -> None:
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.foreign")
        if storage.set_aside(path, aside):
            logger.warning("set aside %s as %s: %s", path.name, aside.name, why)

    def _numbered(self, pattern: str) -> Iterator[int]:
        compiled = re.compile(pattern)
        for name in storage.names(self.shards_dir):
            match = compiled.fullmatch(name)
            if match:
                yield int(match.group(1))


def _chunk_of(name: str) -> int | None:
    """Return the chunk of a shard or record by its file's name; None for other files."""
    match = re.fullmatch(r"shard-(\d+)\.(parquet|json)", name)
    return int(match.group(1)) if match else None
