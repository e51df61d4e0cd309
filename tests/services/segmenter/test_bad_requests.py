"""Bad picture requests get a 4xx with a clear message, never a 500."""

import base64
import json
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from services.segmenter.app import create_app
from tests.contracts import picture_bytes
from tests.fakes import FakeDetector, FakeTextEncoder
from tests.services.segmenter.tiny import tiny_engine
from tests.serving import ready_client

PNG = picture_bytes()
IMAGE = {"base64": base64.b64encode(PNG).decode()}
TEXT = {"text": "car"}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = create_app(FakeTextEncoder(), segmenter=tiny_engine(detector=FakeDetector()))
    with ready_client(app) as client:
        yield client


def box(*corners: object) -> dict[str, object]:
    return {"boxes": [dict(zip(("x0", "y0", "x1", "y1"), corners, strict=True))]}


@pytest.mark.parametrize(
    ("queries", "says"),
    [
        pytest.param([TEXT] * 1001, "1000", id="1001-queries"),
        pytest.param([{"text": "x" * 257}], "256", id="long-text"),
        pytest.param([{"text": ""}], "text", id="empty-text"),
        pytest.param([{}], "give a text", id="nothing"),
        pytest.param([{"negative": ["x"], **box(1, 1, 9, 9)}], "negative", id="lone-negative"),
        pytest.param([{**TEXT, "negative": ["x"] * 1001}], "1000", id="1001-negatives"),
        pytest.param([{**TEXT, "negative": ["n"] * 600}] * 2, "negatives", id="many-negatives"),
        pytest.param([{**TEXT, "threshold": 1.5}], "threshold", id="threshold"),
        pytest.param([{**TEXT, "thresold": 0.5}], "thresold", id="unknown-field"),
        pytest.param([box(9, 9, 9, 20)], "x0 < x1", id="empty-box"),
        pytest.param([box(20, 9, 9, 20)], "x0 < x1", id="reversed-box"),
        pytest.param([box(200, 9, 300, 20)], "outside", id="box-outside"),
        pytest.param([box(1, 1, 1e9, 9)], "x1", id="far-box"),
        pytest.param([box("a", 1, 2, 3)], "x0", id="text-in-box"),
        pytest.param([{"boxes": [[1, 2, 3, 4]]}], "boxes", id="list-as-box"),
        pytest.param([{"points": [{"x": 500, "y": 1}]}], "outside", id="point-outside"),
        pytest.param([{"points": [{"x": 5, "y": 1, "label": 2}]}], "label", id="label"),
        pytest.param([{"points": [{"x": 5, "y": 1, "label": 0}]}], "label 1", id="only-off"),
        pytest.param([{"points": [{"x": 5, "y": 1}] * 65}], "64", id="many-points"),
        pytest.param(
            [{"points": [{"x": 5, "y": 5}], "boxes": [*box(1, 1, 9, 9)["boxes"]] * 2}],
            "one query for each box",
            id="points-and-boxes",
        ),
        pytest.param([{"boxes": box(1, 1, 9, 9)["boxes"] * 600}] * 2, "prompts", id="prompts"),
        pytest.param("car", "queries", id="no-list"),
        pytest.param(None, "queries", id="null"),
    ],
)
def test_wrong_queries_are_422_and_say_why(client, queries, says):
    response = client.post("/segment", json={"image": IMAGE, "queries": queries})
    assert response.status_code == 422, response.text
    assert says in json.dumps(response.json())
    assert response.json()["error"] == "invalid_input"


@pytest.mark.parametrize("charset", ["undefined", "hex", "nonsense", "utf-7", "unicode_escape"])
def test_a_form_of_another_charset_than_utf_8_is_422(client, charset):
    part = b'--b\r\nContent-Disposition: form-data; name="queries"\r\n\r\n[]\r\n'
    file = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    body = part + file + PNG + b"\r\n--b--\r\n"
    for path in ("/segment", "/images"):
        kind = f"multipart/form-data; boundary=b; charset={charset}"
        refused = client.post(path, content=body, headers={"Content-Type": kind})
        assert refused.status_code == 422 and "charset" in refused.json()["message"]
    kind = "multipart/form-data; boundary=b; charset=UTF-8"
    assert client.post("/segment", content=body, headers={"Content-Type": kind}).status_code == 200


@pytest.mark.parametrize(
    ("change", "status"),
    [
        pytest.param({"image": {"url": "https://example.org/a.png"}}, 422, id="url"),
        pytest.param({"image": {}}, 422, id="no-image"),
        pytest.param({"image": {**IMAGE, "id": "x"}}, 422, id="two-images"),
        pytest.param({"image": {"id": "x", "name": "y"}}, 422, id="name-of-id"),
        pytest.param({"image": {**IMAGE, "name": "a" * 64}}, 422, id="name-like-id"),
        pytest.param({"image": {**IMAGE, "name": "../\n"}}, 422, id="odd-name"),
        pytest.param({"image": {**IMAGE, "name": "../metrics"}}, 422, id="name-like-path"),
        pytest.param({"image": {**IMAGE, "name": "a/./b"}}, 422, id="name-with-dot"),
        pytest.param({"image": {"base64": "%%%"}}, 422, id="no-base64"),
        pytest.param({"image": {"base64": ""}}, 415, id="empty"),
        pytest.param({"image": {"base64": "aGVsbG8="}}, 415, id="no-image-bytes"),
        pytest.param({"image": {"base64": IMAGE["base64"][:80]}}, 415, id="cut"),
        pytest.param({"method": "magic"}, 422, id="method"),
        pytest.param({"output": {"mask": "svg"}}, 422, id="mask"),
        pytest.param({"output": {"top_k": 0}}, 422, id="top-k"),
        pytest.param({"nms_iou": 0}, 422, id="nms"),
        pytest.param({"nms_iou": "nan"}, 422, id="nms-nan"),
        pytest.param({"image": {"id": "unknown"}}, 404, id="unknown"),
        pytest.param({"queries": [{"text": " . "}], "method": "detector"}, 422, id="separators"),
        pytest.param({"queries": [{"text": "\x00"}], "method": "detector"}, 422, id="control"),
    ],
)
def test_wrong_requests_have_a_defined_status(client, change, status):
    body = {"image": IMAGE, "queries": [box(1, 1, 9, 9)], **change}
    response = client.post("/segment", json=body)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error", "message", "details"}


def test_a_url_is_answered_by_what_to_send_instead(client):
    for route in ("/segment", "/images"):
        body = {"image": {"url": "https://example.org/a.png"}}
        body |= {"queries": []} if route == "/segment" else {}
        assert "not enabled" in client.post(route, json=body).json()["message"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"image": {"id": "\\ud800"}, "queries": []}',
        b'{"image": {"id": "x"}, "queries": [{"text": "\\ud800"}]}',
        b'{"image": {"id": "x"}, "queries": [{"boxes": [{"x0": NaN, "y0": 1, "x1": 2, "y1": 3}]}]}',
        b'{"image": {"id": "x"}, "queries": [{"points": [{"x": Infinity, "y": 1}]}]}',
        b'{"image": {"id": "x"}, "queries": [{"text": "a", "threshold": NaN}]}',
        b'{"image": {"id": "x"}, "queries": [], "nms_iou": NaN}',
        b"[" * 15_000,
        b'{"image": {"id": "x"}, "queries": [{"points": [{"x": 1%b, "y": 1}]}]}' % (b"0" * 400),
    ],
    ids=range(12),
)
def test_broken_json_is_422(client, content):
    for route in ("/segment", "/images"):
        response = client.post(route, content=content, headers={"Content-Type": "application/json"})
        assert response.status_code == 422, response.text


@pytest.mark.parametrize(
    ("files", "data", "status"),
    [
        pytest.param({"image": PNG}, {}, 422, id="no-queries"),
        pytest.param({"image": PNG}, {"queries": "[{"}, 422, id="broken-queries"),
        pytest.param({"image": PNG}, {"queries": "[" * 5000}, 422, id="deep-queries"),
        pytest.param(
            {"image": PNG}, {"queries": '[{"points": [{"x": NaN, "y": 1}]}]'}, 422, id="nan"
        ),
        pytest.param({"image": PNG}, {"queries": "[]", "nms_iou": "many"}, 422, id="nms"),
        pytest.param({"image": PNG}, {"queries": "[]", "nms": "1"}, 422, id="unknown-field"),
        pytest.param({"image": PNG}, {"queries": "[]", "image_id": "x"}, 422, id="two-images"),
        pytest.param({"image": PNG}, {"queries": "[]", "name": "b" * 64}, 422, id="name"),
        pytest.param({"other": PNG}, {"queries": "[]"}, 422, id="other-file"),
        pytest.param({"image": b"no picture"}, {"queries": "[]"}, 415, id="no-picture"),
        pytest.param(
            {"image": PNG}, {"queries": '[{"text": "\\ud800"}]'}, 422, id="half-character"
        ),
    ],
)
def test_wrong_forms_have_a_defined_status(client, files, data, status):
    response = client.post("/segment", files=files, data=data)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error", "message", "details"}


def test_other_bodies_are_refused(client):
    response = client.post("/segment", content=PNG, headers={"Content-Type": "image/png"})
    assert response.status_code == 422
    assert client.post("/images", json={"image": {"id": "x"}}).status_code == 422
    no_boundary = {"Content-Type": "multipart/form-data"}
    assert client.post("/images", content=b"x", headers=no_boundary).status_code == 422


def test_names_in_the_path_are_never_a_500(client):
    for name in ("%00", "%0a", "..%2f..%2fetc", "a" * 129, "%ff", "é", "a b"):
        assert client.get(f"/images/{name}").status_code in (404, 422)
