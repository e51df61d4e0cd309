"""Who works on what, and what is finished: plain files, so that an emptied broker forgets nothing.

attempts/000007.2   second try at chunk 7, and what was under way when it ended (attempts.py)
leases/000007       somebody works on chunk 7; renewed every few seconds (lease.py)
dataset/shard-000007.parquet, .json   the shard and its commit record: only these are the truth;
                    in `undecided/` where the run's thresholds are chosen at its end

Two workers on one chunk cost time and nothing else: the first to link its shard wins. What is
asked of one chunk costs the same however many there are; what lists a folder says so.
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
from unspoken.runs.files import file_sha256
from unspoken.runs.lease import Lease, held_names, hold
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


@dataclass(frozen=True)
class Ledger:
    """The ledger of one run's folder."""

    run_dir: Path
    lease_s: float = 20.0
    """A lease that was not renewed for so long is nobody's."""
    folder: str = "dataset"
    """Where in `run_dir` shards are published."""

    @cached_property
    def shards_dir(self) -> Path:
        """Where shards are published."""
        return self.run_dir / self.folder

    @cached_property
    def _attempts_dir(self) -> Path:
        return self.run_dir / "attempts"

    @cached_property
    def _leases_dir(self) -> Path:
        return self.run_dir / "leases"

    # ---- attempts ------------------------------------------------------------------------

    def past_attempts(self, chunk_id: int) -> PastAttempts:
        """What is known of a chunk's tries."""
        return past_attempts(self._attempts_dir, chunk_id)

    def begin_attempt(self, chunk_id: int, *, after: int = 0) -> Attempt:
        """Note, before any work, that a chunk is tried once more. Raises OSError.

        after: number of its last try.
        """
        return begin_attempt(self._attempts_dir, chunk_id, after=after)

    # ---- leases --------------------------------------------------------------------------

    def lease(
        self, chunk_id: int, *, put_down: Callable[[], bool] = lambda: False
    ) -> AbstractContextManager[Lease | None]:
        """Hold a chunk; None where another holds it. See unspoken.runs.lease.hold."""
        path = self._leases_dir / f"{chunk_id:06d}"
        return hold(path, lease_s=self.lease_s, put_down=put_down)

    def leased_chunks(self) -> frozenset[int]:
        """Chunks that somebody works on."""
        names = held_names(self._leases_dir, lease_s=self.lease_s)
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
        """Publish a chunk's rows; False where another writer was first, and its shard stays.

        timings: of the try so far; they go into the commit record, with the writing's own.
        Raises OSError where the disk does not take them; nothing is left of them then, or a shard
        without its record, which is adopted later.
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
        """Whether the chunk has its commit record."""
        return storage.exists(self.shards_dir / record_name(chunk_id))

    def orphaned(self, chunk_id: int) -> bool:
        """Whether there is a shard and no record: its writer ended in between, or is about to."""
        return storage.exists(self.shards_dir / shard_name(chunk_id)) and not self.committed(
            chunk_id
        )

    def read_record(self, chunk_id: int) -> CommitRecord | None:
        """The chunk's commit record; None where there is none. Raises ValidationError."""
        content = storage.read(self.shards_dir / record_name(chunk_id))
        return None if content is None else CommitRecord.model_validate_json(content)

    def committed_chunks(self) -> frozenset[int]:
        """Chunks with a commit record; lists the folder."""
        return frozenset(self._numbered(r"shard-(\d+)\.json"))

    def orphans(self) -> frozenset[int]:
        """Chunks with a shard and no record; lists the folder."""
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
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's trouble; Arrow's own errors have no number
            self._set_aside(final, why=str(error))
            return False
        if [(row.source_shard, row.source_row) for row in rows] != list(keys):
            self._set_aside(final, why="it holds other rows")
            return False
        sha256 = file_sha256(final)
        self._write_record(chunk_id, rows, sha256=sha256, attempt=0, adopted=True)
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

    def sweep(self, num_chunks: int) -> None:
        """Remove drafts of dead writers, and set aside shards that are not in the plan."""
        for folder in {self.shards_dir, self.run_dir / "dataset"}:
            for name in list(storage.names(folder)):
                if name.startswith(".") and name.endswith(".tmp"):
                    storage.remove(folder / name)
                elif (chunk_id := _chunk_of(name)) is not None and chunk_id >= num_chunks:
                    self._set_aside(folder / name, why=f"the plan has {num_chunks} chunks")

    def _write_record(self, chunk_id: int, rows: Sequence[Row], **about: Any) -> None:
        """`about`: the fields of a commit record that its rows do not tell."""
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
