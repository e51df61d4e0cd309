"""Decoys: deterministic, unrelated to caption and phrases, and of similar word frequency."""

from dataclasses import replace
from statistics import mean

import pytest

from unspoken.text.lexicon import load_lexicon
from worker.label.decoys import VOCABULARY, pick_decoys, pick_random_labels

LEXICON = load_lexicon()


def decoys(*phrases, caption="", seed="a", count=999):
    return pick_decoys(phrases, caption=caption, seed=seed, count=count, lexicon=LEXICON)


def frequency(words):
    return mean(LEXICON.frequencies.get(word, 0) for word in words)


def test_the_same_seed_gives_the_same_decoys_and_another_gives_others():
    asked = {"caption": "two dogs and a Horse", "count": 12}
    assert decoys("car", **asked) == decoys("car", **asked)
    assert decoys("car", **asked) != decoys("car", seed="b", **asked)


def test_there_are_as_many_as_asked_for_and_none_twice():
    assert len(set(decoys("car", "wheel", count=12))) == 12
    assert len(set(decoys("car"))) == len(decoys("car")) > len(VOCABULARY) // 2
    assert decoys("car", count=0) == ()


def test_decoys_are_unrelated_to_phrases_and_caption():
    chosen = set(decoys("car", "alarm bell", caption="two dogs and a Horse, on a sofa"))
    assert not {"car", "dog", "horse", "couch", "bell", "alarm clock"} & chosen
    assert {"cat", "truck"} <= chosen


@pytest.mark.parametrize(
    ("said", "word"), [("animal", "dog"), ("musical instrument", "violin"), ("limousine", "car")]
)
def test_what_includes_or_is_included_in_a_phrase_is_no_decoy(said, word):
    assert word in VOCABULARY
    assert word not in decoys(said)
    assert word not in decoys("lamp", caption=f"a {said}")


def test_decoys_are_as_frequent_as_the_phrases():
    common, rare = ("house", "child", "water"), ("toothbrush", "teapot", "hedgehog")
    for seed in "abcdef":
        often, seldom = (decoys(*each, seed=seed, count=9) for each in (common, rare))
        assert frequency(often) > frequency(seldom) + 3
    mixed = decoys("house", "teapot", count=10)
    assert frequency(seldom) < frequency(mixed) < frequency(often)


def test_without_a_phrase_of_known_frequency_any_word_may_be_drawn():
    for phrases in ((), ("zorb",)):
        drawn = {word for seed in range(30) for word in decoys(*phrases, seed=str(seed), count=9)}
        assert len(drawn) > len(VOCABULARY) // 2


def random_labels(*phrases, caption="", seed="a", count=999):
    return pick_random_labels(phrases, caption=caption, seed=seed, count=count, lexicon=LEXICON)


def test_random_labels_are_the_same_for_the_same_seed_and_others_for_another():
    assert random_labels("car", count=200) == random_labels("car", count=200)
    chosen, others = (set(random_labels("car", seed=seed, count=200)) for seed in "ab")
    assert len(chosen) == len(others) == 200
    assert chosen != others


def test_random_labels_have_nothing_to_do_with_what_was_said():
    chosen = set(random_labels("car", "animal", caption="two friends on a sofa"))
    assert chosen < set(VOCABULARY)
    assert not {"car", "dog", "horse", "couch"} & chosen
    assert {"bottle", "truck"} <= chosen


def test_the_vocabulary_is_looked_up_once_and_not_for_every_picture():
    class Counted(dict):
        asked = 0

        def get(self, *arguments):
            Counted.asked += 1
            return super().get(*arguments)

    lexicon = replace(LEXICON, synonyms=Counted(LEXICON.synonyms))
    for seed in "ab":
        before = Counted.asked
        pick_decoys(["car"], caption="a dog", seed=seed, count=4, lexicon=lexicon)
    assert 0 < Counted.asked - before < len(VOCABULARY)
