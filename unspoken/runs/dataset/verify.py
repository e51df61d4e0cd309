"""Verify a run: read and hash its plan, commit records, shards and manifest again.

This module changes nothing. The dispatcher repairs a run in progress (`Ledger.verify`,
`Ledger.adopt`); this module checks that a dataset matches its records and its manifest.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError

from unspoken.errors import Conflict, NotFound, PlanDamaged
from unspoken.progress import NO_PROGRESS, Progress
from unspoken.runs import storage
from unspoken.runs.chunks import Chunk
from unspoken.runs.dataset.manifest import LABELS_FILE, MANIFEST_FILE
from unspoken.runs.dataset.rows import Row
from unspoken.runs.dataset.shards import (
    CommitRecord,
    chunk_of,
    count_rows,
    read_record,
    read_shard,
    record_name,
    shard_name,
)
from unspoken.runs.files import file_sha256
from unspoken.runs.plan import PLAN_FILE, Plan, config_sha256, read_plan, read_plan_file
from unspoken.runs.store import read_run, read_status
from unspoken.wire.base import ReplyModel

CheckSource = Callable[[Chunk], object]
"""Reads a chunk's rows from their source. Raises Conflict if they differ from the plan."""


class Verdict(ReplyModel):
    """The result of a verification. A run in progress may have open chunks and no problems."""

    run_id: str
    state: str
    chunks_total: int
    chunks_committed: int
    chunks_open: int
    rows: int
    """Number of rows in committed shards."""
    source_checked: bool
    problems: list[str]

    @property
    def is_valid(self) -> bool:
        """True if there are no problems."""
        return not self.problems


def verify_run(
    runs_dir: Path,
    run_id: str,
    *,
    check_source: CheckSource | None = None,
    progress: Progress = NO_PROGRESS,
) -> Verdict:
    """Verify a run and return the verdict. Raises NotFound if the run does not exist.

    check_source: if given, also checks the source's rows against the plan.
    """
    run, state = read_run(runs_dir, run_id), read_status(runs_dir, run_id).state
    run_dir = runs_dir / run_id
    problems: list[str] = []
    try:
        plan = read_plan(run_dir)
    except (NotFound, PlanDamaged, OSError) as error:
        if state != "planned":
            problems.append(f"{PLAN_FILE}: {error}")
        return _verdict(run_id, state, problems, source_checked=False)
    problems += _plan_problems(run_dir, plan)
    if check_source is not None:
        problems += _source_problems(plan, check_source, progress)
    shards = _ShardFolder(run_dir / run.shards_folder, plan, progress)
    problems += shards.problems()
    if state == "done":
        problems += [
            f"{shard_name(chunk)}: missing, although the run is done" for chunk in shards.open
        ]
        dataset = shards
        if run.shards_folder != "dataset":
            dataset = _ShardFolder(run_dir / "dataset", plan, progress)
            problems += dataset.problems()
            problems += [f"dataset/{shard_name(chunk)}: missing" for chunk in dataset.open]
        problems += _manifest_problems(run_dir, dataset.recorded)
    return Verdict(
        run_id=run_id,
        state=state,
        chunks_total=len(plan.chunks),
        chunks_committed=shards.committed,
        chunks_open=len(shards.open),
        rows=shards.rows,
        source_checked=check_source is not None,
        problems=problems,
    )


def _verdict(run_id: str, state: str, problems: list[str], *, source_checked: bool) -> Verdict:
    return Verdict(
        run_id=run_id,
        state=state,
        chunks_total=0,
        chunks_committed=0,
        chunks_open=0,
        rows=0,
        source_checked=source_checked,
        problems=problems,
    )


def _plan_problems(run_dir: Path, plan: Plan) -> Iterator[str]:
    content = read_plan_file(run_dir)
    if config_sha256(plan.config) != plan.config_sha256:
        yield f"{PLAN_FILE}: its config does not match config_sha256"
    # Check again, because the plan may have been opened before its chunks were damaged.
    if file_sha256(run_dir / content.chunks_file) != content.chunks_sha256:
        yield f"{content.chunks_file}: does not match the hash in {PLAN_FILE}"
    stops: dict[str, int] = {}
    rows = 0
    for number, chunk in enumerate(plan.chunks):
        if chunk.id != number:
            yield f"{PLAN_FILE}: chunk {number} has the id {chunk.id}"
        for start, stop in chunk.ranges:
            if start < stops.get(chunk.source, 0):
                yield f"{PLAN_FILE}: row {start} of {chunk.source} is planned twice"
            stops[chunk.source] = stop
        rows += chunk.num_rows
    if rows != plan.num_rows:
        yield f"{PLAN_FILE}: {rows} rows in its chunks, but num_rows is {plan.num_rows}"


def _source_problems(plan: Plan, check_source: CheckSource, progress: Progress) -> Iterator[str]:
    with progress.stage("checking the source", total=plan.num_rows) as stage:
        for chunk in plan.chunks:
            try:
                check_source(chunk)
            except (Conflict, OSError) as error:
                yield f"chunk {chunk.id}: {error}"
            stage.advance(chunk.num_rows)


class _ShardFolder:
    """Verifies one folder of shards. Its counts are complete once `problems` is exhausted."""

    def __init__(self, folder: Path, plan: Plan, progress: Progress) -> None:
        self._folder, self._plan, self._progress = folder, plan, progress
        self.committed, self.rows = 0, 0
        self.recorded: list[tuple[str, str]] = []
        """(shard, sha256) pairs from the commit records."""
        self.open: list[int] = []

    def problems(self) -> Iterator[str]:
        names = set(storage.names(self._folder))
        rows = self._plan.num_rows
        with self._progress.stage(f"checking {self._folder.name}", total=rows) as stage:
            for chunk in self._plan.chunks:
                for problem in self._chunk(chunk, names):
                    yield f"{self._folder.name}/{problem}"
                stage.advance(chunk.num_rows)
        for name in sorted(names):
            if name.startswith("shard-") and not _is_planned(name, self._plan):
                yield f"{self._folder.name}/{name}: not in the plan"

    def _chunk(self, chunk: Chunk, names: set[str]) -> Iterator[str]:
        shard, record_file = shard_name(chunk.id), record_name(chunk.id)
        if record_file not in names:
            # A shard without a record does not count: its writer ended before it wrote the record.
            self.open.append(chunk.id)
            return
        try:
            record = read_record(self._folder / record_file)
        except (OSError, ValidationError) as error:
            yield f"{record_file}: not a valid commit record: {str(error).splitlines()[0]}"
            return
        self.recorded.append((record.shard, record.sha256))
        if shard not in names:
            yield f"{shard}: missing, although its commit record exists"
            return
        if file_sha256(self._folder / shard) != record.sha256:
            yield f"{shard}: does not match the hash in its commit record"
            return
        try:
            rows = read_shard(self._folder / shard)
        except (OSError, pa.ArrowInvalid, ValidationError, TypeError) as error:
            yield f"{shard}: not a valid shard: {str(error).splitlines()[0]}"
            return
        self.committed += 1
        self.rows += len(rows)
        yield from self._rows(chunk, rows, record)

    def _rows(self, chunk: Chunk, rows: list[Row], record: CommitRecord) -> Iterator[str]:
        shard, plan = shard_name(chunk.id), self._plan
        if [(row.source_shard, row.source_row) for row in rows] != chunk.keys:
            yield f"{shard}: its rows differ from the plan"
        for name, value in count_rows(rows).items():
            recorded = getattr(record, name)
            if recorded != value:
                yield f"{record_name(chunk.id)}: {name} is {recorded}, but the shard has {value}"
        for kind, model in record.models.items():
            planned = plan.models.get(kind)
            if planned is not None and model != f"{planned.name}@{planned.revision}":
                yield (
                    f"{shard}: labelled with {kind} {model}, "
                    f"but the plan has {planned.name}@{planned.revision}"
                )
        prompts = {row.prompt_sha256 for row in rows} - {plan.prompt_sha256, None}
        if plan.prompt_sha256 is not None and prompts:
            yield f"{shard}: prompts differ from the plan"


def _is_planned(name: str, plan: Plan) -> bool:
    try:
        return chunk_of(Path(name)) < len(plan.chunks)
    except ValueError:
        return False


def _manifest_problems(run_dir: Path, recorded: list[tuple[str, str]]) -> Iterator[str]:
    dataset_dir = run_dir / "dataset"
    try:
        manifest = json.loads((dataset_dir / MANIFEST_FILE).read_bytes())
        listed = [(each["file"], each["sha256"]) for each in manifest["shards"]]
        labels_sha256, plan_sha256 = manifest["labels"]["sha256"], manifest["plan_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{MANIFEST_FILE}: not a valid manifest: {error!r}"
        return
    if listed != recorded:
        yield f"{MANIFEST_FILE}: its list of shards differs from the files"
    if plan_sha256 != file_sha256(run_dir / PLAN_FILE):
        yield f"{MANIFEST_FILE}: plan_sha256 differs from the plan"
    labels = dataset_dir / LABELS_FILE
    if not labels.is_file() or file_sha256(labels) != labels_sha256:
        yield f"{LABELS_FILE}: does not match the hash in {MANIFEST_FILE}"
