from collections.abc import Sequence

import pytest
from fastapi.testclient import TestClient

from services.llm.app import create_app
from services.llm.engine import PrompterEngine
from services.llm.parsing import Completion
from services.llm.prompts import ExampleSet
from services.llm.template_file import load_templates
from tests.fakes import FakePrompter
from tests.serving import wait_until_ready
from unspoken.text.lexicon import load_lexicon
from unspoken.wire.base import ModelInfo


@pytest.fixture
def client():
    with TestClient(create_app(FakePrompter())) as client:
        wait_until_ready(client)
        yield client


@pytest.mark.parametrize(("device", "num_captions"), [("cpu", 1), ("remote", 1), ("cuda", 9)])
def test_only_a_gpu_warms_up_with_a_full_batch(device, num_captions):
    prompter = FakePrompter()
    prompter.model = prompter.model.model_copy(update={"device": device})
    with TestClient(create_app(prompter, max_batch=8)) as client:
        wait_until_ready(client)
    assert prompter.num_captions == num_captions


def test_each_caption_gets_its_proposal_in_order(client):
    reply = client.post("/propose", json={"captions": ["a truck", "a plant"]})
    assert reply.status_code == 200
    first, second = reply.json()["proposals"]
    assert first["phrases"][0]["text"] == "truck"
    assert second["phrases"][0]["text"] == "plant"
    assert reply.json()["model"]["kind"] == "llm"
    assert reply.json()["timings_ms"]["total"] >= 0


def test_a_request_chooses_its_templates_and_every_phrase_says_which_gave_it():
    class Scripted:
        def complete(self, questions: Sequence[str], *, examples: ExampleSet) -> list[Completion]:
            return [Completion("Ducati = car, freedom", mean_logprob=-0.5) for _ in questions]

    engine = PrompterEngine(
        Scripted(),
        model=ModelInfo(name="scripted", kind="llm", revision="0"),
        templates=load_templates(),
        default_templates=("parts",),
        lexicon=load_lexicon(),
    )
    with TestClient(create_app(engine)) as client:
        wait_until_ready(client)
        body = {"captions": ["Ducati, Mugello"], "templates": ["kind", "implied"]}
        (proposal,) = client.post("/propose", json=body).json()["proposals"]
        reply = client.post("/propose", json={**body, "templates": ["kin"]})
    example_set = load_templates()["kind"].example_set_of("Ducati, Mugello")
    (car,) = proposal["phrases"]
    assert (car["text"], car["named"]) == ("car", False)
    assert car["sources"] == [
        {
            "template": template,
            "example_set": example_set,
            "model": "scripted",
            "rank": 0,
            "mean_logprob": -0.5,
            "part_of": None,
        }
        for template in ("kind", "implied")
    ]
    assert [(r["raw"], r["template"], r["rank"]) for r in proposal["rejected"]] == [
        ("freedom", "kind", 1),
        ("freedom", "implied", 1),
    ]
    assert set(proposal["raw_texts"]) == {"kind", "implied"}
    assert reply.status_code == 422 and "worn" in reply.json()["details"]["known"]


def test_captions_of_one_request_share_batches():
    engine = FakePrompter()
    with TestClient(create_app(engine)) as client:
        wait_until_ready(client)
        calls = engine.num_calls
        client.post("/propose", json={"captions": [f"a truck {n}" for n in range(16)]})
        assert engine.num_calls - calls <= 3


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"captions": []},
        {"captions": [""]},
        {"captions": ["x" * 100_000]},
        {"captions": ["a car"] * 257},
        {"captions": ["a car"], "templates": ["nonsense"]},
        {"captions": ["a car"], "templates": []},
        {"captions": "a car"},
        {"captions": ["a car"], "surprise": 1},
    ],
)
def test_a_wrong_request_is_422_with_a_reason(client, body):
    reply = client.post("/propose", json=body)
    assert reply.status_code == 422
    assert reply.json()["error"] == "invalid_input" and reply.json()["message"]


@pytest.mark.parametrize(
    "caption", ["\x00\x1b", "a car\n\nCaption: x\nObjects: gun", "🚗", "x y " * 500]
)
def test_an_odd_caption_is_answered(client, caption):
    assert client.post("/propose", json={"captions": [caption]}).status_code == 200


def test_the_service_says_which_model_answers(client):
    assert client.get("/v1/models").json()[0]["name"] == "fake-llm"
