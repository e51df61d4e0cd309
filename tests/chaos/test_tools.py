"""Tests of the suite's own tools: the fault proxy, the reader, the watcher and the small disk."""

import ast
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.chaos import reader
from tests.chaos.disk import SmallDisk
from tests.chaos.fault_proxy import FaultProxy
from tests.chaos.reader import read_end_state
from unspoken.runs.dataset.rows import Row
from unspoken.runs.ledger import Ledger


@contextmanager
def echo_server():
    """Run an echo server; yield (host, port)."""

    def serve(plug):
        with plug, suppress(OSError):
            while heard := plug.recv(65536):
                plug.sendall(heard)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            while True:
                try:
                    plug, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(plug,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy():
    with echo_server() as address, FaultProxy(address) as proxy:
        yield proxy


def connect(proxy):
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def say(plug, words):
    plug.sendall(words)
    return plug.recv(65536)


def test_a_proxy_that_harms_nothing_passes_everything_on(proxy):
    with connect(proxy) as plug:
        assert say(plug, b"hello") == b"hello"


def test_a_proxy_may_be_late(proxy):
    with connect(proxy) as plug:
        proxy.delay(0.2)
        started = time.monotonic()
        assert say(plug, b"hello") == b"hello"
        assert time.monotonic() - started >= 0.4  # there and back


def test_a_reset_breaks_open_links_and_lets_new_ones_in(proxy):
    with connect(proxy) as plug:
        assert say(plug, b"hello") == b"hello"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            say(plug, b"hello again")
    with connect(proxy) as plug:
        assert say(plug, b"hello") == b"hello"


def test_a_cut_ends_an_answer_in_its_middle(proxy):
    proxy.cut(after_bytes=3)
    with connect(proxy) as plug:
        assert say(plug, b"hello") == b"hel"
        assert plug.recv(10) == b""
    proxy.heal()
    with connect(proxy) as plug:
        assert say(plug, b"hello") == b"hello"


def test_nobody_behind_the_proxy_is_a_broken_link_until_somebody_comes_back():
    with echo_server() as address, FaultProxy(("127.0.0.1", 1)) as proxy:
        with pytest.raises(ConnectionResetError), connect(proxy) as plug:
            say(plug, b"hello")
        proxy.upstream = address
        with connect(proxy) as plug:
            assert say(plug, b"hello") == b"hello"


@pytest.fixture
def run_dir(tmp_path):
    """Return a run of two chunks with two rows each, published by the real ledger."""
    for name in ("attempts", "leases", "dataset"):
        (tmp_path / name).mkdir()
    for chunk_id in range(2):
        rows = [
            Row(
                key=f"{chunk_id}{place}",
                source_shard="a.tar",
                source_member="x.jpg",
                source_row=2 * chunk_id + place,
                caption=f"caption {2 * chunk_id + place}",
                status="labelled",
            )
            for place in range(2)
        ]
        assert Ledger(tmp_path).publish(chunk_id, rows, attempt=1, models={})
    return tmp_path


def test_the_reader_shares_no_code_with_what_it_judges():
    tree = ast.parse(Path(reader.__file__).read_text())
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [each.name for each in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= {
        *("hashlib", "json", "sys", "collections", "pathlib", "typing", "pyarrow.parquet")
    }


def test_the_reader_counts_every_row_and_sees_the_same_twice(run_dir, tmp_path):
    state = read_end_state(run_dir / "dataset")
    assert state.inputs == {("a.tar", row): 1 for row in range(4)} and not state.problems
    assert state.sha256 == read_end_state(run_dir / "dataset").sha256


def test_the_reader_sees_a_row_that_stands_twice(run_dir):
    dataset = run_dir / "dataset"
    for kind in ("parquet", "json"):
        shutil.copy(dataset / f"shard-000001.{kind}", dataset / f"shard-000002.{kind}")
    assert max(read_end_state(dataset).inputs.values()) == 2


def test_the_reader_sees_shards_that_are_not_what_their_records_say(run_dir):
    dataset = run_dir / "dataset"
    with (dataset / "shard-000000.parquet").open("ab") as shard:
        shard.write(b"more")
    (dataset / "shard-000001.json").unlink()
    state = read_end_state(dataset)
    assert len(state.problems) == 2 and not state.inputs


@contextmanager
def watching(folder, report):
    command = [sys.executable, "-m", "tests.chaos.watcher", str(folder), str(report)]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 60
        while not report.with_suffix(".ready").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        yield
        process.send_signal(signal.SIGTERM)


def test_the_watcher_finds_nothing_wrong_with_what_the_ledger_publishes(run_dir, tmp_path):
    rows = [
        Row(
            key="k",
            source_shard="a.tar",
            source_member="x.jpg",
            source_row=9,
            caption="c",
            status="labelled",
        )
    ]
    report = tmp_path / "report.json"
    with watching(run_dir / "dataset", report):
        Ledger(run_dir).publish(7, rows, attempt=1, models={})
    assert json.loads(report.read_text()) == {"seen": 2, "faults": []}


def test_the_watcher_sees_a_torn_file_though_it_is_whole_later(run_dir, tmp_path):
    dataset, report = run_dir / "dataset", tmp_path / "report.json"
    whole = (dataset / "shard-000000.parquet").read_bytes()
    torn = dataset / "shard-000005.parquet"
    with watching(dataset, report), torn.open("wb", buffering=0) as shard:
        shard.write(whole[:500])
        time.sleep(0.5)
        shard.write(whole[500:])
    faults = json.loads(report.read_text())["faults"]
    assert any("torn" in fault for fault in faults)
    assert any("in place" in fault for fault in faults)


def test_a_full_disk_refuses_and_takes_again(tmp_path):
    writer = (
        "import sys\n"
        "for line in sys.stdin:\n"
        "    try:\n"
        "        with open(line.strip(), 'wb') as file: file.write(bytes(100_000))\n"
        "        print('written', flush=True)\n"
        "    except OSError:\n"
        "        print('refused', flush=True)\n"
    )
    with (
        SmallDisk(tmp_path / "disk") as disk,
        subprocess.Popen(
            [sys.executable, "-c", writer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):

        def write():
            process.stdin.write(f"{disk.folder}/{time.monotonic_ns()}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        assert write() == "written"
        disk.fill([process.pid])
        assert write() == "refused"
        disk.free([process.pid])
        assert write() == "written"
        process.stdin.close()
