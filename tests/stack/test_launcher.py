"""The launcher's own parts: the embedded Redis, children that die, ports."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from stack.launcher import _Child, free_port
from unspoken.embedded_redis import EmbeddedRedis, find_server


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


@pytest.fixture
def child(tmp_path: Path):
    made = _Child("timer", "timeit", environment={}, logs_dir=tmp_path)
    yield made
    made.stop()


def test_a_child_that_ended_is_started_again_after_its_pause(child: _Child):
    child.start()  # `python -m timeit` measures `pass` and ends by itself
    deadline = time.monotonic() + 20
    while not child.ended() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert child.ended()
    child.revive()
    assert child.ended(), "the pause is kept"
    time.sleep(1.1)
    child.revive()
    assert not child.ended()
    assert "usec" in child.log_tail() or "nsec" in child.log_tail()


def test_a_free_port_can_be_bound():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port()))


def test_every_verb_has_a_help_text():
    text = subprocess.run(
        [sys.executable, "-m", "stack.cli", "--help"], capture_output=True, text=True, check=True
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
        pytest.param(["label", "/nowhere", "--out", "x"], 2, "neither a folder", id="no-source"),
        pytest.param(["status", "absent", "--dir", "/nowhere"], 1, "no run", id="no-run"),
        pytest.param(["status", "--url", "http://127.0.0.1:9"], 1, "unspoken up", id="no-gateway"),
        pytest.param(["export", "coco", "/nowhere", "--out", "x"], 1, "", id="no-dataset"),
    ],
)
def test_a_wrong_call_is_one_line_that_says_what_to_do(arguments, code, says, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "stack.cli", *arguments],
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
        [sys.executable, "-m", "stack.cli", "demo", "--out", str(tmp_path), "--exit"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
