"""Port clients raise clear errors for services that answer incorrectly."""

import io
import subprocess
import sys
import time
from email.utils import formatdate

import httpx
import pytest
from PIL import Image

from services.detector import app as detector_app
from tests.fakes import FakeDetector
from tests.serving import ready_client
from unspoken.client import port_clients
from unspoken.client.port_clients import (
    CropRankerClient,
    DetectorClient,
    PrompterClient,
    SegmenterClient,
)
from unspoken.errors import NotReady, Overloaded, ServiceUnavailable, Unreachable
from unspoken.imaging.file_formats import FILE_FORMATS
from unspoken.imaging.images import ONE_WHITE_PIXEL, decode_picture
from unspoken.wire.base import ModelInfo
from unspoken.wire.crops import Crop
from unspoken.wire.segment import SegmentQuestion
from worker.process.attempt import REST_S

IN_100_S = object()


def client_of(answer):
    transport = httpx.MockTransport(answer)
    return DetectorClient(httpx.Client(base_url="http://service", transport=transport))


@pytest.mark.parametrize(
    ("retry_after", "at_least", "at_most"),
    [
        pytest.param("7", 7, 7, id="seconds"),
        pytest.param(IN_100_S, 60, 100, id="a-date"),
        pytest.param("-3", 0, 0, id="a-time-gone-by"),
        pytest.param("1e9", 300, 300, id="never"),
        pytest.param("nan", 1, 1, id="no-number"),
        pytest.param("soon", 1, 1, id="a-word"),
        pytest.param(None, 1, 1, id="nothing"),
    ],
)
@pytest.mark.parametrize(("status", "error"), [(429, Overloaded), (503, NotReady)])
def test_a_busy_service_is_asked_again_when_it_says(status, error, retry_after, at_least, at_most):
    if retry_after is IN_100_S:  # from now on, and not from when tests were collected
        retry_after = formatdate(time.time() + 100, usegmt=True)
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    client = client_of(lambda request: httpx.Response(status, headers=headers))
    with pytest.raises(error) as raised:
        client.check_ready()
    assert at_least <= raised.value.retry_after_s <= at_most


@pytest.mark.parametrize(
    ("fault", "never_read"),
    [
        (httpx.ConnectError, True),
        (httpx.ConnectTimeout, True),
        (httpx.ReadTimeout, False),
        (httpx.ReadError, False),
        (httpx.RemoteProtocolError, False),
    ],
)
def test_a_question_that_was_never_read_is_told_from_one_that_broke_off(fault, never_read):
    def fail(request):
        raise fault("gone")

    with pytest.raises(ServiceUnavailable, match=r"^detector service /readyz") as raised:
        client_of(fail).check_ready()
    assert isinstance(raised.value, Unreachable) == never_read


def test_an_error_names_the_service_that_answered_it():
    reply = {"error": "not_ready", "message": "loading"}
    client = client_of(lambda request: httpx.Response(503, json=reply))
    with pytest.raises(NotReady, match=r"^detector service /readyz: loading$"):
        client.check_ready()


def test_a_model_that_is_replaced_is_seen_in_the_next_reply_without_being_asked_for():
    served, asked = ["1"], []

    def answer(request):
        asked.append(request.url.path)
        model = ModelInfo(name="m", kind="llm", revision=served[0]).model_dump()
        if request.url.path == "/v1/models":
            return httpx.Response(200, json=[model])
        return httpx.Response(200, json={"proposals": [], "model": model, "timings_ms": {}})

    client = PrompterClient(
        httpx.Client(base_url="http://llm", transport=httpx.MockTransport(answer))
    )
    assert client.model.revision == "1"
    served[0] = "2"
    assert client.model.revision == "1"
    client.propose(["a dog"])
    assert client.model.revision == "2"
    assert asked == ["/v1/models", "/propose"]


def test_a_service_that_answered_a_moment_ago_is_ready_until_it_says_otherwise(monkeypatch):
    asked, status, now_s = [], [200], [100.0]
    monkeypatch.setattr(port_clients.time, "monotonic", lambda: now_s[0])

    def answer(request):
        asked.append(request.url.path)
        model = {"name": "m", "kind": "detector", "revision": "0"}
        return httpx.Response(status[0], json=[model] if status[0] == 200 else {})

    client = client_of(answer)
    client.check_ready()
    assert client.model.name == "m"
    client.check_ready()
    assert asked == ["/readyz", "/v1/models"]
    now_s[0] += REST_S / 2  # before a chunk that met an error is retried
    client.check_ready()
    assert asked.pop() == "/readyz"
    status[0] = 503
    with pytest.raises(NotReady):
        client.detect(decode_picture(ONE_WHITE_PIXEL), [])
    with pytest.raises(NotReady):
        client.check_ready()
    assert asked[2:] == ["/detect", "/readyz"]


def test_a_worker_needs_none_of_what_decodes_masks():
    script = "import sys; sys.modules['pycocotools'] = None; import unspoken.client.port_clients"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_picture_is_sent_as_the_file_of_a_form():
    sent = []

    def refuse(request):
        sent.append((request.url.path, request.headers["content-type"], request.read()))
        return httpx.Response(503, json={})

    http = httpx.Client(base_url="http://service", transport=httpx.MockTransport(refuse))
    picture, segmenter = decode_picture(ONE_WHITE_PIXEL), SegmenterClient(http)
    crop = Crop.model_validate({"box": {"x0": 0, "y0": 0, "x1": 1, "y1": 1}, "label_index": 0})
    for ask in (
        lambda: DetectorClient(http).detect(picture, ["car"], independent=True),
        lambda: CropRankerClient(http).rank_crops(picture, [crop], ["car"]),
        lambda: segmenter.add_image(picture, name="mine"),
        lambda: segmenter.segment(picture, SegmentQuestion(queries=())),
    ):
        with pytest.raises(NotReady):
            ask()
    assert [path for path, _, _ in sent] == ["/detect", "/rank-crops", "/images", "/segment"]
    assert {kind.partition(";")[0] for _, kind, _ in sent} == {"multipart/form-data"}
    assert all(ONE_WHITE_PIXEL in body for _, _, body in sent)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "AVIF"])
def test_a_picture_in_a_format_of_files_alone_reaches_the_services_as_they_read_it(kind):
    encoded = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(encoded, kind)
    picture = decode_picture(encoded.getvalue(), formats=FILE_FORMATS)
    with ready_client(detector_app.create_app(FakeDetector())) as http:
        answer = DetectorClient(http).detect(picture, ["a car"])
    assert answer == FakeDetector().detect(decode_picture(picture.sendable), ["a car"])


def test_a_reply_about_a_picture_that_is_none_is_an_error_of_the_service():
    http = httpx.Client(
        base_url="http://service",
        transport=httpx.MockTransport(lambda request: httpx.Response(200, json={"id": 1})),
    )
    with pytest.raises(ServiceUnavailable, match="invalid reply"):
        SegmenterClient(http).read_image("a" * 64)
