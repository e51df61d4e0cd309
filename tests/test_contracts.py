"""One contract per port, checked on the fake and on the client of the fake's HTTP app.

The same assertions are checked on the real engines in tests/services/.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from fastapi.testclient import TestClient

from services.detector.app import create_app as detector_app
from services.llm.app import create_app as llm_app
from services.segmenter.app import create_app as segmenter_app
from services.segmenter.local_segmenter import LocalSegmenter
from tests.contracts import (
    check_crop_ranker,
    check_detector,
    check_prompter,
    check_segmenter,
    check_text_encoder,
)
from tests.fakes import (
    FakeCropRanker,
    FakeDetector,
    FakePrompter,
    FakeSegmenter,
    FakeTextEncoder,
)
from tests.serving import ready_client
from unspoken.client.port_clients import (
    CropRankerClient,
    DetectorClient,
    PrompterClient,
    SegmenterClient,
    TextEncoderClient,
)
from unspoken.errors import NotReady, Overloaded, ServiceUnavailable
from unspoken.imaging.images import decode_picture


@contextmanager
def served(app) -> Iterator[TestClient]:
    with ready_client(app) as client:
        yield client


@pytest.mark.parametrize("over_http", [False, True], ids=["fake", "client"])
def test_prompters_hold_the_contract(over_http):
    fake = FakePrompter()
    if not over_http:
        check_prompter(fake, template="parts")
        return
    with served(llm_app(fake)) as http:
        check_prompter(PrompterClient(http), template="parts")


@pytest.mark.parametrize("over_http", [False, True], ids=["fake", "client"])
def test_detectors_hold_the_contract(over_http):
    fake = FakeDetector()
    if not over_http:
        check_detector(fake)
        return
    with served(detector_app(fake)) as http:
        check_detector(DetectorClient(http))


@pytest.mark.parametrize("over_http", [False, True], ids=["fake", "client"])
def test_text_encoders_hold_the_contract(over_http):
    fake = FakeTextEncoder()
    if not over_http:
        check_text_encoder(fake)
        return
    with served(segmenter_app(fake)) as http:
        check_text_encoder(TextEncoderClient(http))


@pytest.mark.parametrize("over_http", [False, True], ids=["fake", "client"])
def test_segmenters_hold_the_contract(over_http):
    fake = FakeSegmenter()
    if not over_http:
        with LocalSegmenter(fake) as segmenter:
            check_segmenter(segmenter)
        return
    with served(segmenter_app(FakeTextEncoder(), segmenter=fake)) as http:
        check_segmenter(SegmenterClient(http))
        check_text_encoder(TextEncoderClient(http))


@pytest.mark.parametrize("over_http", [False, True], ids=["fake", "client"])
def test_crop_rankers_hold_the_contract(over_http):
    fake = FakeCropRanker()
    if not over_http:
        check_crop_ranker(fake)
        return
    with served(segmenter_app(FakeTextEncoder(), ranker=fake)) as http:
        check_crop_ranker(CropRankerClient(http))


def test_a_client_answers_exactly_what_the_engine_says():
    fake = FakeDetector()
    picture = decode_picture(_picture())
    with served(detector_app(fake)) as http:
        remote = DetectorClient(http).detect(picture, ["car", "wheel"], box_threshold=0.0)
    assert remote == fake.detect(picture, ["car", "wheel"], box_threshold=0.0)
    with served(segmenter_app(FakeTextEncoder())) as http:
        remote_vectors = TextEncoderClient(http).encode_texts(["car"])
    assert np.allclose(remote_vectors, FakeTextEncoder().encode_texts(["car"]), atol=1e-6)


@pytest.mark.parametrize(
    ("status", "expected"), [(429, Overloaded), (503, NotReady), (502, ServiceUnavailable)]
)
def test_a_client_raises_what_the_service_meant(status, expected):
    import httpx

    def answer(_request: httpx.Request) -> httpx.Response:
        body = {"error": "x", "message": "come back", "details": {}}
        return httpx.Response(status, json=body, headers={"Retry-After": "7"})

    http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://llm")
    with pytest.raises(expected, match="come back") as caught:
        PrompterClient(http).propose(["a dog"])
    if isinstance(caught.value, Overloaded):
        assert caught.value.retry_after_s == 7


def test_a_client_of_a_dead_service_says_so():
    from unspoken.client.port_clients import connect

    with pytest.raises(ServiceUnavailable):
        PrompterClient(connect("http://127.0.0.1:9")).propose(["a dog"])


def _picture() -> bytes:
    from tests.contracts import picture_bytes

    return picture_bytes()
