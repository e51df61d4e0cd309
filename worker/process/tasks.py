"""The only Celery task: labels the chunks that a message names, each under a lease.

The task may run twice: it skips finished chunks and chunks leased by another worker, and of two
shards the first is kept. An item that was in progress when three attempts failed is a poison item:
it becomes a failed row. An attempt does not count when a service, the disk or a model is
unavailable; the chunk is retried later.
"""

import logging
import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unspoken.client.port_clients import CropRankerClient, DetectorClient, PrompterClient, connect
from unspoken.errors import (
    DeadlineExceeded,
    ModelsChanged,
    NotFound,
    NotReady,
    PlanDamaged,
    ServiceUnavailable,
    UnspokenError,
)
from unspoken.logs import fields, log_ids
from unspoken.retries import retry_after_s
from unspoken.runs.attempts import MAX_ATTEMPTS, Attempt, PastAttempts
from unspoken.runs.chunks import Chunk
from unspoken.runs.dataset.rows import Row
from unspoken.runs.lease import Lease
from unspoken.runs.ledger import Ledger
from unspoken.runs.location import SourceLocation, locate_source
from unspoken.runs.plan import LabelConfig, Plan, forget_plans, read_plan
from unspoken.runs.store import is_cancelled, read_run
from unspoken.runs.trouble import Trouble, note_trouble
from unspoken.safe_text import reason_of
from unspoken.timings import Timings
from unspoken.wire.base import ModelInfo
from worker.label.classifiers import build_classifiers
from worker.label.pipeline import AWAY, PASSING, Ports, failed_row, label_chunk
from worker.process.celery_app import LABEL_TASK, SOFT_TIME_LIMIT_S
from worker.process.graceful_shutdown import GracefulShutdown
from worker.process.retry_batches import batches, poison_items
from worker.process.settings import WorkerSettings
from worker.sources.intake import read_chunk
from worker.sources.row import SOURCE_CHANGED, SourceRow

logger = logging.getLogger(__name__)

# Shortest time after which a chunk is retried when a service, the disk or a model is unavailable.
REST_S = 5.0
# After this time a message starts no further chunk, because its time limit must fit one chunk.
MESSAGE_S = 240.0
MAX_CHUNKS_A_MESSAGE = 1024
MAX_JOBS = 8


class Message(BaseModel):
    """Content of a message: a run id and chunk ids only."""

    model_config = ConfigDict(frozen=True, strict=True)

    run_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    chunk_ids: Annotated[
        list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MAX_CHUNKS_A_MESSAGE)
    ]


@dataclass(frozen=True)
class Job:
    """A run under way: its plan, its ledger, and the location of its source."""

    plan: Plan
    ledger: Ledger
    location: SourceLocation


@dataclass(frozen=True)
class Bench:
    """A worker's folders and ports, and the check that the ports are ready.

    data_dir: see unspoken.runs.location.locate_source.
    """

    runs_dir: Path
    data_dir: Path | None
    lease_s: float
    ports: Ports
    check_ready: Callable[[LabelConfig], None]
    shift: GracefulShutdown = field(default_factory=GracefulShutdown)
    jobs: dict[str, Job] = field(default_factory=dict)
    """Cache of opened runs by id; at most MAX_JOBS."""


def connect_bench(settings: WorkerSettings, shift: GracefulShutdown | None = None) -> Bench:
    """Build the clients of the services and the classifiers from the settings."""
    timeout_s = settings.service_timeout_s
    prompter = PrompterClient(
        connect(settings.llm_url, timeout_s=timeout_s, key=settings.client_key)
    )
    detector = DetectorClient(
        connect(settings.detector_url, timeout_s=timeout_s, key=settings.client_key)
    )
    crop_ranker = CropRankerClient(
        connect(settings.segmenter_url, timeout_s=timeout_s, key=settings.client_key)
    )

    def check_ready(config: LabelConfig) -> None:
        prompter.check_ready()
        detector.check_ready()
        if config.options.crop_check:
            crop_ranker.check_ready()

    return Bench(
        runs_dir=settings.runs_dir,
        data_dir=settings.data_dir,
        lease_s=settings.lease_s,
        ports=Ports(prompter, detector, build_classifiers(), crop_ranker),
        check_ready=check_ready,
        shift=shift or GracefulShutdown(),
    )


def register_tasks(app: Celery, bench: Callable[[], Bench]) -> None:
    """Register the task with the app. `bench` is called in the pool process, after the fork."""

    @app.task(name=LABEL_TASK)  # type: ignore[untyped-decorator]
    def label_chunks(run_id: object, chunk_ids: object) -> None:
        try:
            message = Message.model_validate({"run_id": run_id, "chunk_ids": chunk_ids})
        except ValidationError as error:
            logger.error("invalid message dropped: %s", error)
            return
        label_message(message, bench())


def label_message(message: Message, bench: Bench) -> None:
    """Label the message's chunks in order, until a time limit, a shutdown or a service's error.

    The dispatcher publishes the remaining chunks again. Every attempt is recorded on disk.
    """
    until_s = time.monotonic() + MESSAGE_S
    for chunk_id in message.chunk_ids:
        if bench.shift.is_ending or time.monotonic() > until_s:
            return
        with log_ids(run=message.run_id, chunk=chunk_id):
            if not _label_or_note(message.run_id, chunk_id, bench):
                return


def _label_or_note(run_id: str, chunk_id: int, bench: Bench) -> bool:
    """Label one chunk; return False if an error would also affect the next chunk.

    Errors are logged. Errors of a service, the disk or a model are also recorded for the run.
    """
    try:
        label_one_chunk(run_id, chunk_id, bench)
    except SoftTimeLimitExceeded:
        late = (
            f"chunk {chunk_id} was not done within {SOFT_TIME_LIMIT_S} s: add "
            "services or cores, or start a run with smaller chunks (--chunk-size)"
        )
        logger.error("time limit exceeded: %s", late)
        note_trouble(bench.runs_dir / run_id, _trouble(DeadlineExceeded(late)))
        return False
    except (*PASSING, ModelsChanged, PlanDamaged, OSError) as error:
        logger.warning("attempt stopped, will be retried: %s", error)
        note_trouble(bench.runs_dir / run_id, _trouble(error))
        return False
    except (UnspokenError, MemoryError) as error:
        logger.warning("attempt failed: %s", error)
    return True


def label_one_chunk(run_id: str, chunk_id: int, bench: Bench) -> bool:
    """Label and publish one chunk; return False if there was nothing to do.

    Raises PASSING errors, ModelsChanged, PlanDamaged, and OSError if the disk fails.
    """
    try:
        job = _open_job(run_id, bench)
    except NotFound:
        logger.warning("the run or its plan does not exist")
        return False
    ledger = job.ledger
    if chunk_id >= len(job.plan.chunks) or is_cancelled(ledger.run_dir):
        return False
    if ledger.committed(chunk_id):
        return False
    work = _Work(chunk=_chunk_of(job.plan, chunk_id), job=job, bench=bench)
    with ledger.lease(chunk_id, should_release=work.should_release) as lease:
        if lease is None or ledger.committed(chunk_id):
            return False
        if ledger.orphaned(chunk_id) and ledger.adopt(chunk_id, keys=work.chunk.keys):
            return True
        return work.do(lease)


def _chunk_of(plan: Plan, chunk_id: int) -> Chunk:
    """Return a chunk of an open plan. Raises PlanDamaged; the plan is then reread next time."""
    try:
        return plan.chunks[chunk_id]
    except ValidationError as error:
        forget_plans()
        raise PlanDamaged(f"chunk {chunk_id} of run {plan.run_id!r} cannot be read") from error


def _open_job(run_id: str, bench: Bench) -> Job:
    """Return an opened run, cached until its plan changes. Raises NotFound."""
    run_dir = bench.runs_dir / run_id
    plan = read_plan(run_dir)
    job = bench.jobs.get(run_id)
    if job is None or job.plan is not plan:
        run = read_run(bench.runs_dir, run_id)
        job = Job(
            plan=plan,
            ledger=Ledger(run_dir, lease_s=bench.lease_s, folder=run.shards_folder),
            location=locate_source(run, runs_dir=bench.runs_dir, data_dir=bench.data_dir),
        )
        if len(bench.jobs) == MAX_JOBS:
            bench.jobs.clear()
        bench.jobs[run_id] = job
    return job


@dataclass
class _Work:
    """Work on one chunk under its lease."""

    chunk: Chunk
    job: Job
    bench: Bench
    _attempt: Attempt | None = None

    def should_release(self) -> bool:
        """Return True if the grace period is over; the attempt then does not count.

        Called by the thread that renews the lease.
        """
        if not self.bench.shift.is_over:
            return False
        about = fields(run=self.job.plan.run_id, chunk=self.chunk.id)
        logger.warning("chunk released: the worker is shutting down", extra=about)
        if self._attempt is not None:
            self._attempt.discard()
        return True

    def do(self, lease: Lease) -> bool:
        """Make one attempt at the chunk; return False if another worker published it first."""
        try:
            self.bench.check_ready(self.job.plan.config)
            self._check_models()
            past = self.job.ledger.past_attempts(self.chunk.id)
            attempt = self.job.ledger.begin_attempt(self.chunk.id, after=past.last)
            self._attempt = attempt
            timings = Timings()
            rows = self._label(attempt, past, timings)
            self._check_models(rows)
            won = self.job.ledger.publish(
                self.chunk.id,
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
        except (*AWAY, ModelsChanged, OSError) as error:
            lease.rest(max(REST_S, retry_after_s(error)))
            if self._attempt is not None:
                self._attempt.discard()
            raise
        except PASSING:
            lease.rest(REST_S)
            raise
        finally:
            if self._attempt is not None:
                self._attempt.close()

    def _label(self, attempt: Attempt, past: PastAttempts, timings: Timings) -> list[Row]:
        try:
            with timings.measure("read"):
                sources = self._read()
        except OSError as error:
            if not os.access(self.job.location.root, os.R_OK | os.X_OK):
                raise NotReady(f"the data folder is not available: {error}") from error
            if past.number >= MAX_ATTEMPTS:
                return self._all_failed("unreadable", str(error))
            raise ServiceUnavailable(f"{self.chunk.source} cannot be read: {error}") from error
        detail = f"{MAX_ATTEMPTS} workers ended, or gave up, with this item"
        rows = {
            item: failed_row(sources[item], reason="poison", detail=detail)
            for item in poison_items(past)
        }
        for batch in batches(len(sources), past):
            labelled = label_chunk(
                [sources[item] for item in batch],
                self.bench.ports,
                self.job.plan.config,
                under_way=partial(_mark, attempt, batch),
                timings=timings,
            )
            rows |= dict(zip(batch, labelled, strict=True))
        return [rows[item] for item in range(len(sources))]

    def _read(self) -> Sequence[SourceRow]:
        location = self.job.location
        sources = read_chunk(self.chunk, root=location.root, pictures=location.pictures)
        if any(row.problem == SOURCE_CHANGED for row in sources):
            # If the disk is unavailable, the chunk waits instead of failing its rows.
            location.check_present()
        return sources

    def _all_failed(self, reason: str, detail: str) -> list[Row]:
        return [
            failed_row(_missing(self.chunk, row), reason=reason, detail=detail)
            for row in self.chunk.rows
        ]

    def _models(self) -> list[ModelInfo]:
        ports = self.bench.ports
        models = [ports.prompter.model, ports.detector.model]
        return (
            [*models, ports.crop_ranker.model]
            if self.job.plan.config.options.crop_check
            else models
        )

    def _answering(self) -> dict[str, str]:
        return {model.kind: f"{model.name}@{model.revision}" for model in self._models()}

    def _check_models(self, rows: Sequence[Row] = ()) -> None:
        """Raise ModelsChanged unless the models and the prompts are the same as in the plan."""
        plan = self.job.plan
        check_models(plan, self._models())
        prompts = {row.prompt_sha256 for row in rows if row.status == "labelled"}
        if plan.prompt_sha256 is not None and prompts - {plan.prompt_sha256, None}:
            raise ModelsChanged(
                "the language model's service asks with other templates or in another style than "
                f"when the run was planned: set it back, or `unspoken fork {plan.run_id}`"
            )


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


def _mark(
    attempt: Attempt, batch: Sequence[int], places: Sequence[int]
) -> AbstractContextManager[None]:
    return attempt.under_way([batch[place] for place in places])


def _trouble(error: Exception) -> Trouble:
    return Trouble(
        token=secrets.token_hex(8),
        code=error.code if isinstance(error, UnspokenError) else "disk",
        message=reason_of(error),
        retry_after_s=retry_after_s(error),
    )


def _missing(chunk: Chunk, row: int) -> SourceRow:
    return SourceRow(
        key=f"row-{row}", shard=chunk.source, member="", row=row, caption="", picture=None
    )
