"""One attempt at a chunk: the rules that decide if the chunk is done, kept, retried or given up.

A chunk is skipped if it is committed, cancelled or leased by another worker. Of two shards of one
chunk, the first is kept. An attempt does not count if a service, the disk or a model was
unavailable; the chunk is retried later.

An item that was in progress when an attempt failed is a suspect. After MAX_ATTEMPTS such attempts
it is a poison item: it becomes a failed row and is not started again. Suspects go first and in
small batches, so that a poison item ends the attempt before other items have cost time.
"""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from unspoken.errors import ModelsChanged, NotFound, NotReady, PlanDamaged, ServiceUnavailable
from unspoken.logs import fields
from unspoken.retries import retry_after_s
from unspoken.runs.attempts import MAX_ATTEMPTS, Attempt, PastAttempts
from unspoken.runs.chunks import Chunk
from unspoken.runs.dataset.rows import Row
from unspoken.runs.lease import Lease
from unspoken.runs.ledger import Ledger
from unspoken.runs.location import SourceLocation, locate_source
from unspoken.runs.plan import LabelConfig, Plan, forget_plans, read_plan
from unspoken.runs.store import is_cancelled, read_run
from unspoken.timings import Timings
from unspoken.wire.base import ModelInfo
from worker.label.pipeline import NOT_STARTED_ERRORS, SERVICE_ERRORS, Ports, failed_row, label_chunk
from worker.process.graceful_shutdown import GracefulShutdown
from worker.sources.intake import read_chunk
from worker.sources.row import SOURCE_CHANGED, SourceRow

logger = logging.getLogger(__name__)

# Shortest time after which a chunk is retried when a service, the disk or a model is unavailable.
REST_S = 5.0
MAX_OPEN_RUNS = 8
NUM_BATCHES = 8
"""Number of batches into which the items suspected once are split."""


@dataclass(frozen=True)
class OpenRun:
    """A run whose plan has been read: its plan, its ledger and the location of its source."""

    plan: Plan
    ledger: Ledger
    location: SourceLocation


@dataclass(frozen=True)
class WorkerContext:
    """A worker's folders and ports, the check that the ports are ready, and its shutdown.

    data_dir: see unspoken.runs.location.locate_source.
    """

    runs_dir: Path
    data_dir: Path | None
    lease_s: float
    ports: Ports
    check_ready: Callable[[LabelConfig], None]
    shutdown: GracefulShutdown = field(default_factory=GracefulShutdown)
    _open_runs: dict[str, OpenRun] = field(default_factory=dict)
    """Cache of opened runs by id; at most MAX_OPEN_RUNS."""

    def open_run(self, run_id: str) -> OpenRun:
        """Return an opened run, cached until its plan changes. Raises NotFound, PlanDamaged."""
        run_dir = self.runs_dir / run_id
        plan = read_plan(run_dir)
        opened = self._open_runs.get(run_id)
        if opened is None or opened.plan is not plan:
            run = read_run(self.runs_dir, run_id)
            opened = OpenRun(
                plan=plan,
                ledger=Ledger(run_dir, lease_s=self.lease_s, folder=run.shards_folder),
                location=locate_source(run, runs_dir=self.runs_dir, data_dir=self.data_dir),
            )
            if len(self._open_runs) == MAX_OPEN_RUNS:
                self._open_runs.clear()
            self._open_runs[run_id] = opened
        return opened


def label_one_chunk(run_id: str, chunk_id: int, context: WorkerContext) -> bool:
    """Label and publish one chunk; return False if there was nothing to do.

    Raises SERVICE_ERRORS, ModelsChanged, PlanDamaged, and OSError if the disk fails.
    """
    try:
        opened = context.open_run(run_id)
    except NotFound:
        logger.warning("the run or its plan does not exist")
        return False
    ledger = opened.ledger
    if chunk_id >= len(opened.plan.chunks) or is_cancelled(ledger.run_dir):
        return False
    if ledger.committed(chunk_id):
        return False
    chunk = _chunk_of(opened.plan, chunk_id)
    attempt = ChunkAttempt(chunk, opened, context)
    with ledger.lease(chunk_id, should_release=attempt.should_release) as lease:
        if lease is None or ledger.committed(chunk_id):
            return False
        if ledger.orphaned(chunk_id) and ledger.adopt(chunk_id, keys=chunk.keys):
            return True
        return attempt.make(lease)


def _chunk_of(plan: Plan, chunk_id: int) -> Chunk:
    """Return a chunk of an open plan. Raises PlanDamaged; the plan is then reread next time."""
    try:
        return plan.chunks[chunk_id]
    except ValidationError as error:
        forget_plans()
        raise PlanDamaged(f"chunk {chunk_id} of run {plan.run_id!r} cannot be read") from error


class ChunkAttempt:
    """One attempt at a chunk, under its lease."""

    def __init__(self, chunk: Chunk, run: OpenRun, context: WorkerContext) -> None:
        self._chunk, self._run, self._context = chunk, run, context
        self._attempt: Attempt | None = None

    def should_release(self) -> bool:
        """Return True if the grace period is over; the attempt then does not count.

        Called by the thread that renews the lease.
        """
        if not self._context.shutdown.is_over:
            return False
        about = fields(run=self._run.plan.run_id, chunk=self._chunk.id)
        logger.warning("chunk released: the worker is shutting down", extra=about)
        if self._attempt is not None:
            self._attempt.discard()
        return True

    def make(self, lease: Lease) -> bool:
        """Make one attempt at the chunk; return False if another worker published it first."""
        try:
            self._context.check_ready(self._run.plan.config)
            self._check_models()
            past = self._run.ledger.past_attempts(self._chunk.id)
            attempt = self._run.ledger.begin_attempt(self._chunk.id, after=past.number)
            self._attempt = attempt
            timings = Timings()
            rows = self._label(attempt, past, timings)
            self._check_models(rows)
            won = self._run.ledger.publish(
                self._chunk.id,
                rows,
                attempt=attempt.number,
                models=self._answering(),
                timings=timings,
            )
            attempt.succeeded()
            took_ms = timings.as_ms()["total"]
            about = fields(attempt=attempt.number, rows=len(rows), won=won, took_ms=took_ms)
            logger.info("committed" if won else "already committed by another worker", extra=about)
            return won
        except (*NOT_STARTED_ERRORS, ModelsChanged, OSError) as error:
            lease.delay_release(max(REST_S, retry_after_s(error)))
            if self._attempt is not None:
                self._attempt.discard()
            raise
        except SERVICE_ERRORS:
            lease.delay_release(REST_S)
            raise
        finally:
            if self._attempt is not None:
                self._attempt.close()

    def _label(self, attempt: Attempt, past: PastAttempts, timings: Timings) -> list[Row]:
        try:
            with timings.measure("read"):
                sources = self._read()
        except OSError as error:
            if not os.access(self._run.location.root, os.R_OK | os.X_OK):
                raise NotReady(f"the data folder is not available: {error}") from error
            if past.number >= MAX_ATTEMPTS:
                return self._all_failed("unreadable", str(error))
            raise ServiceUnavailable(f"{self._chunk.source} cannot be read: {error}") from error
        detail = f"{MAX_ATTEMPTS} attempts failed at this item: worker killed, or service failed"
        rows = {
            item: failed_row(sources[item], reason="poison", detail=detail)
            for item in poison_items(past)
        }
        attempt.done(list(rows))
        for batch in retry_batches(len(sources), past):
            labelled = label_chunk(
                [sources[item] for item in batch],
                self._context.ports,
                self._run.plan.config,
                under_way=partial(_mark, attempt, batch),
                done=partial(_count_done, attempt, batch),
                timings=timings,
            )
            rows |= dict(zip(batch, labelled, strict=True))
        return [rows[item] for item in range(len(sources))]

    def _read(self) -> Sequence[SourceRow]:
        location = self._run.location
        sources = read_chunk(self._chunk, root=location.root, pictures=location.pictures)
        if any(row.problem == SOURCE_CHANGED for row in sources):
            # If the disk is unavailable, the chunk waits instead of failing its rows.
            location.check_present()
        return sources

    def _all_failed(self, reason: str, detail: str) -> list[Row]:
        return [
            failed_row(_missing(self._chunk, row), reason=reason, detail=detail)
            for row in self._chunk.rows
        ]

    def _models(self) -> list[ModelInfo]:
        ports = self._context.ports
        models = [ports.prompter.model, ports.detector.model]
        if self._run.plan.config.options.crop_check:
            models.append(ports.crop_ranker.model)
        return models

    def _answering(self) -> dict[str, str]:
        return {model.kind: f"{model.name}@{model.revision}" for model in self._models()}

    def _check_models(self, rows: Sequence[Row] = ()) -> None:
        """Raise ModelsChanged unless the models and the prompts are the same as in the plan."""
        plan = self._run.plan
        check_models(plan, self._models())
        prompts = {row.prompt_sha256 for row in rows if row.status == "labelled"}
        if plan.prompt_sha256 is not None and prompts - {plan.prompt_sha256, None}:
            raise ModelsChanged(
                "the language model's service asks with other templates or in another style than "
                f"when the run was planned: set it back, or `unspoken fork {plan.run_id}`"
            )


def _mark(
    attempt: Attempt, batch: Sequence[int], places: Sequence[int]
) -> AbstractContextManager[None]:
    return attempt.under_way([batch[place] for place in places])


def _count_done(attempt: Attempt, batch: Sequence[int], places: Sequence[int]) -> None:
    attempt.done([batch[place] for place in places])


def _missing(chunk: Chunk, row: int) -> SourceRow:
    return SourceRow(
        key=f"row-{row}", shard=chunk.source, member="", row=row, caption="", picture=None
    )


def poison_items(past: PastAttempts) -> frozenset[int]:
    """Return the poison items: MAX_ATTEMPTS attempts failed while they were in progress."""
    return frozenset(item for item, times in past.ended_with.items() if times >= MAX_ATTEMPTS)


def retry_batches(num_items: int, past: PastAttempts) -> list[list[int]]:
    """Return batches of all items except the poison items, in the order in which to do them.

    An item suspected twice is a batch of its own. The items suspected once are split into
    NUM_BATCHES batches. All other items are the last batch. After MAX_ATTEMPTS attempts, every item
    is a batch of its own.
    """
    never, once, twice = (
        [item for item in range(num_items) if past.ended_with[item] == times] for times in range(3)
    )
    if past.number >= MAX_ATTEMPTS:
        return [[item] for item in (*twice, *once, *never)]
    parts = [[item] for item in twice]
    size = max(1, len(once) // NUM_BATCHES)
    parts += [once[start : start + size] for start in range(0, len(once), size)]
    return [*parts, never] if never else parts


def check_models(plan: Plan, models: Sequence[ModelInfo]) -> None:
    """Raise ModelsChanged if a model is not the one that the plan names."""
    for now in models:
        planned = plan.models.get(now.kind)
        if planned is not None and (now.name, now.revision) != (planned.name, planned.revision):
            raise ModelsChanged(
                f"the {now.kind} is now {now.name}@{now.revision}, the run was planned with "
                f"{planned.name}@{planned.revision}: serve that one again, or "
                f"`unspoken fork {plan.run_id}` starts a new run with the present models"
            )
