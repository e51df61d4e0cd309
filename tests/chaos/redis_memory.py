"""Memory of Redis during a run of millions of rows: a real plan, real ticks, a real Redis.

`python -m tests.chaos.redis_memory` prints the figure. A thousand slots work, so the dispatcher
keeps two thousand messages in the queue. Chunks finish so quickly that each message carries the
largest possible number of ids.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import redis

from tests.fakes import FakeCropRanker, FakeDetector, FakePrompter, FakeTextEncoder
from unspoken.runs.chunks import DIGEST_CHARS
from unspoken.runs.ledger import Ledger
from unspoken.runs.plan import LabelConfig, ListedRow, make_plan, write_plan
from unspoken.runs.store import create_run
from unspoken.wire.label_options import LabelOptions
from unspoken.wire.runs import RunRequest
from worker.dispatch.loop import Dispatcher
from worker.dispatch.planning import Services
from worker.process.broker import CeleryPublisher
from worker.process.celery_app import create_celery
from worker.process.embedded_redis import EmbeddedRedis
from worker.process.message import BULK

MAX_MIB = 64.0
NUM_ROWS = 5_000_000
CHUNK_SIZE = 8
NUM_SLOTS = 1000


def redis_mib(folder: Path, *, num_rows: int = NUM_ROWS, num_slots: int = NUM_SLOTS) -> float:
    """Return the peak memory of Redis in MiB while the queue is filled twice."""
    data_dir, runs_dir = folder / "data", folder / "runs"
    data_dir.mkdir(parents=True)
    (data_dir / "in.csv").write_text("path,caption\n")
    create_run(data_dir, runs_dir, RunRequest(source="in.csv", run_id="r"))
    ledger = Ledger(runs_dir / "r", lease_s=3600)
    _write_plan(ledger.run_dir, num_rows)
    for chunk_id in range(num_slots):
        (ledger.run_dir / "leases" / f"{chunk_id:06d}").write_text("somebody")
    services = Services(FakePrompter(), FakeDetector(), FakeTextEncoder(), FakeCropRanker())
    with (
        EmbeddedRedis(folder / "redis") as server,
        redis.Redis(unix_socket_path=str(server.socket)) as client,
        create_celery(server.url) as app,
    ):
        dispatcher = Dispatcher(
            runs_dir=runs_dir,
            data_dir=data_dir,
            services=services,
            publisher=CeleryPublisher(app),
            lease_s=ledger.lease_s,
            clock=lambda: 0.0,
        )
        queue = app.conf.broker_transport_options["global_keyprefix"] + BULK
        held = []
        for round_ in range(2):
            dispatcher.tick()
            held.append(client.info("memory")["used_memory"])
            assert 0 < client.llen(queue) <= 2 * num_slots, "twice the slots, and no more"
            client.delete(queue)  # as if workers had taken them all
            for chunk_id in range(8):  # and been quick: then messages carry many ids
                ledger.publish(chunk_id + 8 * round_, [], attempt=1, models={})
    return max(held) / 2**20


def _write_plan(run_dir: Path, num_rows: int) -> None:
    def listing() -> Iterator[ListedRow]:
        return (ListedRow(row, "0" * DIGEST_CHARS) for row in range(num_rows))

    plan = make_plan(
        "r",
        [("in.csv", listing())],
        config=LabelConfig(named_threshold=0.3, options=LabelOptions(chunk_size=CHUNK_SIZE)),
        models={"llm": FakePrompter.model, "detector": FakeDetector.model},
    )
    write_plan(run_dir, plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    with tempfile.TemporaryDirectory(prefix="unspoken-chaos-") as folder:
        mib = redis_mib(Path(folder), num_rows=parser.parse_args().rows)
    sys.stdout.write(f"{mib:.1f} MiB\n")


if __name__ == "__main__":
    main()
