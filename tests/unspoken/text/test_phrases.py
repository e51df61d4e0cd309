import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unspoken.text.lexicon import load_lexicon, words
from unspoken.text.phrases import (
    MAX_PHRASES,
    answer_line,
    clean_item,
    cut_clause,
    is_stuff,
    joined,
    kind_of_name,
    parse_phrases,
    plain_item,
    rejection_of,
    singular_phrase,
    split_items,
    strip_determiners,
    strip_numbering,
)

LEXICON = load_lexicon()


def texts(raw: str) -> list[str]:
    return [c.text for c in parse_phrases(raw, template="parts", lexicon=LEXICON).phrases]


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
        ("teddy-bears, horse-drawn carriages", ["teddy bear", "horse-drawn carriage"]),
        ("Mustang = car, Reno = a city", ["car", "city"]),
        ("kitchen; stove, shelf", ["kitchen", "stove", "shelf"]),
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
        ("none", "none"),
        ("no empty street", "negated"),
        ("without wheels", "negated"),
        ("freedom", "unknown or abstract"),
        ("alleycar", "unknown or abstract"),
        ("<script>car", "malformed"),
    ],
)
def test_what_is_no_phrase_is_refused_with_its_reason(item, reason):
    assert rejection_of(item, LEXICON) == reason


def test_refusals_are_kept_with_the_raw_text():
    parsed = parse_phrases("car, freedom, car", template="parts", lexicon=LEXICON)
    assert [(r.raw, r.reason, r.rank) for r in parsed.rejected] == [
        ("freedom", "unknown or abstract", 1),
        ("car", "repeated", 2),
    ]


def test_places_in_the_list_are_kept():
    parsed = parse_phrases("freedom, car", template="parts", lexicon=LEXICON)
    assert [(c.text, c.rank) for c in parsed.phrases] == [("car", 1)]


def test_stuff_is_marked():
    parsed = parse_phrases("sky, car", template="parts", lexicon=LEXICON)
    assert [c.stuff for c in parsed.phrases] == [True, False]


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


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        (answer_line, "", ""),
        (answer_line, " \n car, wheel\nCaption: x", "car, wheel"),
        (answer_line, "car Caption: gun", "car "),
        (kind_of_name, "Mustang = car", " car"),
        (kind_of_name, "car", "car"),
        (kind_of_name, "Mustang =", ""),
        (plain_item, "  \uff23ar_Door  ", "car door"),
        (plain_item, "kid\u2019s  toy", "kid's toy"),
        (strip_numbering, "3) wheel", "wheel"),
        (strip_numbering, "- *wheel*", "wheel"),
        (strip_numbering, "a) wheel.", "wheel"),
        (strip_numbering, '"(wheel)"', "wheel"),
        (strip_determiners, "the two wheels", "wheels"),
        (strip_determiners, "a pair of his glasses", "glasses"),
        (strip_determiners, "24 bottles", "bottles"),
        (strip_determiners, "theatre", "theatre"),
        (cut_clause, "cup of coffee", "cup"),
        (cut_clause, "car with four wheels", "car"),
        (cut_clause, "outhouse", "outhouse"),
        (joined, "teddy-bear", "teddybear"),
        (joined, "teddy bear", "teddybear"),
        (clean_item, " 3) The two large WHEELS of a cart. ", "large wheels"),
    ],
)
def test_each_step_of_the_cleaning_does_one_thing(step, before, after):
    assert step(before) == after


@pytest.mark.parametrize(
    ("phrase", "singular"),
    [
        ("car", "car"),
        ("red cars", "red car"),
        ("glasses", "glasses"),
        ("wolves", "wolf"),
        ("glass", "glass"),
        ("dining tables", "dining table"),
        ("teddy-bears", "teddy bear"),
        ("flip-flops", "flip-flop"),
    ],
)
def test_the_last_word_of_a_phrase_becomes_singular(phrase, singular):
    assert singular_phrase(phrase, LEXICON) == singular


@pytest.mark.parametrize(
    ("phrase", "stuff"), [("sky", True), ("grey sky", True), ("car", False), ("sky bar", False)]
)
def test_a_head_without_a_shape_of_its_own_is_stuff(phrase, stuff):
    assert is_stuff(phrase, LEXICON) is stuff
