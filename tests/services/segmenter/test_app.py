"""`POST /text-embeddings` over the fake: order, bounds, and bad input."""

from collections.abc import Iterator

import numpy as np
import pytest
from fastapi.testclient import TestClient

from services.segmenter.app import create_app
from tests.fakes import FakeTextEncoder
from tests.serving import ready_client
from unspoken.http.batching import InferenceThread


@pytest.fixture
def client() -> Iterator[TestClient]:
    app = create_app(FakeTextEncoder(), thread=InferenceThread(name="test"))
    with ready_client(app) as client:
        yield client


def test_phrases_are_answered_in_order_with_model_and_timings(client):
    reply = client.post("/text-embeddings", json={"phrases": ["car", "wheel", "car"]}).json()
    expected = FakeTextEncoder().encode_texts(["car", "wheel", "car"])
    assert np.allclose(reply["embeddings"], expected, atol=1e-7)
    assert reply["model"]["kind"] == "text_encoder"
    assert reply["timings_ms"]["total"] >= reply["timings_ms"]["encode"] > 0


def test_a_thousand_phrases_are_one_request(client):
    phrases = [f"thing {i}" for i in range(1000)]
    response = client.post("/text-embeddings", json={"phrases": phrases})
    assert response.status_code == 200
    assert np.asarray(response.json()["embeddings"]).shape == (1000, 768)


@pytest.mark.parametrize(
    "phrases",
    [
        pytest.param([], id="none"),
        pytest.param([""], id="empty"),
        pytest.param(["x" * 257], id="long"),
        pytest.param(["x"] * 10_000, id="many"),
        pytest.param([7], id="number"),
    ],
)
def test_phrases_out_of_bounds_are_422(client, phrases):
    response = client.post("/text-embeddings", json={"phrases": phrases})
    assert response.status_code == 422
    assert "phrases" in response.json()["message"]


def test_half_a_character_is_422_and_never_500(client):
    response = client.post(
        "/text-embeddings",
        content=b'{"phrases": ["\\ud800"]}',
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code == 422


def test_text_that_no_body_would_write_is_answered_all_the_same(client):
    phrases = [" ", ".", "?\x00\x07", "犬", "a. b? c"]
    response = client.post("/text-embeddings", json={"phrases": phrases})
    assert response.status_code == 200 and len(response.json()["embeddings"]) == 5
    assert client.post("/text-embeddings", content=b"{").status_code == 422


def test_the_service_names_its_model_and_documents_its_reply(client):
    assert client.get("/v1/models").json()[0]["name"] == "fake-text-encoder"
    schema = client.get("/openapi.json").json()
    post = schema["paths"]["/text-embeddings"]["post"]
    assert "TextEmbeddingsReply" in str(post["responses"]["200"])
    assert "examples" in post["requestBody"]["content"]["application/json"]["schema"]
