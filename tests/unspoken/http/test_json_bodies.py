"""JSON bodies: hostile ones are refused before parsing, and pictures bypass the parser."""

import base64
import json
import time

import pytest

from unspoken.errors import InvalidInput, TooLarge
from unspoken.http.json_bodies import MAX_ELEMENTS, MAX_TEXT_BYTES, slim_body
from unspoken.http.uploads import validated
from unspoken.imaging.images import decode_base64
from unspoken.wire.detections import DetectRequest
from unspoken.wire.runs import RunRequest

FILE = bytes(range(256)) * 400
TEXT = base64.b64encode(FILE).decode()


def many(element: str, count: int) -> bytes:
    return ('{"x":[' + ",".join([element] * count) + "]}").encode()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(many("[]", 10_000_000), id="arrays"),
        pytest.param(many("{}", 1_000_000), id="objects"),
        pytest.param(many("1", 1_000_000), id="numbers"),
        pytest.param(many('""', 1_000_000), id="strings"),
        pytest.param(b'{"x":"' + b'\\"' * 4_000_000 + b'"}', id="escaped-quotes"),
        pytest.param(b"[" * 1_000_000, id="depth"),
        pytest.param(b'{"x":"' + b"y" * (MAX_TEXT_BYTES + 1) + b'"}', id="text"),
        pytest.param(b'{"base64":"' + b"y" * (MAX_TEXT_BYTES + 1), id="no-end"),
    ],
)
def test_a_body_that_would_take_long_to_parse_is_too_large_within_a_moment(body):
    started = time.thread_time()
    with pytest.raises(TooLarge):
        slim_body(body)
    assert time.thread_time() - started < 1


def test_a_picture_never_reaches_the_parser_and_comes_back_whole():
    body = json.dumps({"image": {"base64": TEXT}, "phrases": ["a, [b] {c}", 'say "d"\\']}).encode()
    slim = slim_body(body)
    assert len(slim.body) < 200 and list(slim.pictures.values()) == [TEXT]
    asked = validated(DetectRequest, body)
    assert asked == DetectRequest.model_validate_json(body)
    assert decode_base64(asked.image.base64 or "") == FILE


def test_every_picture_of_a_run_comes_back_to_its_own_item():
    texts = [base64.b64encode(bytes([n]) * 9000).decode() for n in range(5)]
    items = [{"caption": f"{n}", "image": {"base64": text}} for n, text in enumerate(texts)]
    asked = validated(RunRequest, json.dumps({"items": items}, indent=2).encode())
    assert [item.image.base64 for item in asked.items or []] == texts


def test_slashes_may_be_escaped_in_a_picture():
    text = "ab/+" * 9000
    body = json.dumps({"image": {"base64": text}, "phrases": []}).replace("/", "\\/").encode()
    assert validated(DetectRequest, body).image.base64 == text


def test_a_long_text_elsewhere_is_held_to_its_own_bound():
    body = json.dumps({"image": {"base64": TEXT}, "phrases": ["x" * 20_000]})
    with pytest.raises(Exception, match="at most 256 characters"):
        validated(DetectRequest, body.encode())
    named = json.dumps({"image": {"base64": ""}, "phrases": ['"base64":', "x" * 20_000]}).encode()
    with pytest.raises(Exception, match="at most 256 characters"):
        validated(DetectRequest, named)


def test_as_many_elements_as_are_allowed_are_read():
    slim_body(many("1", MAX_ELEMENTS - 2))
    with pytest.raises(TooLarge, match=str(MAX_ELEMENTS)):
        slim_body(many("1111", MAX_ELEMENTS))


def test_thousands_of_problems_are_counted_and_not_listed():
    queries = {"image": {"base64": ""}, "phrases": [], **{f"key {n}": n for n in range(5000)}}
    with pytest.raises(InvalidInput, match="5000 problems"):
        validated(DetectRequest, json.dumps(queries).encode())


@pytest.mark.parametrize("length", [3, 4, 5, 1024 * 1024 - 4, 1024 * 1024, 1024 * 1024 + 3])
def test_base64_is_decoded_in_pieces_as_it_would_be_at_once(length):
    content = bytes(length % 251 for length in range(length))
    assert decode_base64(base64.b64encode(content).decode()) == content


def test_padding_in_the_middle_of_long_base64_is_refused():
    first = base64.b64encode(b"x" * (1024 * 1024 * 3 // 4 - 1)).decode()
    assert len(first) == 1024 * 1024 and first.endswith("=")
    with pytest.raises(InvalidInput, match="padding"):
        decode_base64(first + "AAAA")
