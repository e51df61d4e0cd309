"""Fetching weights from a fake hub on the loopback interface."""

import hashlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from unspoken.config.profiles import LOCK_FILE, ModelEntry, Profile, hub_folder, resolve_files
from unspoken.config.weights import FetchProgress, WeightsSettings, fetch_profile
from unspoken.errors import InvalidConfig, MissingWeights, ServiceUnavailable

CONFIG = b'{"layers": 2}'
WEIGHTS = b"\x00\x01" * 700_000
PREFIX = "/org/name/resolve/r1/"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A hub that redirects to a file store on another port, as the real one does.

    It records requests as (method, path, Authorization), and can refuse, or cut off answers.
    """

    def __init__(self) -> None:
        self.files = {PREFIX + "config.json": CONFIG, PREFIX + "sub/weights.bin": WEIGHTS}
        self.asked: list[tuple[str, str, str | None]] = []
        self.ranges: list[str] = []
        self.cuts = 0
        """Number of answers of the file store to cut off in the middle."""
        self.status = 200
        self.is_hub = True
        self._store = _served(self, self.send_file)
        self._front = _served(self, self.send_address)
        self.url = f"http://127.0.0.1:{self._front.server_port}"

    @property
    def downloads(self) -> list[tuple[str, str, str | None]]:
        """Requests for contents."""
        return [each for each in self.asked if each[0] == "GET"]

    def send_address(self, handler: BaseHTTPRequestHandler) -> None:
        content = self.files.get(handler.path)
        if content is None or self.status != 200:
            handler.send_error(404 if content is None else self.status)
            return
        handler.send_response(302)
        store = f"http://127.0.0.1:{self._store.server_port}"
        handler.send_header("Location", store + handler.path)
        if self.is_hub:
            handler.send_header("X-Repo-Commit", COMMIT)
        handler.send_header("X-Linked-ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        handler.send_header("X-Linked-Size", str(len(content)))
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def send_file(self, handler: BaseHTTPRequestHandler) -> None:
        content = self.files[handler.path]
        start = 0
        if asked := handler.headers["Range"]:
            self.ranges.append(asked)
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        is_cut, self.cuts = self.cuts > 0, max(self.cuts - 1, 0)
        if handler.command == "GET":
            handler.wfile.write(content[start : len(content) // 2 if is_cut else None])

    def close(self) -> None:
        for server in (self._front, self._store):
            server.shutdown()
            server.server_close()


def _served(hub: Hub, answer) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.asked.append((self.command, self.path, self.headers["Authorization"]))
            answer(self)

        do_HEAD = do_GET  # noqa: N815 - the name of the base class

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


def profile(**hashes: str) -> Profile:
    """Write a profile whose three models are the same two files of the hub."""
    entries = {
        kind: ModelEntry(
            profile="tiny",
            kind=kind,
            name="tiny",
            source="hub:org/name",
            revision="r1",
            files={"config.json": hashes.get("config"), "sub/weights.bin": hashes.get("weights")},
            device="cpu",
            dtype="float32",
        )
        for kind in ("llm", "detector", "text_encoder")
    }
    return Profile(name="tiny", **entries)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith((".part", ".incomplete"))]


def test_a_fetch_brings_every_file_once_and_records_what_came(hub, tmp_path):
    seen: list[FetchProgress] = []
    report = fetch_profile(
        profile(weights=sha256(WEIGHTS)),
        cache_dir=tmp_path,
        hub_url=hub.url,
        on_progress=seen.append,
    )
    assert report.fetched == ("org/name/config.json", "org/name/sub/weights.bin")
    assert report.received_bytes == len(CONFIG) + len(WEIGHTS)
    assert seen[-1].received_bytes == seen[-1].num_bytes == len(WEIGHTS)
    folder = resolve_files(profile().llm, cache_dir=tmp_path)
    assert (folder / "sub/weights.bin").read_bytes() == WEIGHTS
    assert sha256(CONFIG) in (folder / LOCK_FILE).read_text()
    assert not leftovers(tmp_path)


def test_a_mirror_on_this_machine_is_not_asked_by_the_environments_proxy(
    hub, tmp_path, monkeypatch
):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert len(fetch_profile(profile(), cache_dir=tmp_path, hub_url=hub.url).fetched) == 2


def test_a_second_fetch_asks_the_hub_for_nothing(hub, tmp_path):
    fetch_profile(profile(), cache_dir=tmp_path, hub_url=hub.url)
    hub.asked.clear()
    report = fetch_profile(profile(), cache_dir=tmp_path, hub_url=hub.url)
    assert hub.asked == [] and report.fetched == () and report.received_bytes == 0


def test_another_content_than_models_yaml_names_is_refused_and_not_kept(hub, tmp_path):
    wanted = profile(weights=sha256(b"another"))
    with pytest.raises(MissingWeights, match=rf"{sha256(WEIGHTS)}.*{sha256(b'another')}"):
        fetch_profile(wanted, cache_dir=tmp_path, hub_url=hub.url)
    assert not (hub_folder(wanted.llm, cache_dir=tmp_path) / "sub/weights.bin").exists()
    assert not leftovers(tmp_path)


def test_a_file_that_changed_on_the_hub_is_refused_by_the_lock(hub, tmp_path):
    fetch_profile(profile(), cache_dir=tmp_path, hub_url=hub.url)
    (hub_folder(profile().llm, cache_dir=tmp_path) / "config.json").unlink()
    hub.files[PREFIX + "config.json"] = b'{"layers": 3}'
    with pytest.raises(MissingWeights, match="expected"):
        fetch_profile(profile(), cache_dir=tmp_path, hub_url=hub.url)


def test_a_damaged_file_is_fetched_again(hub, tmp_path):
    fetch_profile(profile(), cache_dir=tmp_path, hub_url=hub.url)
    damaged = hub_folder(profile().llm, cache_dir=tmp_path) / "sub/weights.bin"
    damaged.write_bytes(b"damaged")
    report = fetch_profile(profile(), cache_dir=tmp_path, hub_url=hub.url)
    assert report.fetched == ("org/name/sub/weights.bin",)
    assert damaged.read_bytes() == WEIGHTS


def test_a_file_that_the_hub_does_not_have_is_named(hub, tmp_path):
    del hub.files[PREFIX + "sub/weights.bin"]
    with pytest.raises(MissingWeights, match=r"org/name/sub/weights\.bin \(404\)"):
        fetch_profile(profile(), cache_dir=tmp_path, hub_url=hub.url)


def test_a_connection_that_is_cut_is_resumed_where_it_ended(hub, tmp_path):
    large = bytes(24 << 20)
    hub.files[PREFIX + "config.json"] = large
    hub.cuts = 1
    wanted = profile(config=sha256(large), weights=sha256(WEIGHTS))
    assert len(fetch_profile(wanted, cache_dir=tmp_path, hub_url=hub.url).fetched) == 2
    assert hub.ranges == [f"bytes={10 << 20}-"]  # huggingface_hub writes pieces of 10 MiB


def test_a_fetch_that_is_killed_leaves_nothing_that_looks_like_weights(hub, tmp_path):
    received = threading.Event()

    def stop(_now: FetchProgress) -> None:
        received.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_profile(profile(), cache_dir=tmp_path, hub_url=hub.url, on_progress=stop)
    assert received.is_set()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(fetch_profile(profile(), cache_dir=tmp_path, hub_url=hub.url).fetched) == 2


def test_the_token_goes_to_the_hub_and_never_to_the_file_store(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch_profile(profile(), cache_dir=tmp_path, hub_url=hub.url)
    assert {auth for method, _, auth in hub.asked if method == "HEAD"} == {"Bearer hf_secret"}
    assert {auth for _, _, auth in hub.downloads} == {None}


def test_a_server_that_is_no_full_mirror_is_told_so(hub, tmp_path):
    hub.is_hub = False
    with pytest.raises(MissingWeights, match="X-Repo-Commit"):
        fetch_profile(profile(), cache_dir=tmp_path, hub_url=hub.url)


def test_the_offline_switch_of_the_hub_is_respected(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ServiceUnavailable, match="HF_HUB_OFFLINE"):
        fetch_profile(profile(), cache_dir=tmp_path, hub_url=hub.url)
    assert hub.asked == []


def test_no_process_imports_the_hub_before_it_downloads():
    program = "import sys, cli.main; assert 'huggingface_hub' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(
    ("status", "error"),
    [(403, MissingWeights), (429, ServiceUnavailable), (503, ServiceUnavailable)],
)
def test_a_hub_that_refuses_is_told_apart_from_one_that_is_busy(hub, tmp_path, status, error):
    hub.status = status
    with pytest.raises(error, match=str(status)):
        fetch_profile(profile(), cache_dir=tmp_path, hub_url=hub.url)


def test_a_hub_that_nobody_serves_is_a_clear_error(hub, tmp_path):
    with pytest.raises(
        ServiceUnavailable,
        match=r"the hub does not answer at http://127\.0\.0\.1:9.*UNSPOKEN_HUB_URL",
    ):
        fetch_profile(profile(), cache_dir=tmp_path, hub_url="http://127.0.0.1:9")
    with pytest.raises(InvalidConfig, match="UNSPOKEN_HUB_URL"):
        fetch_profile(profile(), cache_dir=tmp_path, hub_url="hub.example")


def test_a_cache_folder_that_cannot_be_written_is_a_clear_error(hub, tmp_path):
    not_a_folder = tmp_path / "file"
    not_a_folder.write_text("")
    with pytest.raises(MissingWeights, match="cannot write"):
        fetch_profile(profile(), cache_dir=not_a_folder, hub_url=hub.url)


def test_the_hubs_url_is_a_setting_and_otherwise_that_of_huggingface_hub(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://other.example")
    assert WeightsSettings().hub_url == "http://other.example"
    monkeypatch.setenv("UNSPOKEN_HUB_URL", "http://mirror.example")
    assert WeightsSettings().hub_url == "http://mirror.example"
