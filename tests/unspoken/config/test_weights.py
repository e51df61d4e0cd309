"""Fetching weights from a fake hub on the loopback interface."""

import hashlib
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


class Hub:
    """A hub with files by path; it counts requests and can cut off an answer."""

    def __init__(self) -> None:
        self.files = {PREFIX + "config.json": CONFIG, PREFIX + "sub/weights.bin": WEIGHTS}
        self.asked: list[str] = []
        self.cut = False
        self.status = 200
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                content = hub.files.get(self.path)
                if content is None or hub.status != 200:
                    self.send_error(404 if content is None else hub.status)
                    return
                if self.path.startswith("/org/name/"):
                    # Redirect like the real hub, because the file itself is stored elsewhere.
                    hub.files["/cdn" + self.path] = content
                    self.send_response(302)
                    self.send_header("Location", "/cdn" + self.path)
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if hub.cut else content)

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


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
    return [path for path in folder.rglob("*") if path.name.endswith(".part")]


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


def test_a_cut_connection_keeps_nothing_of_the_file_and_says_to_fetch_again(hub, tmp_path):
    hub.cut = True
    with pytest.raises(ServiceUnavailable, match="fetch again"):
        fetch_profile(profile(), cache_dir=tmp_path, hub_url=hub.url)
    assert not leftovers(tmp_path)
    assert not (hub_folder(profile().llm, cache_dir=tmp_path) / "config.json").exists()
    hub.cut = False
    assert len(fetch_profile(profile(), cache_dir=tmp_path, hub_url=hub.url).fetched) == 2


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


def test_the_hubs_url_is_a_setting(monkeypatch):
    monkeypatch.setenv("UNSPOKEN_HUB_URL", "http://mirror.example")
    assert WeightsSettings().hub_url == "http://mirror.example"
