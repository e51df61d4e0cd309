"""Invalid settings of a worker: the broker's address, the cache folder."""

import subprocess
import sys

import pytest

from unspoken.errors import InvalidConfig, InvalidInput
from worker.process.broker import read_broker
from worker.process.broker_url import check_broker_url
from worker.process.celery_app import create_celery
from worker.process.settings import WorkerSettings

ACCEPTED = [
    "redis://127.0.0.1:1",
    "redis://127.0.0.1:1/",
    "redis://127.0.0.1:1/3",
    "redis://:p%40ss@127.0.0.1:1/0",
    "redis://user:pass@[::1]:1/0",
    "rediss://127.0.0.1:1/0",
    "rediss://127.0.0.1:1/0?ssl_cert_reqs=none",
    "redis+socket:///nowhere/redis.sock",
    "redis+socket:///nowhere/redis.sock?virtual_host=3",
]
REFUSED = [
    ("unix:///tmp/redis.sock", "redis+socket://"),
    ("valkey://127.0.0.1:6379/0", "redis://"),
    ("valkeys://127.0.0.1:6379/0", "rediss://"),
    ("redis://127.0.0.1:6379?db=3", "/3, not ?db=3"),
    ("redis://127.0.0.1:6379/0?timeout=3", "unknown option"),
    ("redis://127.0.0.1:6379/x", "database number"),
    ("redis://127.0.0.1:6379/²", "database number"),
    ("redis://127.0.0.1:99999/0", "ort"),
    ("redis://127.0.0.1:port/0", "ort"),
    ("redis://[::1/0", "cannot be read"),
    ("redis:///0", "no host"),
    ("redis://", "no host"),
    ("redis+socket://tmp/redis.sock", "three slashes"),
    ("redis+socket:///", "no path of a socket"),
    ("redis+socket:///tmp/r.sock?db=3", "virtual_host"),
    ("redis://127.0.0.1/0#x", "#"),
    ("127.0.0.1:6379", "not the address"),
    ("localhost", "not the address"),
    ("amqp://secret:secret@127.0.0.1", "not the address"),
    ("memory://", "not the address"),
    ("sentinel://127.0.0.1:26379", "not the address"),
]


@pytest.mark.parametrize("url", ACCEPTED)
def test_celery_understands_every_accepted_address(url):
    assert check_broker_url(url, name="--broker-url") == url
    with create_celery(url) as app, pytest.raises(ConnectionError):  # nobody listens there
        read_broker(app)


@pytest.mark.parametrize(("url", "why"), REFUSED)
def test_another_address_is_refused_with_the_reason_and_the_accepted_forms(url, why):
    with pytest.raises(InvalidInput) as caught:
        check_broker_url(url, name="--broker-url")
    message = caught.value.message
    assert message.startswith("--broker-url: ") and why in message
    assert "redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]" in message
    assert "secret" not in message
    with pytest.raises(InvalidConfig, match="WORKER_BROKER_URL"):
        WorkerSettings(broker_url=url)


def test_up_refuses_a_brokers_address_before_anything_starts(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cli.main", "up", f"--workspace={tmp_path / 'w'}"),
            "--broker-url=valkey://127.0.0.1:6379",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and not (tmp_path / "w").exists()
    assert "--broker-url: write redis:// instead of valkey://" in " ".join(done.stderr.split())


def test_a_user_without_a_home_folder_is_told_which_setting_to_set(monkeypatch, tmp_path):
    for name in ("HOME", "XDG_CACHE_HOME", "UNSPOKEN_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54321)  # nobody
    with pytest.raises(InvalidConfig, match="set UNSPOKEN_CACHE_DIR"):
        WorkerSettings()
    monkeypatch.setenv("UNSPOKEN_CACHE_DIR", str(tmp_path))
    assert WorkerSettings().cache_dir == tmp_path
