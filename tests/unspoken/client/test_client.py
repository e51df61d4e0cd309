"""The gateway's sync and async client, over real HTTP with a fake segmenter."""

import io
import re
from functools import partial

import httpx
import numpy as np
import pytest
from PIL import Image

from services.segmenter.local_segmenter import LocalSegmenter
from tests.contracts import picture_bytes
from tests.fakes import FakeTextEncoder
from tests.served_stack import worked_off
from unspoken.client import Client, Query, RunRequest, run_item
from unspoken.client.pictures import read_file
from unspoken.client.port_clients import SegmenterClient, connect
from unspoken.errors import Conflict, InvalidInput, NotAnImage, NotFound
from unspoken.imaging.images import decode_picture
from unspoken.wire.segment import SegmentQuestion

PNG = picture_bytes()
BOX = (8, 8, 60, 50)


def recorded(client_class, sent):
    """A custom transport that records the content type of each request, then sends it."""

    class Recording(httpx.HTTPTransport):
        def handle_request(self, request):
            sent.append(request.headers.get("content-type", "").partition(";")[0])
            return super().handle_request(request)

    class AsyncRecording(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request):
            sent.append(request.headers.get("content-type", "").partition(";")[0])
            return await super().handle_async_request(request)

    return Recording() if client_class is Client else AsyncRecording()


def test_no_queries_give_no_results(client):
    answer = client.segment(PNG)
    assert answer.results == () and answer.size_hw == (64, 96)


def test_masks_boxes_and_scores_are_arrays_of_what_the_service_says(client, stack):
    answer = client.segment(PNG, "car", Query("wheel", threshold=1.0), Query(boxes=[BOX]))
    question = SegmentQuestion.model_validate({"queries": [{"text": "car"}]})
    with LocalSegmenter(stack.segmenter) as segmenter:
        direct = segmenter.segment(decode_picture(PNG), question)
    (expected,) = direct.results[0].instances
    car, wheel, boxed = answer.results
    assert (car.text, wheel.text, boxed.text) == ("car", "wheel", None)
    assert car.boxes_xyxy.tolist() == [expected.box.to_list()]
    assert car.scores.tolist() == [expected.score]
    assert car.masks.shape == (1, 64, 96) and car.masks.dtype == bool
    assert car.masks.sum() == expected.area and (car.mask(0) == car.masks[0]).all()
    assert answer.image_id == direct.image.id and answer.model.kind == "segmenter"
    # Without hits the arrays are empty but have the same number of dimensions.
    assert len(wheel) == 0
    assert (wheel.masks.shape, wheel.boxes_xyxy.shape) == ((0, 64, 96), (0, 4))


def test_what_was_not_asked_for_is_said_to_be_so(client):
    (car,) = client.segment(PNG, "car", masks=False).results
    with pytest.raises(InvalidInput, match="masks=True"):
        _ = car.masks
    with pytest.raises(InvalidInput, match="embeddings=True"):
        _ = car.embeddings


@pytest.mark.parametrize(
    "kind", ["path", "text of a path", "bytes", "pillow", "rgb array", "gray array"]
)
def test_a_picture_comes_in_any_form(client, tmp_path, kind):
    path = tmp_path / "street.png"
    path.write_bytes(PNG)
    pillow = Image.open(io.BytesIO(PNG))
    forms = {
        "path": path,
        "text of a path": str(path),
        "bytes": PNG,
        "pillow": pillow,
        "rgb array": np.asarray(pillow),
        "gray array": np.asarray(pillow.convert("L")),
    }
    (car,) = client.segment(forms[kind], "car").results
    assert car.masks.shape == (1, 64, 96)


def test_a_pillow_image_of_a_mode_that_png_lacks_is_sent_as_rgb():
    sent = read_file(Image.new("CMYK", (8, 6), (0, 255, 255, 0)))
    assert decode_picture(sent.encoded).size_hw == (6, 8)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        pytest.param("no/such/file.jpg", "cannot read", id="no-file"),
        pytest.param("a\0b", "cannot read", id="no-path"),
        pytest.param(np.zeros((4, 4, 3)), r"\(4, 4, 3\) of float64", id="floats"),
        pytest.param(np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)", id="four-channels"),
        pytest.param(np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)", id="no-pixels"),
        pytest.param(7, "got int", id="a-number"),
    ],
)
def test_what_is_no_picture_is_refused_before_anything_is_sent(image, message):
    with Client("http://127.0.0.1:9") as client, pytest.raises(InvalidInput, match=message):
        client.segment(image, "car")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query(), "give a text, boxes or points"),
        (Query(boxes=[(1, 2, 3)]), "x0, y0, x1, y1"),
        (Query(boxes=[(9, 2, 3, 4)]), "x0 < x1"),
        (Query(points=[(1,)]), "point is"),
        (Query("x" * 300), "queries[0].text"),
        (["a dog", "a wheel"], "got list; give each one as an argument"),
        (None, "got NoneType"),
        (b"a dog", "got bytes"),
    ],
)
def test_a_query_that_cannot_be_is_refused_before_anything_is_sent(query, message):
    with (
        Client("http://127.0.0.1:9") as client,
        pytest.raises(InvalidInput, match=re.escape(message)),
    ):
        client.segment(PNG, query)


@pytest.mark.parametrize("wrong", [".", "..", "", "\ud800"])
def test_an_id_that_would_lead_to_another_route_is_refused_before_anything_is_sent(wrong):
    with Client("http://127.0.0.1:9") as client, connect("http://127.0.0.1:9") as http:
        asks = (
            client.find_image,
            client.runs.read,
            client.runs.cancel,
            client.runs.fork,
            client.runs.retry_failed,
            lambda run_id: next(client.runs.follow(run_id)),
            SegmenterClient(http).read_image,
        )
        for ask in asks:
            with pytest.raises(InvalidInput):
                ask(wrong)


def test_an_id_with_slashes_is_one_segment_of_the_path():
    sent = []

    def note(request):
        sent.append(request.url.raw_path)
        return httpx.Response(404, json={"error": "not_found", "message": "", "details": {}})

    with Client("http://gateway", transport=httpx.MockTransport(note)) as client:
        for ask in (client.find_image, client.runs.read):
            with pytest.raises(NotFound):
                ask("../metrics?x=1")
    assert sent == [b"/images/..%2Fmetrics%3Fx%3D1", b"/runs/..%2Fmetrics%3Fx%3D1"]


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://gateway", "http://"])
def test_an_address_that_is_none_is_refused_at_once(client_class, address):
    with pytest.raises(InvalidInput, match="Write it like http"):
        client_class(address)


def test_what_the_service_refuses_is_its_own_error(client):
    with pytest.raises(NotAnImage):
        client.segment(b"no picture", "car")
    with pytest.raises(InvalidInput, match="outside"):
        client.segment(PNG, Query(boxes=[(900, 900, 950, 950)]))


def test_a_picture_is_sent_once_and_asked_about_by_its_id(client_class, stack):
    sent = []
    with client_class(stack.url, transport=recorded(client_class, sent)) as client:
        for _ in range(3):
            client.segment(PNG, "car")
    assert sent == ["multipart/form-data", "application/json", "application/json"]
    assert stack.segmenter.num_embedded == 1


@pytest.mark.parametrize("held", [False, True], ids=["bytes", "held"])
def test_a_picture_that_the_gateway_let_go_is_sent_again(client_class, stack, held):
    sent = []
    with client_class(stack.url, transport=recorded(client_class, sent)) as client:
        picture = client.add_image(PNG) if held else PNG
        first = client.segment(picture, "car")
        stack.segmenter.cache.remove(first.image_id)
        del sent[:]
        again = client.segment(picture, "car")
    assert sent == ["application/json", "multipart/form-data"]
    assert stack.segmenter.num_embedded == 2 and not again.was_cached
    assert (again.results[0].masks == first.results[0].masks).all()


def test_a_picture_sent_ahead_is_found_by_name(client, stack):
    sent = client.add_image(PNG, name="a street")
    assert (sent.width, sent.height, sent.bank_ready) == (96, 64, False)
    found = client.find_image("a street")
    assert found.id == sent.id and found.file is None
    assert client.segment(found, "car").was_cached and stack.segmenter.num_embedded == 1


def test_a_picture_is_sent_once_to_build_its_bank_ahead(client_class, stack):
    sent = []
    with client_class(stack.url, transport=recorded(client_class, sent)) as client:
        assert client.add_image(picture_bytes(size=(70, 50)), bank=True).bank_ready
    assert sent == ["multipart/form-data", "application/json"]


def test_a_bank_is_built_ahead(client):
    assert client.add_image(PNG, bank=True).bank_ready
    assert client.find_image(client.add_image(PNG).id).bank_ready


def test_an_id_alone_that_is_not_held_is_told(client, stack):
    found = client.find_image(client.add_image(PNG).id)
    stack.segmenter.cache.remove(found.id)
    with pytest.raises(NotFound, match="send it again"):
        client.segment(found, "car")
    with pytest.raises(NotFound):
        client.find_image("nobody")
    with pytest.raises(InvalidInput, match="no part"):
        client.find_image("../runs")


def test_an_api_key_goes_with_every_request(client_class):
    seen = []

    def answer(request):
        seen.append(request.headers["authorization"])
        return httpx.Response(200, json=[])

    with client_class(
        "http://gateway", api_key="a-key", transport=httpx.MockTransport(answer)
    ) as client:
        assert client.runs.list() == []
    assert seen == ["Bearer a-key"]


def test_a_field_of_a_later_gateway_is_passed_over(client_class, stack):
    def answer(request):
        reply = httpx.get(f"{stack.url}/runs").json()
        return httpx.Response(200, json=[{**each, "more": {"a": 1}} for each in reply])

    with Client(stack.url) as client:
        client.runs.create(RunRequest(items=[run_item("a dog", PNG)], run_id="r"))
    with client_class("http://later", transport=httpx.MockTransport(answer)) as client:
        assert [run.run_id for run in client.runs.list()] == ["r"]


def test_runs_are_queued_followed_and_ended(client, stack):
    request = RunRequest(items=[run_item("a red car", PNG, key="one")])
    run = client.runs.create(request)
    assert client.runs.read(run.run_id).state == "planned"
    with worked_off(stack.runs_dir):
        told = list(client.runs.follow(run.run_id))
    assert told[-1].state == "done" and [each.done for each in told] == sorted(
        each.done for each in told
    )
    with pytest.raises(InvalidInput, match="no failed rows"):
        client.runs.retry_failed(run.run_id)
    fork = client.runs.fork(run.run_id)
    assert client.runs.cancel(fork.run_id).state == "cancelled"
    assert {each.run_id for each in client.runs.list()} == {run.run_id, fork.run_id}
    with pytest.raises(NotFound):
        client.runs.read("nobody")


def test_the_same_request_under_an_id_is_one_run(client):
    ask = partial(client.runs.create, RunRequest(items=[run_item("a car", PNG)], run_id="r"))
    assert ask().run_id == ask().run_id == "r"
    with pytest.raises(Conflict):
        client.runs.create(RunRequest(items=[run_item("a dog", PNG)], run_id="r"))


def test_a_filter_that_is_switched_off_is_off_over_http_too(client, stack):
    from unspoken.runs.store import read_run

    request = {"items": [run_item("a car", PNG)], "filters": {"max_aspect": None}}
    run = client.runs.create(RunRequest.model_validate(request))
    assert read_run(stack.runs_dir, run.run_id).options.filters.max_aspect is None


def test_a_picture_is_deleted_by_what_add_image_gave_or_by_its_name(client):
    held = client.add_image(PNG, name="street")
    client.delete_image(held)
    with pytest.raises(NotFound):
        client.find_image("street")
    with pytest.raises(NotFound):
        client.delete_image("street")
    client.add_image(PNG, name="street")
    client.delete_image("street")
    assert not client.segment(held, "car").was_cached  # sent again, with the file


def test_texts_are_embedded_in_the_space_of_masks_or_of_the_text_encoder(client, stack):
    texts = [f"thing {number}" for number in range(1001)]
    in_masks = client.embed_texts(texts)
    assert in_masks.shape == (1001, 768) and in_masks.dtype == np.float32
    assert np.allclose(in_masks[-1:], stack.segmenter.text_targets(texts[-1:]), atol=1e-6)
    plain = client.embed_texts(["car"], space="text")
    assert np.allclose(plain, FakeTextEncoder().encode_texts(["car"]), atol=1e-6)
    assert client.embed_texts([]).shape == (0, 768)


def test_results_say_method_threshold_and_prompt(client):
    car, boxed = client.segment(PNG, Query("car", threshold=0.01), Query(boxes=[BOX])).results
    assert car.threshold == 0.01 and car.method == "bank" and boxed.method == "prompts"
    assert car.prompt_indices.tolist() == [-1] * len(car)
    assert boxed.prompt_indices.tolist() == [0]
    assert car.error is None and car.num_empty == 0
