"""`python -m bench.queue`: the overhead of labelling runs with models that cost nothing.

`ledger_ms_per_chunk` (limit: 1): CPU of `label_one_chunk` for one chunk, in a run of 10 000 chunks,
half of which are done. It includes plan, lease, attempt, publication and record. It excludes fsync
and the work on pictures (reading, labelling, encoding parquet).

`resume_s` (limit: 5): seconds until a new dispatcher has read the plan and 10 000 commit records
and has published its messages.
`tick_ms`: CPU of its later ticks over the same run; there is at most one tick per `WORKER_TICK_S`.

`worker_ms_per_picture` (limit: 5): CPU of a real worker's processes for a picture of 256 x 256 px,
img2dataset's default: reading, decoding, HTTP, merging, writing. `..._512_px`: the same for larger
pictures. The first 64 pictures are a warm-up and do not count. `two_workers_over_one` (at least
1.8): chunks per second of two workers divided by those of one. Each worker has one slot; the
services sleep 200 ms per answer and serve any number of requests at once.

`plan_ms_per_picture` and `finish_ms_per_picture`: CPU of the dispatcher for listing with duplicate
search, and for hashing every shard and counting every row. `shard_bytes_per_picture`: size of a row
in a large shard.

The services are the fakes of tests/fakes.py over real HTTP; Redis, workers and dispatcher are real.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import psutil

from smallworld.scenes import SceneConfig
from smallworld.shards import write_shards
from smallworld.world import World
from tests.fakes import FakeCropRanker, FakeDetector, FakePrompter, FakeTextEncoder
from tests.worker.service import create_app, serve
from unspoken.config.settings import child_environment
from unspoken.runs.chunks import DIGEST_CHARS
from unspoken.runs.dataset.manifest import count_run
from unspoken.runs.dataset.rows import Row
from unspoken.runs.dataset.shards import iter_rows, record_name, shard_name, write_shard
from unspoken.runs.ledger import Ledger
from unspoken.runs.plan import LabelConfig, ListedRow, make_plan, read_plan, write_plan
from unspoken.runs.store import create_run, read_status
from unspoken.timings import Timings
from unspoken.wire.filters import FilterConfig
from unspoken.wire.label_options import LabelOptions
from unspoken.wire.runs import RunRequest
from worker.dispatch.loop import Dispatcher
from worker.dispatch.planning import Services
from worker.label.classifiers import Classifiers
from worker.label.filters import duplicate_finder
from worker.label.pipeline import Marking, Ports
from worker.process.attempt import WorkerContext, label_one_chunk
from worker.process.embedded_redis import EmbeddedRedis
from worker.sources.intake import list_source
from worker.sources.row import SourceRow

NUM_CHUNKS = 10_000
CHUNK_SIZE = 8
SLEEP_S = 0.2
NUM_WARM = 64
TICK_S = 0.2


def main() -> None:
    """Measure; print the figures as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=NUM_CHUNKS)
    parser.add_argument("--pictures", type=int, default=480)
    parser.add_argument("--sleeping-chunks", type=int, default=60)
    arguments = parser.parse_args()
    num_pictures = arguments.pictures
    with tempfile.TemporaryDirectory(prefix="unspoken-bench-") as folder:
        root = Path(folder)
        figures: dict[str, float] = {
            "ledger_ms_per_chunk": ledger_ms_per_chunk(root / "ledger", arguments.chunks),
            **resume_figures(root / "resume", arguments.chunks),
            "worker_ms_per_picture": worker_ms_per_picture(root / "256", num_pictures, size_px=256),
            **whole_run_figures(root / "256"),
            "worker_ms_per_picture_512_px": worker_ms_per_picture(
                root / "512", num_pictures, size_px=512
            ),
            "two_workers_over_one": two_workers_over_one(root, arguments.sleeping_chunks),
        }
    rounded = {name: round(value, 3) for name, value in figures.items()}
    print(json.dumps({"bench": "queue", "figures": rounded}))


# ---- ledger and dispatcher -------------------------------------------------------------------


def ledger_ms_per_chunk(folder: Path, num_chunks: int, *, sample: int = 200) -> float:
    """Return CPU milliseconds per chunk, over `sample` chunks in the middle of a run."""
    run_dir = planned_run(folder, num_chunks)
    sample = min(sample, num_chunks // 4)
    commit(run_dir, range(num_chunks // 2))
    encoded = folder / "shard.parquet"
    write_shard(encoded, ROWS)
    content = encoded.read_bytes()
    ports = Ports(FakePrompter(), FakeDetector(), CLASSIFIERS, FakeCropRanker())
    context = WorkerContext(folder / "runs", folder / "data", 20.0, ports, lambda config: None)
    with (
        mock.patch("os.fsync", lambda descriptor: None),
        mock.patch("worker.process.attempt.read_chunk", lambda *_, **__: SOURCES),
        mock.patch("worker.process.attempt.label_chunk", _label_nothing),
        mock.patch("unspoken.runs.ledger.write_shard", lambda to, rows: to.write_bytes(content)),
    ):
        started_s = time.process_time()
        for chunk_id in range(num_chunks // 2, num_chunks // 2 + sample):
            assert label_one_chunk("r", chunk_id, context), "nobody else works here"
        return 1000 * (time.process_time() - started_s) / sample


def resume_figures(folder: Path, num_chunks: int, *, ticks: int = 10) -> dict[str, float]:
    """Time a new dispatcher's first tick, and later ones, over a run with one open chunk."""
    run_dir = planned_run(folder, num_chunks + 1)
    commit(run_dir, range(num_chunks))
    publisher = _Silent()
    started_s = time.perf_counter()
    dispatcher = Dispatcher(
        runs_dir=folder / "runs",
        data_dir=folder / "data",
        services=Services(FakePrompter(), FakeDetector(), FakeTextEncoder(), FakeCropRanker()),
        publisher=publisher,
    )
    dispatcher.tick()
    resume_s = time.perf_counter() - started_s
    assert publisher.published == [num_chunks], f"one chunk is open, not {publisher.published}"
    started_s = time.process_time()
    for _ in range(ticks):
        dispatcher.tick()
    tick_ms = 1000 * (time.process_time() - started_s) / ticks
    return {"resume_s": resume_s, "tick_ms": tick_ms}


def planned_run(folder: Path, num_chunks: int) -> Path:
    """Create a run with a plan of `num_chunks` open chunks; return its folder."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "in.csv").write_text("path,caption\n")
    create_run(folder / "data", folder / "runs", RunRequest(source="in.csv", run_id="r"))
    rows = (ListedRow(row, f"{row:0{DIGEST_CHARS}d}") for row in range(num_chunks * CHUNK_SIZE))
    models = {
        "llm": FakePrompter.model,
        "detector": FakeDetector.model,
        "text_encoder": FakeTextEncoder.model,
    }
    plan = make_plan(
        "r",
        [("in.csv", rows)],
        config=LabelConfig(named_threshold=0.3, options=LabelOptions(chunk_size=CHUNK_SIZE)),
        models=models,
    )
    write_plan(folder / "runs" / "r", plan)
    return folder / "runs" / "r"


def commit(run_dir: Path, chunk_ids: Sequence[int]) -> None:
    """Write attempts, shards and records of finished chunks, as links to the first one's files."""
    ledger = Ledger(run_dir)
    with mock.patch("os.fsync", lambda descriptor: None):
        for chunk_id in chunk_ids:
            attempt = ledger.begin_attempt(chunk_id)
            if chunk_id == chunk_ids[0]:
                ledger.publish(chunk_id, ROWS, attempt=attempt.number, models={})
                continue
            for name in (shard_name, record_name):
                first, other = name(chunk_ids[0]), name(chunk_id)
                (ledger.shards_dir / other).hardlink_to(ledger.shards_dir / first)


ROWS = [
    Row(
        key=str(place),
        source_shard="in.csv",
        source_member=f"{place}.jpg",
        source_row=place,
        caption="a dog on a sofa",
        status="labelled",
    )
    for place in range(CHUNK_SIZE)
]
SOURCES = [SourceRow(str(place), "in.csv", "", place, "", None) for place in range(CHUNK_SIZE)]
CLASSIFIERS = Classifiers(lambda text: {"en": 0.9}, lambda pixels: 0.01)


def _label_nothing(
    rows: Sequence[SourceRow],
    ports: Ports,
    config: LabelConfig,
    *,
    under_way: Marking,
    done: Callable[[Sequence[int]], None],
    timings: Timings,
) -> list[Row]:
    """Make the same progress marks as `label_chunk`, without its work."""
    for places in (*([place] for place in range(len(rows))), range(len(rows))):
        with under_way(places):
            pass
    for place in range(len(rows)):
        with under_way([place]):
            pass
        done([place])
    return ROWS


@dataclass
class _Silent:
    """A publisher without receivers, which records the published chunks."""

    published: list[int] = field(default_factory=list)

    def publish(self, run_id: str, chunk_ids: Sequence[int], *, queue: str) -> None:
        self.published += chunk_ids

    def num_queued(self, queue: str) -> int:
        return 0


# ---- workers ---------------------------------------------------------------------------------


def worker_ms_per_picture(folder: Path, num_pictures: int, *, size_px: int) -> float:
    """Return CPU milliseconds per picture of one worker's processes, after a warm-up."""
    write_pictures(folder / "data" / "warm", NUM_WARM, seed=1, size_px=size_px)
    write_pictures(folder / "data" / "in", num_pictures, seed=2, size_px=size_px)
    with running_stack(folder, FakePrompter(), FakeDetector(), num_workers=1) as workers:
        label(folder, "warm", chunk_size=CHUNK_SIZE)
        before_s = cpu_s(workers[0])
        label(folder, "in", chunk_size=CHUNK_SIZE)
        return 1000 * (cpu_s(workers[0]) - before_s) / num_pictures


def whole_run_figures(folder: Path) -> dict[str, float]:
    """Return the dispatcher's cost per picture, for the run left by `worker_ms_per_picture`."""
    data_dir, run_dir = folder / "data", folder / "runs" / "in"
    is_duplicate = duplicate_finder(FilterConfig(), detect=CLASSIFIERS.detect_language)
    started_s = time.process_time()
    listing = list_source(data_dir / "in", root=data_dir, is_duplicate=is_duplicate)
    plan = make_plan(
        "again",
        listing,
        config=LabelConfig(named_threshold=0.3, options=LabelOptions(chunk_size=CHUNK_SIZE)),
        models={},
    )
    planned_s = time.process_time()
    ledger = Ledger(run_dir)
    assert all(ledger.verify(chunk_id) for chunk_id in ledger.committed_chunks())
    count_run(run_dir, read_plan(run_dir), None)
    ended_s = time.process_time()
    together = folder / "together.parquet"
    write_shard(together, list(iter_rows(run_dir / "dataset")))
    return {
        "plan_ms_per_picture": 1000 * (planned_s - started_s) / plan.num_rows,
        "finish_ms_per_picture": 1000 * (ended_s - planned_s) / plan.num_rows,
        "shard_bytes_per_picture": together.stat().st_size / plan.num_rows,
    }


def two_workers_over_one(root: Path, num_chunks: int) -> float:
    """Return the throughput of two workers divided by that of one, with slow services."""
    rates = []
    for num_workers in (1, 2):
        folder = root / f"workers-{num_workers}"
        write_pictures(folder / "data" / "in", 4 * num_chunks, seed=3, size_px=64)
        prompter = FakePrompter(before=lambda captions: time.sleep(SLEEP_S))
        detector = FakeDetector(before=lambda picture, phrases: time.sleep(SLEEP_S))
        with running_stack(folder, prompter, detector, num_workers=num_workers):
            rates.append(label(folder, "in", chunk_size=4))
    return rates[1] / rates[0]


def write_pictures(folder: Path, count: int, *, seed: int, size_px: int) -> None:
    """Write scenes of the small world as one img2dataset shard with LAION's columns."""
    world = World.load(("twemoji",), "train")
    write_shards(
        folder, world, num_scenes=count, seed=seed, scene_config=SceneConfig(size_px=size_px)
    )


@contextmanager
def running_stack(
    folder: Path, prompter: FakePrompter, detector: FakeDetector, *, num_workers: int
) -> Iterator[list[psutil.Process]]:
    """Run Redis, services in this process, a dispatcher and workers; yield the workers."""
    with ExitStack() as stack:
        url = stack.enter_context(serve(create_app(prompter, detector)))
        env = child_environment(
            WORKER_BROKER_URL=stack.enter_context(EmbeddedRedis(folder / "redis")).url,
            **{f"WORKER_{name}_URL": url for name in ("LLM", "DETECTOR", "SEGMENTER")},
            WORKER_RUNS_DIR=str(folder / "runs"),
            WORKER_DATA_DIR=str(folder / "data"),
            WORKER_CONCURRENCY="1",
            WORKER_TICK_S=str(TICK_S),
        )
        modules = ["worker.dispatch.dispatcher", *["worker"] * num_workers]
        processes = [
            stack.enter_context(running(module, env, log=folder / f"{number}.log"))
            for number, module in enumerate(modules)
        ]
        logs = [folder / f"{number}.log" for number in range(1, len(modules))]
        wait_until(lambda: all(" ready." in log.read_text() for log in logs))
        yield [psutil.Process(process.pid) for process in processes[1:]]


@contextmanager
def running(module: str, env: dict[str, str], *, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module as a process; kill it and all its children after the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=env,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def label(folder: Path, source: str, *, chunk_size: int) -> float:
    """Label a source; return chunks per second between its first and its last commit."""
    request = RunRequest(source=source, run_id=source, chunk_size=chunk_size)
    create_run(folder / "data", folder / "runs", request)
    wait_until(lambda: read_status(folder / "runs", source).state == "done")
    status = read_status(folder / "runs", source)
    assert not status.failed, f"the services are fakes: {status}"
    records = (folder / "runs" / source / "dataset").glob("shard-*.json")
    times_s = sorted(path.stat().st_mtime for path in records)
    return (len(times_s) - 1) / max(times_s[-1] - times_s[0], 1e-9)


def cpu_s(process: psutil.Process) -> float:
    """Return CPU seconds of a process and its children, including ended ones."""
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    ended: float = times[0].children_user + times[0].children_system
    return ended + sum(float(each.user + each.system) for each in times)


def wait_until(happened: Callable[[], bool], *, timeout_s: float = 300) -> None:
    """Poll until the condition is true. Raises TimeoutError."""
    deadline_s = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {timeout_s:.0f} s")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
