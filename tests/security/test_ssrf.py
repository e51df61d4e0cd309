"""Pictures by URL: allowed URLs are fetched, and internal addresses are never reached."""

import asyncio
import gzip
from contextlib import ExitStack

import httpcore
import pytest

from services.detector import app as detector
from services.detector.settings import DetectorSettings
from services.segmenter import app as segmenter
from tests.fakes import FakeCropRanker, FakeDetector, FakeSegmenter, FakeTextEncoder
from tests.security.attacks.pictures import GOOD_PNG
from tests.security.attacks.ssrf import NAME, PUBLIC, VECTORS, Range, judge, ok
from tests.serving import ready_client
from unspoken.errors import InvalidInput, NotFetchable, TooLarge
from unspoken.http.url_fetch import FetchConfig, Fetcher, build_fetcher, is_public


async def outside(host: str, port: int) -> list[str]:
    return [PUBLIC]


def fetch(path: str, replies: dict[str, bytes] | None = None, *, resolve=outside, **config):
    async def run() -> tuple[bytes, Range]:
        async with Range(replies) as range_:
            fetcher = range_.fetcher(resolve, **config)
            return await fetcher.fetch(f"http://{NAME}{path}"), range_

    return asyncio.run(run())


def test_no_vector_reaches_the_canary():
    report = asyncio.run(judge())
    assert report["vectors"] >= 60
    assert report["problems"] == []
    assert report["strangers"] == []


def test_vectors_differ():
    assert len(set(VECTORS)) == len(VECTORS)


def test_a_public_picture_is_fetched_with_its_own_host():
    content, range_ = fetch("/picture")
    assert content == GOOD_PNG
    assert range_.network.connected == [PUBLIC]
    request = range_.requests[0].lower()
    assert f"host: {NAME}".encode() in request
    assert b"cookie" not in request and b"authorization" not in request


def test_a_redirect_to_a_public_picture_is_followed():
    content, range_ = fetch("/redirect?/redirect?/redirect?/picture")
    assert content == GOOD_PNG and len(range_.requests) == 4
    with pytest.raises(NotFetchable, match="more than 3 redirects"):
        fetch("/redirect?" * 4 + "/picture")


def test_a_name_that_changes_its_mind_is_asked_once():
    answers = iter([[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]])

    async def rebinding(host: str, port: int) -> list[str]:
        return next(answers)

    content, range_ = fetch("/picture", resolve=rebinding)
    assert content == GOOD_PNG
    assert range_.network.connected == [PUBLIC] and range_.canary_hits == 0
    assert next(answers) == ["127.0.0.1"]  # no second lookup happened


def test_a_redirect_is_resolved_and_checked_anew():
    answers = iter([[PUBLIC], ["127.0.0.1"]])

    async def rebinding(host: str, port: int) -> list[str]:
        return next(answers)

    with pytest.raises(NotFetchable, match="no public address"):
        fetch("/redirect?/picture", resolve=rebinding)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        pytest.param(ok(b"x" * 2000), TooLarge, id="too-long"),
        pytest.param(ok(b"", "Content-Length: 2000"), TooLarge, id="announced"),
        pytest.param(
            ok(gzip.compress(bytes(10**6)), "Content-Encoding: gzip"), NotFetchable, id="packed"
        ),
        pytest.param(b"HTTP/1.1 500 No\r\n\r\na secret", NotFetchable, id="500"),
        pytest.param(b"HTTP/1.1 302 Found\r\n\r\n", NotFetchable, id="no-location"),
        pytest.param(b"a secret, and no HTTP\r\n\r\n", NotFetchable, id="no-http"),
        pytest.param(ok(b"x", "Content-Length: 900"), NotFetchable, id="cut"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000, NotFetchable, id="long-header"),
    ],
)
def test_what_is_no_good_reply_is_refused_without_its_words(reply, error):
    with pytest.raises(error) as refused:
        fetch("/bad", {"/bad": reply}, max_bytes=1000)
    assert "secret" not in refused.value.message


def test_a_fetch_takes_no_longer_than_it_may():
    async def slow(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return [PUBLIC]

    with pytest.raises(NotFetchable, match="within 0 s"):
        fetch("/picture", resolve=slow, timeout_s=0.05)


def test_only_hosts_of_the_list_are_asked_where_there_is_one():
    assert fetch("/picture", hosts=(NAME,))[0] == GOOD_PNG
    assert fetch("/picture", hosts=(".example",))[0] == GOOD_PNG
    for hosts in (("other.example",), (".pictures.example",), ("example",)):
        with pytest.raises(NotFetchable, match="is not allowed"):
            fetch("/picture", hosts=hosts)


def test_http_is_refused_where_only_https_is_allowed():
    with pytest.raises(NotFetchable, match="https"):
        fetch("/picture", schemes=("https",))


def test_tls_asks_for_the_name_at_the_address_that_was_checked():
    asked: list[str | None] = []

    class Stream(httpcore.AsyncMockStream):
        async def start_tls(self, ssl_context, server_hostname=None, timeout=None):
            asked.append(server_hostname)
            assert ssl_context.check_hostname
            return self

    class Wire(httpcore.AsyncMockBackend):
        async def connect_tcp(self, host, port, *rest, **more):
            asked.append(f"{host}:{port}")
            return Stream([ok(GOOD_PNG)])

    fetcher = Fetcher(FetchConfig(), resolve=outside, network=Wire([]))
    assert asyncio.run(fetcher.fetch(f"https://{NAME}/picture")) == GOOD_PNG
    assert asked == [f"{PUBLIC}:443", NAME]


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822"]
)
def test_open_addresses_are_public(address):
    assert is_public(address)


def test_urls_are_off_by_default_and_a_setting_turns_them_on():
    assert build_fetcher(DetectorSettings()) is None
    assert build_fetcher(DetectorSettings(url_input="https", url_hosts="a.example")) is not None


class Given(Fetcher):
    """Fetcher that returns the same picture for every URL."""

    def __init__(self) -> None:
        super().__init__(FetchConfig())

    async def fetch(self, url: str) -> bytes:
        return GOOD_PNG


@pytest.mark.parametrize("fetcher", [None, Given()], ids=["off", "on"])
def test_every_route_with_a_picture_takes_a_url_where_it_may_and_says_so_where_not(fetcher):
    faces = [
        detector.create_app(FakeDetector(), fetcher=fetcher),
        segmenter.create_app(
            FakeTextEncoder(),
            segmenter=FakeSegmenter(),
            ranker=FakeCropRanker(),
            fetcher=fetcher,
        ),
    ]
    image = {"image": {"url": f"https://{NAME}/a.png"}}
    crops = [{"box": {"x0": 0, "y0": 0, "x1": 3, "y1": 3}, "label_index": 0}]
    asked = [
        (0, "/detect", {"phrases": ["car"]}),
        (1, "/images", {}),
        (1, "/segment", {"queries": [{"points": [{"x": 1, "y": 1}]}]}),
        (1, "/rank-crops", {"crops": crops, "labels": ["car"]}),
    ]
    with ExitStack() as stack:
        clients = [stack.enter_context(ready_client(face)) for face in faces]
        replies = [clients[face].post(path, json={**image, **more}) for face, path, more in asked]
    for reply in replies:
        if fetcher is None:
            assert reply.status_code == 422 and "not enabled" in reply.json()["message"]
        else:
            assert reply.status_code in (200, 201), reply.text


def test_a_fetch_that_fails_is_a_422():
    assert issubclass(NotFetchable, InvalidInput)
