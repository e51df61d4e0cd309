"""A real gateway and a fake segmenter over real HTTP, and a fake worker for runs."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.gateway.app import create_app as gateway_app
from services.gateway.settings import GatewaySettings
from services.segmenter.app import create_app as segmenter_app
from tests.fakes import FakeSegmenter, FakeTextEncoder
from tests.worker.service import serve
from unspoken.runs.store import list_runs, write_status
from unspoken.wire.runs import ENDED


@dataclass(frozen=True)
class ServedStack:
    """URL and parts of a served stack."""

    url: str
    segmenter: FakeSegmenter
    data_dir: Path
    runs_dir: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def served_stack(folder: Path, *, segmenter: FakeSegmenter | None = None) -> Iterator[ServedStack]:
    """Serve the stack with data and runs below `folder`; runs are not processed."""
    segmenter = segmenter or FakeSegmenter()
    data_dir, runs_dir = folder / "data", folder / "runs"
    with serve(segmenter_app(FakeTextEncoder(), segmenter=segmenter)) as behind:
        settings = GatewaySettings(
            data_dir=data_dir, runs_dir=runs_dir, segmenter_url=behind, poll_s=0.01
        )
        with serve(gateway_app(settings)) as url:
            yield ServedStack(url, segmenter, data_dir, runs_dir)


@contextmanager
def worked_off(
    runs_dir: Path, *, rows: int = 3, failed: Mapping[str, int] | None = None
) -> Iterator[None]:
    """Advance every run from planned to done, by one row each time that its status is read.

    failed: reasons of the rows that failed, from the start.
    """
    is_over = threading.Event()

    def work() -> None:
        while not is_over.wait(0.02):
            for run in list_runs(runs_dir):
                if run.state not in ENDED:
                    done = min(run.done + 1, rows)
                    changes = {
                        "state": "done" if done == rows else "running",
                        "total": rows,
                        "done": done,
                        "labelled": done,
                        "failed": dict(failed or {}),
                        "updated_s": time.time(),
                    }
                    write_status(runs_dir, run.model_copy(update=changes))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
