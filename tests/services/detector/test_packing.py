"""Packing of phrases into chunks that fit Grounding-DINO's prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from services.detector.packing import pack_phrases
from tests.services.detector.conftest import minilm_folder
from unspoken.errors import InvalidInput
from unspoken.wire.texts import normalise_phrase


def letters(text: str) -> list[int]:
    """Tokenizer with one word piece per letter."""
    return [ord(character) for character in text if character != " "]


def test_no_phrases_make_no_chunks():
    assert pack_phrases([], letters) == []


def test_a_chunk_reads_as_the_model_wants_it():
    (chunk,) = pack_phrases(["Red Mug", "table"], letters)
    assert chunk.text_prompt == "red mug . table."
    assert [phrase.token_span for phrase in chunk.phrases] == [(1, 7), (8, 13)]
    assert chunk.num_tokens == 15
    assert len(chunk.token_ids(cls_id=101, separator_id=1012, sep_id=102)) == 15


def test_equal_phrases_are_asked_once_and_answered_each():
    (chunk,) = pack_phrases(["Car", "wheel", "car.", " CAR "], letters)
    assert [phrase.text for phrase in chunk.phrases] == ["car", "wheel"]
    assert chunk.phrases[0].asked_indices == (0, 2, 3)


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("Dr. Pepper?", "dr pepper"),
        ("salt/pepper, shaker", "salt pepper shaker"),
        ("traffic_light", "traffic light"),
        ("T-shirt", "t-shirt"),
        ("driver's seat", "driver's seat"),
        ("[SEP] cat", "sep cat"),
        ("co\u00adoperate", "cooperate"),
        ("猫", "猫"),
        ("...", ""),
        ("🙂", ""),
        ("--", ""),
    ],
)
def test_punctuation_never_reaches_the_text_prompt(phrase, expected):
    assert normalise_phrase(phrase) == expected


@pytest.mark.parametrize("bad", ["\x00", "car\nwheel", "a\x1bb", " . ", "?", "", "\ud800"])
def test_a_phrase_that_cannot_be_asked_is_named_by_its_index(bad):
    with pytest.raises(InvalidInput, match=r"phrases\[1\]"):
        pack_phrases(["car", bad], letters)


def test_a_phrase_longer_than_a_chunk_is_refused():
    assert pack_phrases(["a" * 247], letters)[0].num_tokens == 250
    with pytest.raises(InvalidInput, match=r"phrases\[1\] has 248 word pieces"):
        pack_phrases(["car", "a" * 248], letters)


def test_at_most_forty_phrases_stand_in_a_chunk():
    names = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(100)]
    assert [len(chunk.phrases) for chunk in pack_phrases(names, letters)] == [40, 40, 20]


@given(st.lists(st.text(alphabet="abcdé -.?/", min_size=1, max_size=80), max_size=60))
def test_every_phrase_has_exactly_one_place_and_no_chunk_is_too_long(phrases):
    asked = [phrase if normalise_phrase(phrase) else "cat" for phrase in phrases]
    chunks = pack_phrases(asked, letters)
    indices = [i for chunk in chunks for phrase in chunk.phrases for i in phrase.asked_indices]
    assert sorted(indices) == list(range(len(asked)))
    for chunk in chunks:
        assert chunk.num_tokens <= 250 and len(chunk.phrases) <= 40
        tokens = chunk.token_ids(cls_id=-1, separator_id=-2, sep_id=-3)
        for phrase in chunk.phrases:
            start, end = phrase.token_span
            assert tokens[start:end] == letters(phrase.text)
            assert tokens[end] == -2


def test_the_chunk_is_what_the_tokenizer_makes_of_its_text_prompt():
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    phrases = [
        "Red mug",
        "T-shirt",
        "driver's seat",
        "café",
        "猫 bowl",
        "ottoman",
        "x" * 30,
        "pine",
    ]
    chunks = pack_phrases(phrases * 9, lambda t: tokenizer.encode(t, add_special_tokens=False))
    for chunk in chunks:
        assert tokenizer(chunk.text_prompt)["input_ids"] == chunk.token_ids(
            cls_id=tokenizer.cls_token_id,
            separator_id=tokenizer.convert_tokens_to_ids("."),
            sep_id=tokenizer.sep_token_id,
        )
