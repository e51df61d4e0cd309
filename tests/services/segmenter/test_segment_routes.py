"""`/segment` and `/images` over HTTP, on a tiny real network."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from pycocotools import mask as coco

from services.segmenter.app import create_app
from services.segmenter.cache.disk_tier import DiskTier
from tests.contracts import check_segmenter, picture_bytes
from tests.fakes import FakeSegmenter, FakeTextEncoder
from tests.services.segmenter.tiny import tiny_engine, tiny_sam
from tests.serving import ready_client
from unspoken.client.port_clients import SegmenterClient
from unspoken.imaging.images import Picture, decode_picture

PNG = picture_bytes()
IMAGE = {"base64": base64.b64encode(PNG).decode()}
BOX = {"x0": 10, "y0": 10, "x1": 50, "y1": 40}
QUERIES = [{"text": "car", "threshold": 0}, {"text": "wheel", "boxes": [BOX]}]


@contextmanager
def served(segmenter, **limits: object) -> Iterator[TestClient]:
    app = create_app(FakeTextEncoder(), segmenter=segmenter, **limits)
    with ready_client(app) as client:
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with served(tiny_engine()) as client:
        yield client


def results(response) -> list[dict[str, object]]:
    assert response.status_code == 200, response.text
    return response.json()["results"]


def test_the_engine_behind_http_holds_the_contract():
    with served(tiny_engine()) as http:
        check_segmenter(SegmenterClient(http))


def test_a_reply_says_what_was_done_and_how_long_it_took(client):
    body = {"image": IMAGE, "queries": QUERIES, "method": "bank"}
    reply = client.post("/segment", json=body).json()
    assert reply["image"] | {"id": ""} == {"id": "", "width": 96, "height": 64}
    assert reply["model"]["kind"] == "segmenter" and reply["method"] == "bank"
    assert [each["text"] for each in reply["results"]] == ["car", "wheel"]
    stages = reply["timings_ms"]
    assert {"decode", "decode_masks", "score", "render", "wait", "total"} <= set(stages)
    assert stages["total"] >= max(stages.values())
    assert reply["cache"] == {"hit": False, "tier": "none"}
    again = client.post("/segment", json={**body, "image": {"id": reply["image"]["id"]}}).json()
    assert again["cache"] == {"hit": True, "tier": "memory"}
    assert again["results"] == reply["results"]
    assert [model["kind"] for model in client.get("/v1/models").json()] == [
        "text_encoder",
        "segmenter",
    ]


def test_a_form_is_answered_as_json_is(client):
    options = {"method": "bank", "output": {"mask": "polygon", "top_k": 3}, "nms_iou": 0.5}
    by_json = client.post("/segment", json={"image": IMAGE, "queries": QUERIES, **options})
    fields = {
        "queries": json.dumps(QUERIES),
        "method": "bank",
        "output": json.dumps(options["output"]),
        "nms_iou": "0.5",
    }
    by_form = client.post("/segment", files={"image": PNG}, data=fields)
    assert results(by_form) == results(by_json)
    held = {"image_id": (None, by_json.json()["image"]["id"])}
    by_id = client.post("/segment", files=held, data=fields)
    assert results(by_id) == results(by_json)
    sent = client.post("/images", files={"image": PNG}, data={"name": "of a form"})
    assert sent.json()["name"] == "of a form"


def test_rle_loads_in_pycocotools(client):
    response = client.post("/segment", json={"image": IMAGE, "queries": [{"boxes": [BOX]}]})
    (instance,) = results(response)[0]["instances"]
    assert coco.decode(instance["mask"]).shape == (64, 96)
    assert coco.area(instance["mask"]) == instance["area"]


def test_a_picture_is_embedded_ahead_named_and_found_again():
    with served(tiny_engine()) as client:
        created = client.post("/images", json={"image": {**IMAGE, "name": "street 1"}})
        reply = created.json()
        assert created.status_code == 201 and not reply["cached"] and not reply["bank_ready"]
        assert created.headers["Location"] == f"/images/{reply['id']}"
        assert client.post("/images", json={"image": IMAGE}).status_code == 200
        for name in (reply["id"], "street 1"):
            found = client.get(f"/images/{name}")
            assert found.status_code == 200 and found.json()["id"] == reply["id"]
            assert found.headers["ETag"] == f'"{reply["id"]}"'
            known = client.get(
                f"/images/{name}", headers={"If-None-Match": f'"x", {found.headers["ETag"]}'}
            )
            assert known.status_code == 304 and known.content == b""
            other = client.get(f"/images/{name}", headers={"If-None-Match": '"x"'})
            assert other.status_code == 200
        by_name = client.post("/segment", json={"image": {"id": "street 1"}, "queries": []})
        assert by_name.json()["image"]["id"] == reply["id"]


def test_two_pictures_under_one_name_are_two_pictures():
    with served(tiny_engine()) as client:
        ids = []
        for size in ((96, 64), (64, 96)):
            encoded = base64.b64encode(picture_bytes(size=size)).decode()
            reply = client.post("/images", json={"image": {"base64": encoded, "name": "mine"}})
            ids.append(reply.json()["id"])
        assert ids[0] != ids[1]
        assert client.get("/images/mine").json()["id"] == ids[1]
        assert client.get(f"/images/{ids[0]}").status_code == 200


def test_an_unknown_id_is_404_and_says_to_send_the_picture_again(client):
    for response in (
        client.get("/images/" + "0" * 64),
        client.post("/segment", json={"image": {"id": "nobody's"}, "queries": QUERIES}),
        client.post("/segment", json={"image": {"id": "0" * 64}, "queries": QUERIES}),
    ):
        if response.status_code != 404:
            assert response.status_code == 422 and "id" in response.json()["message"]
            continue
        assert response.json()["error"] == "not_found"
        assert "send it again" in response.json()["message"]


def test_a_picture_that_had_to_go_is_404():
    with served(tiny_engine(cache_mib=0.001)) as client:
        first = client.post("/images", json={"image": IMAGE}).json()["id"]
        other = base64.b64encode(picture_bytes(size=(64, 96))).decode()
        client.post("/images", json={"image": {"base64": other}})
        assert client.get(f"/images/{first}").status_code == 404


def test_a_picture_is_encoded_once_however_many_ask_at_once():
    gate = threading.Event()

    def wait(_picture: Picture) -> None:
        gate.wait(10)

    fake = FakeSegmenter(before=wait)
    with served(fake) as client, ThreadPoolExecutor(24) as pool:
        asking = [
            pool.submit(client.post, "/segment", json={"image": IMAGE, "queries": QUERIES})
            for _ in range(24)
        ]
        time.sleep(0.3)
        gate.set()
        assert {each.result().status_code for each in asking} == {200}
    assert fake.num_embedded == 1


def test_a_picture_is_decoded_once_however_many_ask_at_once(monkeypatch):
    gate, num_decoded = threading.Event(), 0

    def decode_slowly(encoded: bytes) -> Picture:
        nonlocal num_decoded
        num_decoded += 1
        gate.wait(10)
        return decode_picture(encoded)

    monkeypatch.setattr("services.segmenter.segment_flow.decode_picture", decode_slowly)
    fake = FakeSegmenter()
    with served(fake) as client, ThreadPoolExecutor(8) as pool:
        body = {"image": IMAGE, "queries": QUERIES}
        asking = [pool.submit(client.post, "/segment", json=body) for _ in range(8)]
        time.sleep(0.3)
        gate.set()
        assert {each.result().status_code for each in asking} == {200}
    assert num_decoded == fake.num_embedded == 1


def test_a_damaged_picture_is_refused_again_without_being_decoded_again(monkeypatch):
    num_decoded = 0

    def decode(encoded: bytes) -> Picture:
        nonlocal num_decoded
        num_decoded += 1
        return decode_picture(encoded)

    monkeypatch.setattr("services.segmenter.segment_flow.decode_picture", decode)
    with served(FakeSegmenter()) as client:
        for _ in range(3):
            assert client.post("/images", files={"image": b"no picture"}).status_code == 415
    assert num_decoded == 1


# ---- the disk tier ---------------------------------------------------------------------------


def test_a_picture_is_found_on_disk_after_a_restart_and_by_another_replica(tmp_path):
    first = tiny_engine(disk=DiskTier(tmp_path, 8))
    body = {"image": IMAGE, "queries": [{"boxes": [BOX]}]}
    with served(first) as client:
        before = client.post("/segment", json=body).json()
        assert before["cache"] == {"hit": False, "tier": "none"}
    second = tiny_engine(disk=DiskTier(tmp_path, 8))
    with served(second) as client:
        image_id = before["image"]["id"]
        known = client.get(f"/images/{image_id}")
        assert known.json()["cache"] == {"hit": True, "tier": "disk"}
        assert (known.json()["width"], known.headers["ETag"]) == (96, f'"{image_id}"')
        tag = {"If-None-Match": known.headers["ETag"]}
        assert client.get(f"/images/{image_id}", headers=tag).status_code == 304
        by_id = client.post("/segment", json={**body, "image": {"id": image_id}}).json()
        assert by_id["cache"] == {"hit": True, "tier": "disk"} and "disk" in by_id["timings_ms"]
        assert by_id["results"] == before["results"]
        added = client.post("/images", json={"image": IMAGE})
        assert added.status_code == 200 and added.json()["cache"]["tier"] == "memory"
        figures = client.get("/metrics").text
        assert 'unspoken_cache_lookups_total{tier="disk"} 1.0' in figures
        assert 'unspoken_cache_bytes{tier="disk"}' in figures
        assert client.get("/images/" + "0" * 64).status_code == 404
    assert second.num_embedded == 0


def test_other_weights_find_nothing_of_what_these_have_kept(tmp_path):
    for sha256 in ("0" * 64, "1" * 64):
        engine = tiny_engine(disk=DiskTier(tmp_path, 8), weights_sha256=sha256)
        with served(engine) as client:
            assert client.post("/images", json={"image": IMAGE}).status_code == 201


def test_no_hit_is_an_empty_list(client):
    body = {"image": IMAGE, "queries": [{"text": "car", "threshold": 1}], "method": "bank"}
    assert results(client.post("/segment", json=body))[0]["instances"] == []
    assert results(client.post("/segment", json={"image": IMAGE, "queries": []})) == []


def test_a_thousand_texts_are_one_request(client):
    queries = [{"text": f"thing {number}"} for number in range(1000)]
    body = {"image": IMAGE, "queries": queries, "method": "bank", "output": {"mask": "none"}}
    found = results(client.post("/segment", json=body))
    assert [each["query_index"] for each in found] == list(range(1000))


def test_an_untrained_head_is_a_clear_conflict():
    with served(tiny_engine(trained=False)) as client:
        body = {"image": IMAGE, "queries": [{"text": "car"}], "method": "bank"}
        response = client.post("/segment", json=body)
        assert response.status_code == 409 and response.json()["error"] == "conflict"
        assert response.json()["details"]["semantic_trained"] is False


def test_a_profile_without_a_segmenter_says_so_and_still_encodes_texts():
    with served(None) as client:
        for response in (
            client.post("/segment", json={"image": IMAGE, "queries": QUERIES}),
            client.post("/images", json={"image": IMAGE}),
            client.get("/images/x"),
        ):
            assert response.status_code == 409
            assert "no segmenter" in response.json()["message"]
        assert client.post("/text-embeddings", json={"phrases": ["car"]}).status_code == 200


def test_the_routes_are_documented_with_examples(client):
    paths = client.get("/openapi.json").json()["paths"]
    content = paths["/segment"]["post"]["requestBody"]["content"]
    assert content["application/json"]["example"]["queries"]
    assert "$ref" not in json.dumps(content) and "multipart/form-data" in content
    assert "SegmentReply" in str(paths["/segment"]["post"]["responses"]["200"])
    assert {"404", "409", "429"} <= set(paths["/segment"]["post"]["responses"])


def test_the_embedding_of_a_mask_is_a_unit_vector(client):
    body = {"image": IMAGE, "queries": [{"boxes": [BOX]}], "output": {"embedding": True}}
    vector = results(client.post("/segment", json=body))[0]["instances"][0]["embedding"]
    assert len(vector) == 768 and np.linalg.norm(vector) == pytest.approx(1, abs=1e-4)


def test_text_embeddings_of_space_mask_can_be_compared_with_the_vectors_of_masks():
    generator = torch.Generator().manual_seed(3)
    mean = torch.randn(768, generator=generator) / 20
    loaded = tiny_sam(text_mean=mean, text_templates=("{}", "a photo of a {}"))
    with served(tiny_engine(loaded=loaded, score="cosine")) as client:
        body = {
            "image": IMAGE,
            "queries": [{"text": "A Car!", "threshold": 0}],
            "method": "bank",
            "output": {"embedding": True, "mask": "none"},
        }
        reply = client.post("/segment", json=body).json()
        assert reply["embedding_space"] == "mask"
        asked = {"phrases": ["A Car!", "wheel"], "space": "mask"}
        targets = client.post("/text-embeddings", json=asked).json()
        assert targets["space"] == "mask" and targets["model"] == reply["model"]
        instances = reply["results"][0]["instances"]
        assert instances
        for instance in instances:
            cosine = float(np.dot(instance["embedding"], targets["embeddings"][0]))
            quality = instance["predicted_iou"]
            assert instance["score"] == pytest.approx(max(cosine, 0) * quality, abs=2e-4)
        plain = client.post("/text-embeddings", json={"phrases": ["A Car!"]}).json()
        assert plain["space"] == "text" and plain["model"]["kind"] == "text_encoder"
        assert not np.allclose(plain["embeddings"][0], targets["embeddings"][0], atol=0.01)


@pytest.mark.parametrize("segmenter", [None, tiny_engine(trained=False)], ids=["none", "untrained"])
def test_space_mask_is_a_conflict_without_a_trained_head(segmenter):
    with served(segmenter) as client:
        asked = {"phrases": ["car"], "space": "mask"}
        response = client.post("/text-embeddings", json=asked)
        assert response.status_code == 409 and "space 'mask'" in response.json()["message"]


@pytest.mark.parametrize("by", ["id", "name"])
def test_a_deleted_picture_is_in_no_tier_and_in_no_file(tmp_path, by):
    with served(tiny_engine(disk=DiskTier(tmp_path, 64))) as client:
        sent = client.post("/images", json={"image": {**IMAGE, "name": "street"}}).json()
        other = client.post("/images", files={"image": picture_bytes(size=(48, 40))}).json()
        # Delete at once, when the file may not yet be written to disk.
        deleted = client.delete(f"/images/{sent['id'] if by == 'id' else 'street'}")
        assert deleted.status_code == 204 and deleted.content == b""
        for name in (sent["id"], "street"):
            assert client.get(f"/images/{name}").status_code == 404
            asked = client.post("/segment", json={"image": {"id": name}, "queries": []})
            assert asked.status_code == 404
            again = client.delete(f"/images/{name}")
            assert again.status_code == 404 and again.json()["error"] == "not_found"
        assert client.get(f"/images/{other['id']}").status_code == 200
    assert [path.stem for path in tmp_path.rglob("*.safetensors")] == [other["id"]]


def test_a_picture_that_only_the_disk_holds_is_deleted_too(tmp_path):
    with served(tiny_engine(disk=DiskTier(tmp_path, 64))) as client:
        sent = client.post("/images", json={"image": IMAGE}).json()
    with served(tiny_engine(disk=DiskTier(tmp_path, 64))) as client:
        assert client.delete(f"/images/{sent['id']}").status_code == 204
    assert not list(tmp_path.rglob("*.safetensors"))


def test_names_survive_a_restart_where_there_is_a_disk_and_end_with_their_picture(tmp_path):
    with served(tiny_engine(disk=DiskTier(tmp_path, 64))) as client:
        named = {"image": {**IMAGE, "name": "my street/1"}}
        sent = client.post("/images", json=named).json()
    with served(tiny_engine(disk=DiskTier(tmp_path, 64))) as client:
        found = client.get("/images/my street/1").json()
        assert (found["id"], found["cache"]["tier"]) == (sent["id"], "disk")
        asked = {"image": {"id": "my street/1"}, "queries": []}
        reply = client.post("/segment", json=asked).json()
        assert reply["image"]["id"] == sent["id"] and reply["cache"]["tier"] == "disk"
        assert client.delete("/images/my street/1").status_code == 204
        assert client.post("/images", json={"image": IMAGE}).json()["id"] == sent["id"]
        assert client.get("/images/my street/1").status_code == 404
