"""The detector's HTTP app: replies, and errors for bad input."""

import base64
import io
import json
import struct
import time
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from services.detector.app import create_app
from services.detector.engine import DetectorEngine
from tests.contracts import check_detector, picture_bytes
from tests.fakes import FakeDetector
from tests.services.detector.conftest import tiny_detector_engine
from tests.serving import ready_client
from unspoken.client.port_clients import DetectorClient
from unspoken.imaging.images import ONE_WHITE_PIXEL, decode_picture

# Two threads sum in another order; a score of the same network once differed by 7e-10.
PIXEL_NOISE, SCORE_NOISE = 1e-4, 1e-7


def serve(detector) -> Iterator[TestClient]:
    with ready_client(create_app(detector)) as client:
        yield client


@pytest.fixture
def client() -> Iterator[TestClient]:
    """Return a client of an app over the fake, for tests of HTTP alone."""
    yield from serve(FakeDetector())


@pytest.fixture(scope="module")
def real_engine(small_folder) -> DetectorEngine:
    """Return an engine on a real network with random weights."""
    return tiny_detector_engine(small_folder)


@pytest.fixture(scope="module")
def real(real_engine) -> Iterator[TestClient]:
    """Return a client of an app over a real network."""
    yield from serve(real_engine)


def detect(client: TestClient, encoded: bytes, phrases: list[str], **more):
    body = {"image": {"base64": base64.b64encode(encoded).decode()}, "phrases": phrases, **more}
    return client.post("/detect", json=body)


def encode(image: Image.Image, image_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """Return a PNG of a few bytes that claims 60 megapixels."""

    def piece(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", 10_000, 6_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 64)
    magic = b"\x89PNG\r\n\x1a\n"
    return magic + piece(b"IHDR", header) + piece(b"IDAT", pixels) + piece(b"IEND", b"")


def test_no_phrases_are_no_detections(client):
    reply = detect(client, picture_bytes(), [])
    assert reply.status_code == 200
    assert reply.json()["detections"] == [] and reply.json()["num_chunks"] == 0
    assert reply.json()["box_threshold"] == FakeDetector.box_threshold


def test_the_client_over_the_real_engine_holds_the_contract(real):
    check_detector(DetectorClient(real))


def test_a_client_gets_what_the_engine_says(real, real_engine):
    picture = decode_picture(picture_bytes())
    phrases = ["car", "Dr. Pepper?", "car"]
    expected = real_engine.detect(picture, phrases, box_threshold=0.0)
    answered = DetectorClient(real).detect(picture, phrases, box_threshold=0.0)
    assert answered.num_chunks == expected.num_chunks
    for mine, wanted in zip(answered.detections, expected.detections, strict=True):
        assert (mine.phrase_index, mine.phrase) == (wanted.phrase_index, wanted.phrase)
        assert mine.box.to_list() == pytest.approx(wanted.box.to_list(), abs=PIXEL_NOISE)
        assert mine.score == pytest.approx(wanted.score, abs=SCORE_NOISE)


def test_json_and_both_multipart_forms_are_answered_alike(client):
    picture, phrases = picture_bytes(), ["car", "wheel"]
    files = {"image": ("a.png", picture, "image/png")}
    replies = [
        detect(client, picture, phrases, box_threshold=0.1),
        client.post(
            "/detect", files=files, data={"phrases": json.dumps(phrases), "box_threshold": "0.1"}
        ),
        client.post("/detect", files=files, data={"phrases": phrases, "box_threshold": "0.1"}),
    ]
    bodies = [reply.raise_for_status().json() for reply in replies]
    assert {body["timings_ms"].pop("total") >= 0 for body in bodies} == {True}
    for body in bodies:
        assert set(body.pop("timings_ms")) == {"decode", "detect", "wait"}
    assert bodies[0] == bodies[1] == bodies[2]
    assert bodies[0]["image"]["width"] == 96 and bodies[0]["image"]["height"] == 64
    assert bodies[0]["box_threshold"] == 0.1


def test_a_thousand_phrases_are_answered_and_more_refused(real):
    picture = picture_bytes()
    reply = detect(real, picture, [f"thing {i}" for i in range(1000)])
    assert reply.status_code == 200 and reply.json()["num_chunks"] == 25
    assert detect(real, picture, ["car"] * 1001).status_code == 422
    many = [f"thing {i}" for i in range(10_000)]
    assert detect(real, picture, many).status_code == 422
    files = {"image": ("a.png", picture, "image/png")}
    for data in ({"phrases": many}, {"phrases": json.dumps(many)}):
        assert real.post("/detect", files=files, data=data).status_code == 422


NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8))
DEEP = Image.fromarray((np.arange(2400).reshape(40, 60) * 27).astype(np.uint16))
ODD_PICTURES = {
    "cmyk": encode(NOISE.convert("CMYK"), "JPEG"),
    "16-bit": encode(DEEP),
    "alpha": encode(NOISE.convert("RGBA"), "WEBP"),
    "animated": encode(NOISE, "WEBP", save_all=True, append_images=[NOISE.rotate(180)]),
    "one pixel": encode(NOISE.crop((0, 0, 1, 1))),
}


@pytest.mark.parametrize("kind", ODD_PICTURES)
def test_odd_pictures_are_answered(real, kind):
    assert detect(real, ODD_PICTURES[kind], ["car"]).status_code == 200


@pytest.mark.parametrize(
    ("encoded", "status", "code"),
    [
        (b"no picture", 415, "not_an_image"),
        (b"", 415, "not_an_image"),
        (picture_bytes()[:2000], 415, "not_an_image"),
        (encode(NOISE, "JPEG")[:300], 415, "not_an_image"),
        (encode(NOISE, "BMP"), 415, "not_an_image"),
        (bomb(), 413, "too_large"),
        (encode(NOISE.resize((600, 3))), 413, "too_large"),
    ],
)
def test_bad_pictures_are_refused_alike_as_json_and_multipart(client, encoded, status, code):
    files = {"image": ("a.png", encoded, "image/png")}
    for reply in (
        detect(client, encoded, ["car"]),
        client.post("/detect", files=files, data={"phrases": "car"}),
    ):
        assert (reply.status_code, reply.json()["error"]) == (status, code)


@pytest.mark.parametrize("phrase", ["a mug. of coffee?", "salt/pepper", "é", "猫", "a" * 200])
def test_phrases_with_punctuation_and_other_scripts_are_answered(real, phrase):
    assert detect(real, picture_bytes(), ["car", phrase]).status_code == 200


@pytest.mark.parametrize(
    "phrase", ["\x00", "car\x07", "two\nlines", " . ", "?", "", "🙂", "a" * 257, "猫" * 256]
)
def test_phrases_that_cannot_be_asked_are_422(real, phrase):
    reply = detect(real, picture_bytes(), ["car", phrase])
    assert reply.status_code == 422
    assert "phrases" in reply.json()["message"] and "1" in reply.json()["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"image": {"base64": "%%%"}, "phrases": ["car"]}',
        b'{"image": {"base64": ""}, "phrases": "car"}',
        b'{"image": {"base64": ""}, "phrases": ["\\ud800"]}',
        b'{"phrases": ["car"]}',
        b'{"image": {"base64": ""}, "phrases": ["car"], "box_threshold": 2}',
        b'{"image": {"base64": ""}, "phrases": ["car"], "box_threshold": NaN}',
        b'{"image": {"base64": ""}, "phrases": ["car"], "thresold": 0.1}',
    ],
)
def test_a_body_of_another_form_is_422(client, body):
    reply = client.post("/detect", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 422 and reply.json()["error"] == "invalid_input"


def test_a_form_of_another_form_is_422(client):
    picture = {"image": ("a.png", picture_bytes(), "image/png")}
    for reply in (
        client.post("/detect", data={"phrases": "car"}),
        client.post("/detect", files={"other": ("a", b"x")}, data={"phrases": "car"}),
        client.post("/detect", files=picture),
        client.post("/detect", files=picture, data={"phrases": "[1, 2]"}),
        client.post("/detect", files=picture, data={"phrases": "[car"}),
        client.post("/detect", files=picture, data={"phrases": "car", "box_threshold": "high"}),
        client.post("/detect", files=picture, data={"phrases": "car", "colour": "red"}),
        client.post(
            "/detect", content=b"--x", headers={"content-type": "multipart/form-data; boundary=y"}
        ),
        client.post("/detect", content=b"--x", headers={"content-type": "multipart/form-data"}),
        client.post("/detect", content=b"x", headers={"content-type": "text/plain"}),
    ):
        assert reply.status_code == 422 and reply.json()["error"] == "invalid_input"


def test_openapi_shows_both_forms_with_examples(client):
    content = client.get("/openapi.json").json()["paths"]["/detect"]["post"]["requestBody"]
    assert set(content["content"]) == {"application/json", "multipart/form-data"}
    example = content["content"]["application/json"]["example"]
    assert client.post("/detect", json=example).status_code == 200
    form = content["content"]["multipart/form-data"]
    assert set(form["schema"]["required"]) == {"image", "phrases"}
    files = {"image": ("a.png", ONE_WHITE_PIXEL)}
    reply = client.post("/detect", files=files, data=form["example"])
    assert reply.status_code == 200 and reply.json()["box_threshold"] == 0.3


def test_the_model_is_named(real):
    assert real.get("/v1/models").json()[0]["name"] == "tiny-detector"


def test_importing_the_app_loads_no_torch():
    import subprocess
    import sys

    code = "import services.detector.app, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_independent_phrases_that_nobody_waits_for_are_not_worked_off(real, real_engine):
    backend = real_engine._backend
    passes = []
    forward = backend._model.forward

    def counted(*args, **kwargs):
        passes.append(1)
        time.sleep(0.05)
        return forward(*args, **kwargs)

    backend._model.forward = counted
    try:
        encoded = encode(Image.new("RGB", (64, 48)))
        body = {
            "image": {"base64": base64.b64encode(encoded).decode()},
            "phrases": [f"thing {n}" for n in range(100)],
            "independent": True,
        }
        late = real.post("/detect", json=body, headers={"X-Request-Timeout-Ms": "500"})
        assert late.status_code == 504
        assert detect(real, encoded, ["car"]).status_code == 200  # the thread is free again
        assert len(passes) < 50
    finally:
        del backend._model.forward
