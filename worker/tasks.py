"""The one Celery task: label the chunks that the message names, each under a lease.

It is safe to run twice: a finished chunk is passed over, a chunk in other hands is left there, and
of two shards the first stays. After three attempts that ended badly a chunk is done item by item;
an item that ends its process, or outlasts a service's patience, becomes a row with that reason.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery

from unspoken.clients import CropRankerClient, DetectorClient, PrompterClient, connect
from unspoken.errors import Conflict, NotFound, NotReady, Overloaded, UnspokenError
from unspoken.runs.ledger import MAX_ATTEMPTS, Attempt, Lease, Ledger
from unspoken.runs.plan import Chunk, LabelConfig, Plan, read_plan
from unspoken.runs.rows import Row
from unspoken.runs.store import is_cancelled, picture_folder, read_run, source_root
from unspoken.timings import Timings
from worker.celery_app import LABEL_TASK
from worker.classifiers import build_classifiers
from worker.intake import read_chunk
from worker.pipeline import PASSING, Ports, failed_row, label_chunk
from worker.readers.row import SourceRow
from worker.settings import WorkerSettings

ReadRows = Callable[[], Sequence[SourceRow]]
"""Reads a chunk's rows. Raises Conflict, OSError."""

logger = logging.getLogger(__name__)

# A service that is not ready is asked again after this.
NOT_READY_REST_S = 5.0


@dataclass(frozen=True)
class Bench:
    """Where a worker works: its folders, its ports, and how to see that those are ready."""

    runs_dir: Path
    data_dir: Path
    lease_s: float
    ports: Ports
    check_ready: Callable[[LabelConfig], None]


def connect_bench(settings: WorkerSettings) -> Bench:
    """Clients of the services, and the classifiers, as the settings say."""
    prompter = PrompterClient(connect(settings.llm_url))
    detector = DetectorClient(connect(settings.detector_url))
    crop_ranker = CropRankerClient(connect(settings.segmenter_url))

    def check_ready(config: LabelConfig) -> None:
        prompter.check_ready()
        detector.check_ready()
        if config.crop_check:
            crop_ranker.check_ready()

    return Bench(
        runs_dir=settings.runs_dir,
        data_dir=settings.data_dir,
        lease_s=settings.lease_s,
        ports=Ports(prompter, detector, build_classifiers(), crop_ranker),
        check_ready=check_ready,
    )


def register_tasks(app: Celery, bench: Callable[[], Bench]) -> None:
    """Give the app its task. `bench` is called in the process that works, not before a fork."""

    @app.task(name=LABEL_TASK)  # type: ignore[untyped-decorator]
    def label_chunks(run_id: str, chunk_ids: list[int]) -> None:
        for chunk_id in chunk_ids:
            try:
                label_one_chunk(run_id, chunk_id, bench())
            except SoftTimeLimitExceeded:
                logger.error("out of time run=%s chunk=%d", run_id, chunk_id)
                return
            except (UnspokenError, OSError, MemoryError) as error:
                # The attempt is on file; the dispatcher rings again.
                logger.warning("attempt failed run=%s chunk=%d: %s", run_id, chunk_id, error)


def label_one_chunk(run_id: str, chunk_id: int, bench: Bench) -> bool:
    """Label and publish one chunk; False where there was nothing to do. Raises PASSING errors."""
    run_dir = bench.runs_dir / run_id
    try:
        run, plan = read_run(bench.runs_dir, run_id), read_plan(run_dir)
    except NotFound:
        logger.warning("no such run or plan: run=%s", run_id)
        return False
    ledger = Ledger(run_dir, lease_s=bench.lease_s, folder=run.shards_folder)
    if chunk_id >= len(plan.chunks) or is_cancelled(run_dir) or ledger.committed(chunk_id):
        return False
    with ledger.lease(chunk_id) as lease:
        if lease is None or ledger.committed(chunk_id):
            return False
        chunk = plan.chunks[chunk_id]
        if chunk_id in ledger.orphans() and ledger.adopt(chunk_id, keys=chunk.keys):
            return True
        read = partial(
            read_chunk,
            chunk,
            root=source_root(bench.data_dir, bench.runs_dir, run),
            pictures=picture_folder(bench.data_dir, run),
        )
        return _attempt(chunk, plan, bench=bench, ledger=ledger, lease=lease, read=read)


def _attempt(
    chunk: Chunk, plan: Plan, *, bench: Bench, ledger: Ledger, lease: Lease, read: ReadRows
) -> bool:
    _check_ready(bench, lease, plan.config)
    alone = ledger.num_attempts(chunk.id) >= MAX_ATTEMPTS
    attempt = ledger.begin_attempt(chunk.id)
    timings = Timings()
    try:
        rows = _label(
            chunk,
            plan,
            bench=bench,
            ledger=ledger,
            attempt=attempt if alone else None,
            read=read,
            timings=timings,
        )
    except (Overloaded, NotReady) as error:
        attempt.wait_instead()
        lease.rest(getattr(error, "retry_after_s", NOT_READY_REST_S))
        raise
    answering = [bench.ports.prompter.model, bench.ports.detector.model]
    if plan.config.crop_check:
        answering.append(bench.ports.crop_ranker.model)
    models: dict[str, str] = {model.kind: f"{model.name}@{model.revision}" for model in answering}
    return ledger.publish(chunk.id, rows, attempt=attempt.number, models=models, timings=timings)


def _check_ready(bench: Bench, lease: Lease, config: LabelConfig) -> None:
    """Before an attempt is counted: a service that is away is not the chunk's fault."""
    try:
        bench.check_ready(config)
    except PASSING:
        lease.rest(NOT_READY_REST_S)
        raise


def _label(
    chunk: Chunk,
    plan: Plan,
    *,
    bench: Bench,
    ledger: Ledger,
    attempt: Attempt | None,
    read: ReadRows,
    timings: Timings,
) -> list[Row]:
    """The chunk's rows: all at once, or one at a time where an `attempt` to mark them is given."""
    try:
        with timings.measure("read"):
            sources = read()
    except Conflict as error:
        return [
            failed_row(_missing(chunk, row), reason="source_changed", detail=error.message)
            for row in chunk.rows
        ]
    except OSError as error:
        if attempt is None:
            raise
        return [
            failed_row(_missing(chunk, row), reason="unreadable", detail=str(error))
            for row in chunk.rows
        ]
    if attempt is None:
        return label_chunk(sources, bench.ports, plan.config, timings=timings)
    return _label_alone(sources, plan, bench=bench, ledger=ledger, attempt=attempt, timings=timings)


def _label_alone(
    sources: Sequence[SourceRow],
    plan: Plan,
    *,
    bench: Bench,
    ledger: Ledger,
    attempt: Attempt,
    timings: Timings,
) -> list[Row]:
    rows: list[Row] = []
    for index, source in enumerate(sources):
        if ledger.num_item_attempts(attempt.chunk_id, index) >= MAX_ATTEMPTS:
            detail = f"{MAX_ATTEMPTS} workers ended, or gave up, with this item alone"
            rows.append(failed_row(source, reason="poison", detail=detail))
            continue
        with attempt.item(index):
            rows += label_chunk([source], bench.ports, plan.config, timings=timings)
    return rows


def _missing(chunk: Chunk, row: int) -> SourceRow:
    return SourceRow(
        key=f"row-{row}", shard=chunk.source, member="", row=row, caption="", picture=None
    )
