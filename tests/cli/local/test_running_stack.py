"""`unspoken label` with its stack of real processes and fake models, killed and interrupted."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.worker.source_files import CAPTIONS, write_shard
from unspoken.config.settings import child_environment

NUM_ROWS, CHUNK_SIZE = 40, 2
SOON_S = 120.0


class Labelling:
    """A running `unspoken label`."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.out, self.temporary = folder / "out", folder / "t"
        self.output = folder / "output.txt"

    def num_done(self) -> int:
        """Return the number of committed chunks."""
        return len(list(self.out.glob("runs/labels/dataset/shard-*.json")))

    def child(self, word: str) -> psutil.Process:
        """Return the child process whose command line contains the word."""
        children = psutil.Process(self.process.pid).children()
        (found,) = [each for each in children if word in " ".join(each.cmdline())]
        return found

    def said(self) -> str:
        return " ".join(self.output.read_text().split())

    def wait_until(self, holds: Callable[[], bool], *, within_s: float = SOON_S) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, self.said()
            assert self.process.poll() is None, self.said()
            time.sleep(0.05)

    def end(self, *, within_s: float) -> int:
        return self.process.wait(timeout=within_s)


@pytest.fixture
def folder() -> Iterator[Path]:
    # Short, because it is also TMPDIR: a socket's path has 103 bytes at most.
    with tempfile.TemporaryDirectory() as short:
        yield Path(short)


@contextmanager
def labelling(folder: Path) -> Iterator[Labelling]:
    source = folder / "in"
    if not source.exists():
        captions = [f"Picture {i}: {CAPTIONS[i % 12].lower()}" for i in range(NUM_ROWS)]
        columns = [{"LANGUAGE": "en", "punsafe": 0.01}] * NUM_ROWS
        write_shard(source / "00000.tar", captions, columns=columns)
        (folder / "t").mkdir()
    command = [
        "label",
        str(source),
        "--name",
        "labels",
        "--workspace",
        str(folder / "out"),
        f"--chunk-size={CHUNK_SIZE}",
    ]
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.local.fake_cli", *command],
            env=child_environment(
                TMPDIR=str(folder / "t"), PYTHONPATH=str(Path.cwd()), OMP_NUM_THREADS="1"
            ),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Labelling(process, folder)
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.mark.timeout(600)
def test_a_run_survives_its_redis_and_is_stopped_by_ctrl_c_and_resumed(folder):
    with labelling(folder) as run:
        run.wait_until(lambda: run.num_done() >= 1)
        redis = run.child("redis-server")
        redis.kill()
        aof = run.out / "redis/appendonly.aof"
        aof.write_bytes(aof.read_bytes() + bytes(4096))
        before = run.num_done()
        run.wait_until(lambda: run.num_done() >= before + 4)
        assert run.child("redis-server").pid != redis.pid

        children = psutil.Process(run.process.pid).children(recursive=True)
        run.process.send_signal(signal.SIGINT)
        run.wait_until(lambda: "stopping after the current items" in run.said(), within_s=2)
        assert "run the same command to resume" in run.said()
        assert run.end(within_s=10) == 130
        done = run.num_done()
        assert done < NUM_ROWS / CHUNK_SIZE, "it was stopped in the middle"
        assert not any(each.is_running() and each.status() != "zombie" for each in children)
        assert not list(run.temporary.glob("unspoken-redis-*"))
        tried = {path.name[:6] for path in run.out.glob("runs/labels/attempts/*")}
        committed = {path.stem[-6:] for path in run.out.glob("runs/labels/dataset/shard-*.json")}
        assert tried <= committed, "chunks that were given back have lost no attempt"

    with labelling(folder) as run:
        assert run.end(within_s=SOON_S) == 0, run.said()
        status = json.loads((run.out / "runs/labels/status.json").read_text())
        assert (status["state"], status["labelled"]) == ("done", NUM_ROWS)
        assert not list(run.temporary.glob("unspoken-redis-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stack_that_is_stopped_while_it_starts_leaves_nothing(folder, number):
    with labelling(folder) as run:
        run.wait_until(lambda: any(run.temporary.glob("unspoken-redis-*/redis.sock")))
        run.process.send_signal(number)
        assert run.end(within_s=10) == 130
        assert not list(run.temporary.glob("unspoken-redis-*"))


def test_services_that_die_are_restarted_and_the_run_goes_on(folder):
    with labelling(folder) as run:
        run.wait_until(lambda: run.num_done() >= 1)
        os.kill(run.child("fake_laptop").pid, signal.SIGKILL)
        assert run.end(within_s=200) == 0, run.said()
        status = json.loads((run.out / "runs/labels/status.json").read_text())
        assert (status["state"], status["labelled"]) == ("done", NUM_ROWS)
