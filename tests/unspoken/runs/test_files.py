"""Digests of JSON."""

import hashlib
import json

import pytest

from unspoken.runs.files import json_sha256

LONG = 'picture "é\\' * 300_000


@pytest.mark.parametrize(
    "value",
    [
        {"b": [1, 2.5, None, True, 'é"x'], "a": {"z": "q", "c": []}, "d": {}},
        {"items": [{"image": LONG, "caption": "a"}, {"image": LONG + "b"}], "a": LONG},
        [],
    ],
    ids=["small", "pictures", "empty"],
)
def test_a_digest_is_that_of_the_canonical_json_as_one_text(value):
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert json_sha256(value) == hashlib.sha256(text.encode()).hexdigest()
