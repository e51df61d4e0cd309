"""`unspoken label` after a kill, and its workspace. Only the models are fakes."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.worker.source_files import CAPTIONS, picture
from unspoken.config.settings import child_environment
from unspoken.runs.dataset.shards import iter_rows
from unspoken.runs.store import read_status

ROOT = Path(__file__).parents[3]
# The real command line, with other services.
UNSPOKEN = """
from cli import main as cli
from cli.local import launcher
launcher.MODULES["services"] = "tests.cli.local.fake_services"
cli.main()
"""


def command(*arguments):
    return [sys.executable, "-c", UNSPOKEN, *map(str, arguments)]


def environment(**changes):
    return child_environment(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", **changes)


@contextmanager
def started(*arguments, log, **changes):
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(*arguments), env=environment(**changes), stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def run(*arguments):
    done = subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, timeout=120
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def wait_until(is_so, *, log, within_s=120.0):
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def first_of_five_free():
    """Return the first of five free port numbers below those that the system assigns."""
    for first in range(20_000 + os.getpid() % 1000, 32_000, 5):
        with ExitStack() as probes, suppress(OSError):
            for port in range(first, first + 5):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free port")


def write_captioned(folder, indices):
    folder.mkdir()
    for index in indices:
        (folder / f"{index:02d}.jpg").write_bytes(picture(index))
        (folder / f"{index:02d}.txt").write_text(CAPTIONS[index])


def test_a_killed_label_goes_on_by_up_without_being_told_the_source_again(tmp_path):
    workspace = tmp_path / "W"
    write_captioned(tmp_path / "A", range(8))
    write_captioned(tmp_path / "B", range(8, 10))
    runs, log = workspace / "runs", tmp_path / "log"
    label = (
        "label",
        tmp_path / "A",
        "--name",
        "labels",
        "--workspace",
        workspace,
        "--chunk-size",
        1,
    )
    with started(*label, log=log, FAKE_DETECT_S="0.5") as process:
        wait_until(lambda: len(list(runs.glob("labels/dataset/shard-*.json"))) >= 2, log=log)
        process.kill()
    wait_until(lambda: not (runs / ".dispatcher").exists(), log=log)
    time.sleep(6)  # longer than a dispatcher that starts may take (liveness.GONE_S)

    code, told = run("status", "labels", "--workspace", workspace)
    assert code == 0 and "no dispatcher has worked on this run" in told
    assert f"unspoken up --workspace {workspace}" in told
    code, told = run("label", tmp_path / "B", "--name", "labels", "--workspace", workspace)
    assert code == 1 and f"it labels {tmp_path}/A, not {tmp_path}/B" in told

    port, up_log = first_of_five_free(), tmp_path / "up.log"
    with started("up", "--workspace", workspace, "--port", port, log=up_log):
        wait_until(lambda: read_status(runs, "labels").state == "done", log=up_log)
    assert re.findall(r"http://\S+", up_log.read_text()) == [f"http://127.0.0.1:{port}/"]
    status = read_status(runs, "labels")
    assert (status.total, status.failed) == (8, {})
    members = [row.source_member for row in iter_rows(runs / "labels/dataset")]
    assert members == [f"{index:02d}.jpg" for index in range(8)]
    code, told = run(*label)
    assert code == 0 and "labels: done, 8 of 8 pictures" in told
