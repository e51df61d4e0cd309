"""Finds the failed rows of a run in its source, as it is now, so that a retry can label them."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from unspoken.runs.chunks import NAME_DIGEST_CHARS
from unspoken.runs.dataset.shards import iter_rows
from unspoken.runs.plan import ListedRow, chunks_by_file, read_plan
from worker.sources.row import SOURCE_CHANGED

WHOLE_FILE = frozenset(("bad_shard", "torn_shard"))
"""Reasons that may hide further rows of the same file, which the plan could not list."""


@dataclass
class _OfFile:
    """Failures in one file."""

    rows: set[int] = field(default_factory=set)
    nameless: set[int] = field(default_factory=set)
    """Rows of `rows` without a known picture name; only their position identifies them."""
    is_whole: bool = False


class FailedRows:
    """Finds the rows of a source that a run failed to label.

    A row is identified by its digest. A row that was changed since is identified by the name of its
    picture, or by its position if the run could not read that name.
    """

    def __init__(self, run_dir: Path, shards_folder: str) -> None:
        """Read a run's shards and plan. Raises NotFound if there is no plan, and OSError."""
        self._plan = read_plan(run_dir)
        self._files: dict[str, _OfFile] = defaultdict(_OfFile)
        for row in iter_rows(run_dir / shards_folder):
            if row.status != "failed":
                continue
            file = self._files[row.source_shard]
            file.rows.add(row.source_row)
            file.is_whole |= row.reason in WHOLE_FILE
            if not row.source_member and row.reason != SOURCE_CHANGED:
                file.nameless.add(row.source_row)
        self._chunks = chunks_by_file(self._plan)

    def among(self, name: str, rows: Iterable[ListedRow]) -> list[ListedRow]:
        """Return those of a file's rows that failed."""
        file = self._files.get(name)
        if file is None:
            return []
        chunk_ids = self._chunks.get(name, [])
        failed = {
            digest
            for chunk_id in chunk_ids
            for row, digest in self._plan.chunks[chunk_id].digests.items()
            if row in file.rows
        }
        pictures = {digest[:NAME_DIGEST_CHARS] for digest in failed}
        found = [
            row
            for row in rows
            if file.is_whole
            or row.digest in failed
            or row.digest[:NAME_DIGEST_CHARS] in pictures
            or row.row in file.nameless
        ]
        settled = self._settled(chunk_ids, {row.digest for row in found} - failed)
        return [row for row in found if row.digest not in settled]

    def _settled(self, chunk_ids: list[int], digests: set[str]) -> set[str]:
        """Return those of `digests` that were planned and did not fail."""
        settled: set[str] = set()
        for chunk_id in chunk_ids if digests else ():
            settled |= digests.intersection(self._plan.chunks[chunk_id].digests.values())
        return settled
