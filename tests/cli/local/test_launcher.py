"""Parts of the launcher: the embedded Redis, restart of children, and the check of each port."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import redis

from cli.local.launcher import MODULES, Stack, StackConfig, _Child
from cli.local.restarting import Restarter
from unspoken.config.services import SERVICES
from unspoken.config.settings import child_environment
from unspoken.errors import InvalidConfig, InvalidInput
from unspoken.process import free_port, listens_on
from worker.process.broker import read_broker
from worker.process.celery_app import create_celery
from worker.process.embedded_redis import EmbeddedRedis, find_server


def test_a_redis_binary_is_always_at_hand():
    assert find_server().is_file()


def test_the_embedded_redis_listens_on_a_socket_only_and_keeps_what_it_holds(tmp_path: Path):
    with EmbeddedRedis(tmp_path / "redis") as server:
        client = redis.Redis(unix_socket_path=str(server.socket))
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert oct(server.socket.parent.stat().st_mode & 0o777) == "0o700"
        client.set("kept", "1")
        client.close()
    with EmbeddedRedis(tmp_path / "redis") as server:
        client = redis.Redis(unix_socket_path=str(server.socket))
        assert client.get("kept") == b"1"
        client.close()


def test_the_embedded_redis_is_gone_after_the_block(tmp_path: Path):
    with EmbeddedRedis(tmp_path / "redis") as server:
        socket = server.socket
    assert not socket.exists()


def fill(folder: Path) -> None:
    """Write an append-only file with some commands."""
    with (
        EmbeddedRedis(folder) as server,
        redis.Redis(unix_socket_path=str(server.socket)) as client,
    ):
        for number in range(20):
            client.rpush("queue", f"message {number}")


def aof_of(folder: Path) -> Path:
    """Return the file with the commands: of Redis 6, or the increments of Redis 7 and Valkey."""
    (path,) = [*folder.glob("appendonly.aof"), *folder.glob("appendonlydir/*.incr.aof")]
    return path


def cut_short(content: bytes) -> bytes:
    return content[: len(content) // 2 + 3]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content + bytes(4096), id="zeros-at-the-end"),
        pytest.param(cut_short, id="cut-short"),
        pytest.param(lambda content: cut_short(content) + bytes(512), id="cut-and-zeros"),
        pytest.param(lambda content: bytes(len(content)), id="zeros"),
        pytest.param(lambda content: b"\xff" * 64 + content[64:], id="start-overwritten"),
        pytest.param(lambda content: b"", id="empty"),
    ],
)
def test_a_damaged_append_only_file_does_not_stop_redis_from_starting(tmp_path, damage):
    fill(tmp_path)
    path = aof_of(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):  # the second start reads what the first one left
        with (
            EmbeddedRedis(tmp_path) as server,
            redis.Redis(unix_socket_path=str(server.socket)) as client,
        ):
            client.rpush("queue", "another message")
            assert client.lindex("queue", -1) == b"another message"


def test_a_damaged_append_only_file_is_kept_beside(tmp_path):
    fill(tmp_path)
    path = aof_of(tmp_path)
    spoiled = b"spoiled" + path.read_bytes()
    path.write_bytes(spoiled)
    with EmbeddedRedis(tmp_path):
        pass
    kept = [*tmp_path.glob("*.damaged"), *tmp_path.glob("*.damaged/*.incr.aof")]
    assert spoiled in [each.read_bytes() for each in kept if each.is_file()]


def test_a_redis_that_was_killed_is_restarted_at_the_same_address(tmp_path):
    now_s = 0.0
    with EmbeddedRedis(tmp_path) as server:
        restarter = Restarter(server, clock=lambda: now_s)
        assert not restarter.revive()
        os.kill(server.pid, signal.SIGKILL)
        while not server.ended():
            time.sleep(0.01)
        path = aof_of(tmp_path)
        path.write_bytes(path.read_bytes() + bytes(100))
        assert not restarter.revive(), "it backs off first"
        now_s = 1.0
        assert restarter.revive()
        with redis.Redis(unix_socket_path=str(server.socket)) as client:
            assert client.ping()


class Ending:
    """A process that ends immediately after its start; each start may fail."""

    name, log = "ending", Path("ending.log")

    def __init__(self) -> None:
        self.starts = 0
        self.fails = False

    def ended(self) -> bool:
        return True

    def start(self) -> None:
        self.starts += 1
        if self.fails:
            raise InvalidConfig("no luck")


def test_pauses_between_restarts_double_up_to_half_a_minute_and_reset_after_a_stable_minute():
    process, now_s, started_s = Ending(), 0.0, []
    restarter = Restarter(process, clock=lambda: now_s)
    while len(started_s) < 8:
        process.fails = len(started_s) == 3  # a start that fails does not end the restarting
        if restarter.revive() or process.starts > len(started_s):
            started_s.append(now_s)
        now_s += 0.5
    pauses = [after - before for before, after in pairwise(started_s)]
    assert started_s[0] == 1.0
    assert pauses == pytest.approx([2.5, 4.5, 8.5, 16.5, 30.5, 30.5, 30.5])
    now_s += 100.0
    restarter.revive()
    now_s += 1.0
    assert restarter.revive()


def no_server_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = folder / "bin/redis-server"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")


def temporary_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_a_redis_that_does_not_start_leaves_no_folder_and_keeps_its_file(tmp_path, monkeypatch):
    temporary = temporary_folder(tmp_path / "t", monkeypatch)
    fill(tmp_path / "redis")
    before = aof_of(tmp_path / "redis").read_bytes()
    no_server_starts(tmp_path, monkeypatch)
    with pytest.raises(InvalidConfig, match=r"did not start; the end of .*redis\.log:\n.*\w"):
        EmbeddedRedis(tmp_path / "redis").__enter__()
    assert not list(temporary.iterdir())
    assert aof_of(tmp_path / "redis").read_bytes() == before


def test_a_start_that_is_interrupted_leaves_neither_folder_nor_process(tmp_path, monkeypatch):
    temporary = temporary_folder(tmp_path / "t", monkeypatch)

    def interrupt(_client: redis.Redis) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(redis.Redis, "ping", interrupt)
    server = EmbeddedRedis(tmp_path / "redis")
    with pytest.raises(KeyboardInterrupt):
        server.__enter__()
    assert server.ended() and not list(temporary.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from worker.process.embedded_redis import EmbeddedRedis
server = EmbeddedRedis(Path(sys.argv[1])).__enter__()
print(server.socket.parent, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_folder_of_a_process_that_was_killed_is_removed_by_the_next_one(tmp_path, monkeypatch):
    with tempfile.TemporaryDirectory() as short, EmbeddedRedis(tmp_path / "living") as living:
        temporary_folder(Path(short) / "t", monkeypatch)
        command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
        environment = child_environment(TMPDIR=f"{short}/t")
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        left = Path(done.stdout.strip())
        with EmbeddedRedis(tmp_path / "redis") as other:
            for folder in (left, living.socket.parent, other.socket.parent):
                os.utime(folder, (1, 1))
            with EmbeddedRedis(tmp_path / "redis"):
                assert not left.exists()
                assert living.socket.exists() and other.socket.exists()


def test_a_temporary_folder_with_a_long_path_is_passed_over(tmp_path, monkeypatch):
    temporary_folder(tmp_path / ("long" * 20), monkeypatch)
    with (
        EmbeddedRedis(tmp_path / "redis") as server,
        redis.Redis(unix_socket_path=str(server.socket)) as client,
    ):
        assert client.ping()
    assert not server.socket.parent.exists()


@pytest.mark.parametrize("name", ["a b", "100%25", "ha#sh", "que?ry", "plus+", "ümlaut"])
def test_celery_reaches_redis_whatever_the_temporary_folder_is_called(monkeypatch, name):
    with tempfile.TemporaryDirectory() as short:
        temporary_folder(Path(short) / name, monkeypatch)
        with EmbeddedRedis(Path(short) / "redis") as server, create_celery(server.url) as app:
            assert read_broker(app).unacked == 0


def test_two_servers_never_write_one_append_only_file(tmp_path):
    with EmbeddedRedis(tmp_path) as first, EmbeddedRedis(tmp_path) as second:
        for server, keeps in ((first, "yes"), (second, "no")):
            with redis.Redis(unix_socket_path=str(server.socket)) as client:
                assert client.config_get("appendonly") == {"appendonly": keeps}


def run_child(child: _Child) -> None:
    child.start()
    child.wait(20)
    assert child.ended()


def test_a_child_can_be_started_again_and_its_log_goes_on(tmp_path):
    child = _Child("timer", "timeit", environment={}, logs_dir=tmp_path)
    run_child(child)  # `python -m timeit` measures `pass` and ends by itself
    run_child(child)
    assert child.log.read_text().count("loops") == 2
    assert "sec per loop" in child.why()
    child.log.write_text("started\nerror: port 1 is taken. Choose another\n")
    assert child.why() == f"port 1 is taken. Choose another (log: {child.log})"


def test_files_of_the_users_folder_do_not_shadow_the_modules_of_a_child(tmp_path, monkeypatch):
    for name in ("timeit", "worker", "redis", "itertools", "gc"):
        (tmp_path / f"{name}.py").write_text("print('hijacked')")
    monkeypatch.chdir(tmp_path)
    child = _Child("timer", "timeit", environment={}, logs_dir=tmp_path)
    run_child(child)
    assert "hijacked" not in child.log.read_text() and "loops" in child.log.read_text()


def test_a_child_that_does_not_end_is_killed_with_what_it_forked(tmp_path, monkeypatch):
    (tmp_path / "forking.py").write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.fork(), flush=True)\n"
        "time.sleep(600)\n"
    )
    child = _Child(
        "forking", "forking", environment={"PYTHONPATH": str(tmp_path)}, logs_dir=tmp_path
    )
    child.start()
    deadline = time.monotonic() + 20
    while len(words := child.log.read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.terminate()
    child.wait(0.2)
    assert not child.ended()
    child.kill()
    assert child.ended()
    forked = max(map(int, words))
    while Path(f"/proc/{forked}").exists() and "Z" not in state_of(forked):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_second_interruption_kills_all_children_at_once(tmp_path, monkeypatch):
    (tmp_path / "stubborn.py").write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)\n"
    )

    def interrupted(_child: _Child, _timeout_s: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("cli.local.launcher.MODULES", dict.fromkeys(MODULES, "stubborn"))
    monkeypatch.setattr(_Child, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt), Stack(config_of(tmp_path / "w")) as stack:
        children = list(stack._children.values())
    assert len(children) == 3 and all(child.ended() for child in children)


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.fixture
def listening() -> Iterator[int]:
    """Yield a port on which this process listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def config_of(folder: Path, **port_by_service: int) -> StackConfig:
    return StackConfig(
        folder=folder,
        data_dir=folder / "data",
        runs_dir=folder / "runs",
        port_by_service=dict.fromkeys((each.name for each in SERVICES), 0) | port_by_service,
    )


def test_a_port_that_is_taken_is_refused_before_anything_is_started(tmp_path, listening):
    with (
        pytest.raises(InvalidInput, match=f"port {listening} for llm is already in use"),
        Stack(config_of(tmp_path / "w", llm=listening)),
    ):
        pass
    assert not (tmp_path / "w").exists()


def test_a_second_up_is_refused_with_the_port_and_what_to_do(tmp_path, listening):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "cli.main",
            "up",
            f"--workspace={tmp_path / 'w'}",
            f"--port={listening}",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    told = " ".join(done.stderr.split())
    assert f"port {listening} for gateway is already in use" in told and "--port" in told


def test_only_the_process_that_listens_on_a_port_is_taken_for_its_owner(listening):
    assert listens_on(os.getpid(), listening)
    assert not listens_on(os.getppid(), listening)
    assert not listens_on(os.getpid(), free_port())


def test_every_verb_has_a_help_text():
    text = subprocess.run(
        [sys.executable, "-m", "cli.main", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for verb in (
        "demo",
        "up",
        "label",
        "status",
        "retry",
        "export",
        "weights",
        "world",
        "train",
        "segment",
    ):
        assert verb in text


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        pytest.param(["label", "/nowhere"], 2, "does not exist", id="no-source"),
        pytest.param(["status", "absent", "--workspace", "/nowhere"], 1, "no run", id="no-run"),
        pytest.param(["status", "--url", "http://127.0.0.1:9"], 1, "unspoken up", id="no-gateway"),
        pytest.param(
            ["export", "coco", "absent", "--out", "x"], 1, "no run 'absent'", id="no-dataset"
        ),
    ],
)
def test_a_wrong_call_is_one_line_that_says_what_to_do(arguments, code, says, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(Path.cwd())},
    )
    assert done.returncode == code, done.stderr
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_demo_never_clears_a_folder_that_is_none(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "demo", "--out", str(tmp_path), "--exit"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
