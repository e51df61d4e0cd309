"""`python -m worker.dispatcher`: plans runs, rings for open chunks, and finishes datasets.

It compares plan and commit records, tick by tick, and rings for a chunk that has neither a lease
nor a record; so a lost message, an emptied Redis or a dead worker costs time and nothing else. All
that it knows is on disk: it may be killed and started at any time, or run twice.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from unspoken.clients import (
    CropRankerClient,
    DetectorClient,
    PrompterClient,
    TextEncoderClient,
    connect,
)
from unspoken.crop_schemas import Crop
from unspoken.errors import NotFound, UnspokenError
from unspoken.images import ONE_WHITE_PIXEL, decode_picture
from unspoken.ports import CropRanker, Detector, Prompter, TextEncoder
from unspoken.runs.card import draw_contact_sheet, write_card
from unspoken.runs.false_discovery import Decision
from unspoken.runs.ledger import Ledger
from unspoken.runs.manifest import count_run, write_labels, write_manifest
from unspoken.runs.plan import (
    Chunk,
    LabelConfig,
    ListedRow,
    Plan,
    default_threshold,
    make_plan,
    read_plan,
    write_plan,
)
from unspoken.runs.rows import Row
from unspoken.runs.shards import CommitRecord, iter_rows, read_record, record_name
from unspoken.runs.store import (
    Run,
    created_runs,
    is_cancelled,
    picture_folder,
    read_status,
    resolve_source,
    source_root,
    write_status,
)
from unspoken.schemas import ENDED, RunStatus
from unspoken.segment_schemas import PromptBox
from worker.celery_app import LABEL_TASK, QUEUE, create_celery
from worker.deciding import decide_run
from worker.filters import duplicate_finder
from worker.intake import list_source, read_chunk
from worker.pipeline import PASSING
from worker.progress import NO_WORKERS, Pace, count_records, slowest_stage
from worker.settings import WorkerSettings, configure_logging

logger = logging.getLogger(__name__)

# Enough in the queue that a worker never waits for the dispatcher, and never more than this.
MIN_QUEUED, QUEUED_PER_LEASE = 4, 2
# While the queue is not empty, a doorbell may still lie in it.
PATIENCE_WITH_QUEUE = 30
_WHITE_CROP = Crop(box=PromptBox(x0=0, y0=0, x1=1, y1=1), label_index=0)


class Doorbell(Protocol):
    """Tells workers that a chunk is open. Raises ConnectionError while nobody can be told."""

    def ring(self, run_id: str, chunk_id: int) -> None:
        """Put a message into the queue."""

    def num_queued(self) -> int:
        """Messages that no worker has taken yet."""


@dataclass(frozen=True)
class CeleryDoorbell:
    """The doorbell as Celery messages over Redis."""

    app: Celery

    def ring(self, run_id: str, chunk_id: int) -> None:
        """See Doorbell."""
        try:
            self.app.send_task(LABEL_TASK, args=[run_id, [chunk_id]], queue=QUEUE, retry=False)
        except (OperationalError, RedisError, OSError) as error:
            raise ConnectionError(f"the broker did not take a message: {error}") from error

    def num_queued(self) -> int:
        """See Doorbell."""
        try:
            with self.app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=2)
                return int(connection.default_channel.client.llen(QUEUE))
        except (OperationalError, RedisError, OSError) as error:
            raise ConnectionError(f"the broker does not answer: {error}") from error


@dataclass(frozen=True)
class Services:
    """Whom the dispatcher asks: for names, a threshold and vectors, and who can do what."""

    prompter: Prompter
    detector: Detector
    text_encoder: TextEncoder
    crop_ranker: CropRanker


@dataclass
class _Watch:
    """What one run looks like from here; a cache of what is on disk."""

    run: Run
    ledger: Ledger
    pace: Pace
    plan: Plan | None = None
    records: dict[int, CommitRecord] = field(default_factory=dict)
    rung_s: dict[int, float] = field(default_factory=dict)
    leased: frozenset[int] = frozenset()
    moved_s: float | None = None
    """When somebody last had a lease or committed, by the dispatcher's clock."""
    verified: bool = False
    decision: Decision | None = None
    message: str = ""


class Dispatcher:
    """Drives all runs of a folder, or only those named."""

    def __init__(
        self,
        *,
        runs_dir: Path,
        data_dir: Path,
        services: Services,
        doorbell: Doorbell,
        lease_s: float = 20.0,
        ring_again_s: float = 10.0,
        only: frozenset[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runs_dir = runs_dir
        self._data_dir = data_dir
        self._services = services
        self._doorbell = doorbell
        self._lease_s = lease_s
        self._ring_again_s = ring_again_s
        self._only = only
        self._clock = clock
        self._watches: dict[str, _Watch] = {}
        self._ended: set[str] = set()

    def tick(self) -> bool:
        """Look at every run once -> whether any is still under way."""
        under_way = False
        for watch in self._open_watches():
            try:
                status = self._advance(watch)
            except (OSError, *PASSING) as error:
                watch.message = f"waits: {error}"
                status = self._status(watch, _open_state(watch))
            except UnspokenError as error:
                logger.exception("run %s failed", watch.run.run_id)
                watch.message = str(error)
                status = self._status(watch, "failed")
            write_status(self._runs_dir, status)
            if status.state in ENDED:
                logger.info("run %s is %s", status.run_id, status.state)
                del self._watches[status.run_id]
                self._ended.add(status.run_id)
            else:
                under_way = True
        return under_way

    def run(self, *, tick_s: float, stop: threading.Event) -> None:
        """Tick until told to stop."""
        while not stop.is_set():
            self.tick()
            stop.wait(tick_s)

    # ---- one run -------------------------------------------------------------------------

    def _open_watches(self) -> list[_Watch]:
        for run in created_runs(self._runs_dir):
            if run.run_id in self._watches or run.run_id in self._ended:
                continue
            if self._only is not None and run.run_id not in self._only:
                continue
            if read_status(self._runs_dir, run.run_id).state in ("done", "failed"):
                self._ended.add(run.run_id)
                continue
            ledger = Ledger(
                self._runs_dir / run.run_id, lease_s=self._lease_s, folder=run.shards_folder
            )
            self._watches[run.run_id] = _Watch(run, ledger, Pace(self._clock))
        return list(self._watches.values())

    def _advance(self, watch: _Watch) -> RunStatus:
        watch.message = ""
        if is_cancelled(watch.ledger.run_dir):
            return self._status(watch, "cancelled")
        if watch.plan is None:
            watch.plan = self._plan(watch)
        leased = watch.leased = watch.ledger.leased_chunks()
        before = len(watch.records)
        self._read_records(watch, leased)
        if leased or watch.moved_s is None or len(watch.records) > before:
            watch.moved_s = self._clock()
        watch.pace.note(sum(record.num_rows for record in watch.records.values()))
        if len(watch.records) < len(watch.plan.chunks):
            self._ring(watch, watch.plan, leased)
            return self._status(watch, "running")
        if not self._verify(watch):
            return self._status(watch, "running")
        write_status(self._runs_dir, self._status(watch, "finishing"))
        self._finish(watch, watch.plan)
        return self._status(watch, "done")

    def _plan(self, watch: _Watch) -> Plan:
        run, run_dir = watch.run, watch.ledger.run_dir
        try:
            return read_plan(run_dir)
        except NotFound:
            logger.info("planning run %s", run.run_id)
        watch.message = "reads the source, to plan"
        write_status(self._runs_dir, self._status(watch, "planned"))
        watch.message = ""
        detector = self._services.detector
        threshold = run.box_threshold
        if threshold is None:
            threshold = default_threshold(detector.box_threshold)
        if run.templates is not None:
            # An unknown name would fail every picture: ask before there is a plan.
            self._services.prompter.propose(["a photo"], templates=run.templates)
        if run.crop_check:
            # So would a text encoder without pictures, or one whose other half does not load.
            self._services.crop_ranker.rank_crops(
                decode_picture(ONE_WHITE_PIXEL), [_WHITE_CROP], ["a photo"]
            )
        plan = make_plan(
            run.run_id,
            self._listing(run),
            chunk_size=run.chunk_size,
            config=LabelConfig(
                box_threshold=threshold,
                wanted_fdr=run.wanted_fdr,
                single_template_margin=run.single_template_margin,
                templates=run.templates,
                crop_check=run.crop_check,
                num_decoys=run.num_decoys,
                **run.filters.model_dump(),
            ),
            models={
                "llm": self._services.prompter.model,
                "detector": detector.model,
                "text_encoder": self._services.text_encoder.model,
            },
        )
        write_plan(run_dir, plan)
        return plan

    def _listing(self, run: Run) -> Iterator[tuple[str, Iterable[ListedRow]]]:
        root = source_root(self._data_dir, self._runs_dir, run)
        path = root if run.source is None else resolve_source(self._data_dir, run.source)
        pictures = picture_folder(self._data_dir, run)
        if run.retry_of is None:
            is_duplicate = duplicate_finder(run.filters)
            yield from list_source(path, root=root, pictures=pictures, is_duplicate=is_duplicate)
            return
        # Duplicates were dropped by the first run: none of them is among the failed rows.
        failed = {
            (row.source_shard, row.source_row)
            for row in iter_rows(self._runs_dir / run.retry_of / run.shards_folder)
            if row.status == "failed"
        }
        for name, rows in list_source(path, root=root, pictures=pictures):
            yield name, [row for row in rows if (name, row.row) in failed]

    def _read_records(self, watch: _Watch, leased: frozenset[int]) -> None:
        """Read new commit records; give one to a shard whose writer is gone."""
        assert watch.plan is not None, "planned before"
        for chunk_id in watch.ledger.orphans() - leased:
            watch.ledger.adopt(chunk_id, keys=watch.plan.chunks[chunk_id].keys)
        for chunk_id in watch.ledger.committed_chunks() - set(watch.records):
            path = watch.ledger.shards_dir / record_name(chunk_id)
            try:
                watch.records[chunk_id] = read_record(path)
            except (FileNotFoundError, ValueError):
                watch.ledger.verify(chunk_id)

    def _ring(self, watch: _Watch, plan: Plan, leased: frozenset[int]) -> None:
        queued = self._doorbell.num_queued()
        room = max(MIN_QUEUED, QUEUED_PER_LEASE * len(leased)) - queued
        patience_s = self._ring_again_s * (PATIENCE_WITH_QUEUE if queued else 1)
        now_s = self._clock()
        for chunk in plan.chunks:
            if room <= 0:
                return
            if chunk.id in watch.records or chunk.id in leased:
                continue
            if now_s - watch.rung_s.get(chunk.id, -patience_s) < patience_s:
                continue
            self._doorbell.ring(watch.run.run_id, chunk.id)
            watch.rung_s[chunk.id] = now_s
            room -= 1

    def _verify(self, watch: _Watch) -> bool:
        """Once, before finishing: every shard is the one that its record names."""
        for chunk_id in () if watch.verified else sorted(watch.records):
            if not watch.ledger.verify(chunk_id):
                del watch.records[chunk_id]
                watch.rung_s.pop(chunk_id, None)
        assert watch.plan is not None, "planned before"
        watch.verified = len(watch.records) == len(watch.plan.chunks)
        return watch.verified

    def _finish(self, watch: _Watch, plan: Plan) -> None:
        """Labels, contact sheet, manifest and card; each is written whole, so again is harmless."""
        dataset_dir = watch.ledger.run_dir / "dataset"
        watch.ledger.sweep()
        decision = self._decide(watch, plan)
        chosen = None if decision is None else decision.chosen
        counts = count_run(watch.ledger.run_dir, plan, chosen)
        write_labels(dataset_dir, sorted(counts.stored_labels), self._services.text_encoder)
        root = source_root(self._data_dir, self._runs_dir, watch.run)
        pictures = picture_folder(self._data_dir, watch.run)
        chunks = {key: chunk for chunk in plan.chunks for key in chunk.keys}

        @lru_cache(maxsize=1)
        def read(chunk: Chunk) -> dict[int, bytes | None]:
            sources = read_chunk(chunk, root=root, pictures=pictures, check=False)
            return {source.row: source.picture for source in sources}

        def load_picture(row: Row) -> bytes | None:
            try:
                return read(chunks[row.source_shard, row.source_row]).get(row.source_row)
            except (UnspokenError, OSError):
                return None

        draw_contact_sheet(dataset_dir, iter_rows(dataset_dir), load_picture)
        write_manifest(watch.ledger.run_dir, plan, counts, chosen)
        write_card(dataset_dir, plan, counts, decision)

    def _decide(self, watch: _Watch, plan: Plan) -> Decision | None:
        """Thresholds and decided shards, once, of a run that left them to its decoys."""
        if plan.config.wanted_fdr is not None and watch.decision is None:
            retried = watch.run.retry_of
            watch.decision = decide_run(
                watch.ledger.shards_dir,
                plan,
                retried_dir=None if retried is None else self._runs_dir / retried,
            )
        return watch.decision

    def _status(self, watch: _Watch, state: str) -> RunStatus:
        counts = count_records(watch.records.values())
        total = watch.plan.num_rows if watch.plan else 0
        rate_per_s = watch.pace.rows_per_s()
        return RunStatus.model_validate(
            {
                "run_id": watch.run.run_id,
                "state": state,
                "total": total,
                **counts,
                "chunks_total": len(watch.plan.chunks) if watch.plan else 0,
                "chunks_leased": len(watch.leased) if state == "running" else 0,
                "attempts": watch.ledger.total_attempts(),
                "rate_per_s": rate_per_s,
                "seconds_left": (total - counts["done"]) / rate_per_s if rate_per_s else None,
                "bottleneck": self._bottleneck(watch) if state == "running" else None,
                "message": watch.message,
                "updated_s": time.time(),
                "output": "dataset",
            }
        )

    def _bottleneck(self, watch: _Watch) -> str | None:
        if watch.moved_s is not None and self._clock() - watch.moved_s > self._ring_again_s:
            return NO_WORKERS
        return slowest_stage(list(watch.records.values()))


def _open_state(watch: _Watch) -> str:
    if watch.plan is None:
        return "planned"
    return "finishing" if len(watch.records) == len(watch.plan.chunks) else "running"


@contextmanager
def connect_services(settings: WorkerSettings) -> Iterator[Services]:
    """Clients of the three services, closed at the end."""
    with (
        connect(settings.llm_url) as llm,
        connect(settings.detector_url) as detector,
        connect(settings.segmenter_url) as segmenter,
    ):
        yield Services(
            PrompterClient(llm),
            DetectorClient(detector),
            TextEncoderClient(segmenter),
            CropRankerClient(segmenter),
        )


def main() -> None:
    """Dispatch until SIGTERM or SIGINT."""
    settings = WorkerSettings()
    configure_logging(settings.log_level)
    settings.runs_dir.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with connect_services(settings) as services:
        dispatcher = Dispatcher(
            runs_dir=settings.runs_dir,
            data_dir=settings.data_dir,
            services=services,
            doorbell=CeleryDoorbell(create_celery(settings.broker_url)),
            lease_s=settings.lease_s,
            ring_again_s=settings.ring_again_s,
        )
        dispatcher.run(tick_s=settings.tick_s, stop=stop)


if __name__ == "__main__":
    main()
