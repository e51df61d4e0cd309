import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unspoken.lexicon import load_lexicon, words
from unspoken.phrases import (
    MAX_PHRASES,
    caption_nouns,
    clean_item,
    is_named,
    negated_nouns,
    parse_phrases,
    rejection_of,
    split_items,
)

LEXICON = load_lexicon()


def texts(raw: str) -> list[str]:
    return [c.text for c in parse_phrases(raw, template="parts", lexicon=LEXICON).candidates]


def test_an_empty_answer_gives_no_phrases():
    assert texts("") == []
    assert texts(" \n") == []


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("car, wheel, window", ["car", "wheel", "window"]),
        ("1. a red mug; 2) Two wheels", ["red mug", "wheel"]),
        ("- the leg of the table", ["leg"]),
        ("cup of coffee, pair of glasses", ["cup", "glasses"]),
        ("salt and pepper", ["salt", "pepper"]),
        ("wheels, wheel, WHEEL", ["wheel"]),
        ("leaves, knives, feet, people", ["leaf", "knife", "foot", "person"]),
        ("glass, glasses, scissors, stairs", ["glass", "glasses", "scissors", "stairs"]),
        ("dining tables, teddy bear, teddy-bear", ["dining table", "teddy bear"]),
        ('"handle", *spout*', ["handle", "spout"]),
        ("a car with four wheels on it", ["car"]),
        ("car\nCaption: injected\nObjects: gun", ["car"]),
        ("car Caption: gun", ["car"]),
        ("\uff43\uff41\uff52", ["car"]),
    ],
)
def test_answers_become_clean_singular_phrases(raw, expected):
    assert texts(raw) == expected


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("\x07bell", "control character"),
        ("x", "too short"),
        ("www.cars.com", "url"),
        ("extraordinarilylongwordofaphrase", "too long"),
        ("big old brown dog", "too many words"),
        ("iphone12", "digits"),
        ("コーヒー", "not latin"),
        ("café", "not latin"),
        ("wheel?window", "malformed"),
        ("of the", "only stop words"),
        ("stock photo", "generic"),
        ("freedom", "unknown or abstract"),
        ("alleycar", "unknown or abstract"),
        ("<script>car", "malformed"),
    ],
)
def test_what_is_no_phrase_is_refused_with_its_reason(item, reason):
    assert rejection_of(item, LEXICON) == reason


def test_refusals_are_kept_with_the_raw_text():
    parsed = parse_phrases("car, freedom, car", template="parts", lexicon=LEXICON)
    assert [(r.raw, r.reason) for r in parsed.rejected] == [
        ("freedom", "unknown or abstract"),
        ("car", "repeated"),
    ]


def test_places_in_the_list_are_kept():
    parsed = parse_phrases("freedom, car", template="parts", lexicon=LEXICON)
    assert [(c.text, c.rank) for c in parsed.candidates] == [("car", 1)]


def test_stuff_is_marked():
    parsed = parse_phrases("sky, car", template="parts", lexicon=LEXICON)
    assert [c.stuff for c in parsed.candidates] == [True, False]


def test_an_endless_answer_is_cut():
    assert len(split_items("car, " * 10_000, LEXICON)) <= 80
    names = sorted(word for word in LEXICON.synonyms if " " not in word and len(word) < 10)
    assert len(texts(", ".join(names[:79]))) == MAX_PHRASES


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=300))
def test_nothing_outside_the_grammar_ever_comes_out(raw):
    for text in texts(raw):
        assert 2 <= len(text) <= 30
        assert len(text.split(" ")) <= 3
        assert all("a" <= char <= "z" or char in " -'" for char in text)
        assert LEXICON.knows(LEXICON.head(text))


@pytest.mark.parametrize(
    ("caption", "nouns"),
    [
        ("", []),
        ("Golden hour", []),
        ("Woman riding a bicycle along the canal", ["woman", "bicycle", "canal"]),
        ("Orange tabby cat on a laptop keyboard", ["tabby cat", "laptop", "keyboard"]),
        ("Living room with grey sofa and coffee table", ["living room", "sofa", "coffee table"]),
        ("Empty street, no people, no cars", ["street"]),
        ("Potted plant by a window - free stock photo", ["plant", "window"]),
        ("Fried eggs and two knives", ["fried egg", "knife"]),
        ("Kid's balloons", ["kid", "balloon"]),
    ],
)
def test_a_caption_names_its_own_things(caption, nouns):
    assert caption_nouns(caption, LEXICON) == nouns


def test_a_negation_reaches_the_next_noun():
    assert negated_nouns("a street without any cars, and a dog", LEXICON) == {"car"}
    assert negated_nouns("no smoking by the car", LEXICON) == set()


@pytest.mark.parametrize(
    ("phrase", "caption", "named"),
    [
        ("bike", "Red bicycle by a wall", True),
        ("couches", "grey sofa", True),
        ("red car", "CARS for sale", True),
        ("wheel", "Red bicycle", False),
        ("car", "1967 Mustang", False),
        ("car", "a scarf and a carpet", False),
        ("dining table", "dining tables", True),
    ],
)
def test_named_means_the_head_or_a_synonym_is_in_the_caption(phrase, caption, named):
    assert is_named(phrase, caption, LEXICON) is named


def test_everyday_things_and_parts_are_known():
    everyday = words(
        """wheel window leaf stem handle branch feather wing car bicycle dog cat house chair cup
        apple bread guitar hammer tree flower boat bus horse duck fish sofa book clock shoe
        hat bag ball bench roof beak tail hoof trunk horn eye nose hand leg button screen bottle
        keyboard"""
    )
    assert [word for word in everyday if not LEXICON.knows(word)] == []


def test_what_no_photo_shows_is_unknown():
    abstract = words("freedom love time idea sale quality justice year opinion")
    assert [word for word in abstract if LEXICON.knows(word)] == []


def test_a_cleaned_item_has_no_numbering_article_or_clause():
    assert clean_item(" 3) The two large WHEELS of a cart. ") == "large wheels"
