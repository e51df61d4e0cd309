"""The lexicon: related words and word frequencies."""

import pytest

from unspoken.text.lexicon import load_lexicon, parse_lexicon

LEXICON = load_lexicon()


def test_a_line_has_lemmas_hypernyms_and_a_frequency():
    lexicon = parse_lexicon(["# notes", "dog domestic_dog <animal =14", "hot_dog <food", "men>man"])
    assert lexicon.synonyms_of("dog") == {"dog", "domestic dog"}
    assert lexicon.hypernyms_of("domestic dog") == {"animal"}
    assert (lexicon.frequencies["dog"], lexicon.frequencies["hot dog"]) == (14, 0)
    assert lexicon.singular("men") == "man"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("car", "car"),
        ("red car", "racing car"),
        ("sofa", "couch"),
        ("puppy", "animal"),
        ("young woman", "person"),
        ("rose", "plant"),
        ("taxi", "automobile"),
    ],
)
def test_kin_mean_or_include_each_other(first, second):
    assert LEXICON.may_name_same_thing(first, second) and LEXICON.may_name_same_thing(second, first)


@pytest.mark.parametrize(
    ("first", "second"),
    [("car", "bicycle"), ("man", "woman"), ("wheel", "car"), ("dog", "hot dog"), ("zorb", "car")],
)
def test_siblings_and_parts_are_no_kin(first, second):
    assert not LEXICON.may_name_same_thing(first, second)
    assert not LEXICON.may_name_same_thing(second, first)


def test_frequencies_order_words_as_english_does():
    frequency = LEXICON.frequencies
    assert frequency["man"] > frequency["dog"] > frequency["zebra"] > 0
