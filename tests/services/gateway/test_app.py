"""The gateway's run routes over real run folders."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from tests.contracts import picture_bytes
from tests.serving import ready_client
from unspoken.runs.store import write_status
from unspoken.wire.runs import RunStatus

IMAGE = {"base64": base64.b64encode(picture_bytes()).decode()}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    (tmp_path / "data" / "shards").mkdir(parents=True)
    settings = GatewaySettings(
        data_dir=tmp_path / "data", runs_dir=tmp_path / "runs", poll_s=0.01, max_body_mib=1
    )
    with ready_client(create_app(settings)) as client:
        yield client


def finish(runs_dir: Path, run_id: str, **changes: object) -> None:
    fields = {
        "run_id": run_id, "state": "done", "total": 2, "done": 2, "labelled": 1, "dropped": {},
        "failed": {"engine_failure": 1}, "chunks_total": 1, "chunks_done": 1, "attempts": 1,
        "output": "", **changes,
    }  # fmt: skip
    write_status(runs_dir, RunStatus.model_validate(fields))


def test_a_run_of_a_source_is_accepted_and_can_be_read(client):
    created = client.post("/runs", json={"source": "shards", "run_id": "first"})
    assert created.status_code == 202
    assert created.headers["Location"] == "/runs/first"
    assert client.get("/runs/first").json()["state"] == "planned"
    assert [run["run_id"] for run in client.get("/runs").json()] == ["first"]


def test_the_same_request_again_answers_the_run_that_exists(client):
    body = {"source": "shards", "run_id": "first"}
    assert client.post("/runs", json=body).status_code == 202
    assert client.post("/runs", json=body).status_code == 202
    other = client.post("/runs", json={**body, "num_decoys": 1})
    assert other.status_code == 409


def test_inline_items_become_a_source_shard_of_the_run(client, tmp_path):
    items = [{"caption": "a car", "image": IMAGE}, {"caption": "", "image": IMAGE}]
    created = client.post("/runs", json={"items": items, "run_id": "inline"})
    assert created.status_code == 202
    assert (tmp_path / "runs" / "inline" / "source" / "00000.tar").is_file()


@pytest.mark.parametrize(
    "source", ["../secret", "/etc", "shards/../../..", "a\0b"], ids=["up", "root", "deep", "zero"]
)
def test_a_source_outside_the_data_folder_is_refused(client, source):
    assert client.post("/runs", json={"source": source}).status_code == 422


def test_a_ring_of_links_is_refused(client, tmp_path):
    (tmp_path / "data" / "ring").symlink_to("ring")
    assert client.post("/runs", json={"source": "ring"}).status_code in (404, 422)


def test_a_link_out_of_the_data_folder_is_refused(client, tmp_path):
    (tmp_path / "data" / "link").symlink_to("/etc")
    assert client.post("/runs", json={"source": "link"}).status_code == 422


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param({}, 422, id="neither"),
        pytest.param({"source": "shards", "items": []}, 422, id="both"),
        pytest.param({"source": "absent"}, 404, id="no-such-source"),
        pytest.param({"source": ""}, 422, id="empty-source"),
        pytest.param({"source": "a" * 300}, 422, id="name-no-disk-takes"),
        pytest.param({"source": "a" * 5000}, 422, id="long-source"),
        pytest.param({"source": "shards", "run_id": "../x"}, 422, id="bad-id"),
        pytest.param({"source": "shards", "chunk_size": 0}, 422, id="no-chunk"),
        pytest.param({"items": [{"caption": "x", "image": {"base64": "!"}}]}, 422, id="no-base64"),
        pytest.param({"items": [{"caption": "x" * 100_000, "image": IMAGE}]}, 422, id="long"),
    ],
)
def test_a_wrong_request_has_a_defined_answer(client, body, status):
    response = client.post("/runs", json=body)
    assert response.status_code == status
    assert set(response.json()) == {"error", "message", "details"}


@pytest.mark.parametrize(
    "body",
    [
        b'{"source": "\\ud800"}',
        b'{"items": [{"caption": "\\ud800", "image": {"base64": "AAAA"}}]}',
        b'{"items": [{"caption": "a", "image": {"base64": "\\ud800"}}]}',
    ],
)
def test_half_a_character_is_422_and_never_500(client, body):
    headers = {"Content-Type": "application/json"}
    assert client.post("/runs", content=body, headers=headers).status_code == 422


def test_a_body_over_the_bound_is_413(client):
    image = {"base64": "A" * 2_000_000}
    response = client.post("/runs", json={"items": [{"caption": "x", "image": image}]})
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/runs/absent"),
        ("GET", "/runs/absent/events"),
        ("DELETE", "/runs/absent"),
        ("POST", "/runs/absent/retry-failed"),
    ],
)
def test_an_unknown_run_is_404(client, method, path):
    response = client.request(method, path)
    assert response.status_code == 404
    assert response.json()["error"] == "not_found"


def test_a_run_can_be_cancelled_and_stays_so(client):
    client.post("/runs", json={"source": "shards", "run_id": "first"})
    assert client.delete("/runs/first").json()["state"] == "cancelled"
    assert client.get("/runs/first").json()["state"] == "cancelled"


def test_failures_are_tried_again_as_a_new_run_once_the_run_has_ended(client, tmp_path):
    client.post("/runs", json={"source": "shards", "run_id": "first"})
    assert client.post("/runs/first/retry-failed").status_code == 409
    finish(tmp_path / "runs", "first")
    retried = client.post("/runs/first/retry-failed")
    assert retried.status_code == 202
    assert retried.json()["run_id"] != "first"


def test_events_tell_the_status_and_end_with_the_run(client, tmp_path):
    client.post("/runs", json={"source": "shards", "run_id": "first"})
    finish(tmp_path / "runs", "first")
    lines = client.get("/runs/first/events").text.splitlines()
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert data[-1]["state"] == "done"
    assert [line for line in lines if line.startswith("id: 2-")]


def test_a_run_whose_files_cannot_be_read_is_no_error_of_the_gateway(client, tmp_path):
    for run_id in ("good", "bad"):
        client.post("/runs", json={"source": "shards", "run_id": run_id})
    file = tmp_path / "runs/bad/run.json"
    file.unlink()
    file.mkdir()
    listed = client.get("/runs")
    assert listed.status_code == 200
    assert [(run["run_id"], run["state"]) for run in listed.json()] == [
        ("good", "planned"),
        ("bad", "failed"),
    ]
    one = client.get("/runs/bad")
    assert (one.status_code, one.json()["error"]) == (503, "not_ready")
    assert "Is a directory" in one.json()["message"]
