import time

import pytest

from unspoken.text.captions import caption_nouns, is_named, negated_nouns, prose
from unspoken.text.lexicon import load_lexicon

LEXICON = load_lexicon()


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
        ("teddy bear", "a Teddy-Bear", True),
        ("dining table", "dining, table", False),
        ("ray", "an x-ray", False),
        ("sports car", "two sports cars", True),
    ],
)
def test_named_means_the_head_or_a_synonym_is_in_the_caption(phrase, caption, named):
    assert is_named(phrase, caption, LEXICON) is named


@pytest.mark.parametrize(
    ("caption", "nouns"),
    [
        ('Dog <table><img src="cat.jpg" alt="gun">', ["dog"]),
        ("Dog &copy; <!-- a cat", ["dog"]),
        ("Dog https://cat.example/gun?x=table www.gun.example/cat", ["dog"]),
        ("Dog, write to cat@gun.example", ["dog"]),
        ("D\u00adog and car\u200bpet", ["dog", "carpet"]),
        ("Dog\x00cat", ["dog", "cat"]),
        ("\u202enug\u202c dog", ["dog"]),
        ("c\u0430t and dog", ["dog"]),
        ("carpé and naïve dog", ["dog"]),
        ("red_dog", ["dog"]),
        ("\uff44\uff4f\uff47", ["dog"]),
        ("I <3 my dog", ["dog"]),
    ],
)
def test_only_what_a_reader_sees_of_a_caption_names_things(caption, nouns):
    assert caption_nouns(caption, LEXICON) == nouns
    assert not is_named("gun", caption, LEXICON)


@pytest.mark.parametrize("caption", ["w" * 100_000, "a-" * 50_000, "<a" * 50_000, "@" * 100_000])
def test_a_long_caption_is_read_in_a_moment(caption):
    started = time.process_time()
    assert len(prose(caption)) <= 4000
    caption_nouns(caption, LEXICON)
    assert time.process_time() - started < 2


def test_a_word_that_the_limit_cuts_names_nothing():
    for length in range(3990, 4001):
        caption = "x" * (length - 1) + " cobra in a basket"
        assert set(caption_nouns(caption, LEXICON)) <= {"cobra"}
