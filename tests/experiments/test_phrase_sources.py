import pytest

from experiments.phrase_sources import (
    MAX_NGRAMS,
    MAX_QUERY_CHARS,
    exactly,
    from_vocabulary,
    ngrams,
    noun_chunks,
    of_other_caption,
    of_template,
    oracle,
    union,
    whole_caption,
    with_random,
)
from unspoken.text.lexicon import load_lexicon
from unspoken.wire.proposals import Phrase, PhraseSource, Proposal

LEXICON = load_lexicon()


def texts(phrases):
    return [phrase.text for phrase in phrases]


def test_ngrams_come_shortest_first_and_from_left_to_right():
    assert texts(ngrams("Red car parked", LEXICON)) == [
        "red", "car", "parked", "red car", "car parked", "red car parked",
    ]  # fmt: skip


def test_ngrams_lose_generic_words_and_those_of_stop_words_alone():
    found = texts(ngrams("a photo of the dog", LEXICON))
    assert "photo" not in " ".join(found)
    assert "of the" not in found
    assert "a of the dog" in found


def test_ngrams_keep_their_punctuation_and_drop_what_is_nothing_else():
    found = texts(ngrams("dog, cat | HD", LEXICON))
    assert "dog," in found
    assert "|" not in found


def test_ngrams_are_at_most_ten_words_and_three_hundred():
    many = ngrams(" ".join(f"word{number}" for number in range(80)), LEXICON)
    assert len(many) == MAX_NGRAMS
    eleven = ngrams("a1 b2 c3 d4 e5 f6 g7 h8 i9 j0 k1", LEXICON)
    assert max(len(text.split()) for text in texts(eleven)) == 10


def test_a_caption_is_one_query_however_long():
    (query,) = whole_caption("A dog\x00 and <b>a cat</b> " + "tail " * 100, LEXICON)
    assert query.text.startswith("a dog and a cat tail")
    assert len(query.text) <= MAX_QUERY_CHARS
    assert query.named
    assert whole_caption("?! ...", LEXICON) == ()


def test_nouns_of_a_caption_are_singular_and_without_adjectives():
    assert texts(noun_chunks("Two red cars near a dining table", LEXICON)) == [
        "car", "dining table",
    ]  # fmt: skip


def proposal():
    def phrase(text, *templates, named=False):
        sources = tuple(PhraseSource(template=template) for template in templates)
        return Phrase(text=text, named=named, sources=sources)

    return Proposal(
        phrases=(phrase("car", "caption", "named", named=True), phrase("road", "place"))
    )


def test_the_models_nouns_are_those_of_its_template_only():
    (only,) = of_template(proposal(), "named")
    assert only.text == "car"
    assert [source.template for source in only.sources] == ["named"]


def test_a_vocabulary_is_named_where_the_caption_names_it():
    assert [each.named for each in from_vocabulary(["auto", "dog"], "a car", LEXICON)] == [
        True, False,
    ]  # fmt: skip


def test_what_another_caption_gave_is_named_by_this_one():
    car, road = of_other_caption(proposal().phrases, "the road", LEXICON)
    assert (car.named, road.named) == (False, True)


def test_a_union_keeps_the_first_ones_phrase_and_order():
    words = from_vocabulary(["road", "dog"], "x", LEXICON)
    joined = union(proposal().phrases, words)
    assert texts(joined) == ["car", "road", "dog"]
    assert joined[1].sources[0].template == "place"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_a_source_is_held_to_a_number_of_queries(count):
    random_labels = from_vocabulary(["road", "dog", "cat", "bee", "owl", "fox"], "x", LEXICON)
    held = exactly(proposal().phrases, random_labels, count=count)
    assert len(set(texts(held))) == count
    assert texts(held)[:2] == ["car", "road"][:count]


def test_random_labels_are_new_ones():
    random_labels = from_vocabulary(["road", "dog", "cat"], "x", LEXICON)
    assert texts(with_random(proposal().phrases, random_labels, count=1)) == ["car", "road", "dog"]


def test_the_oracle_asks_every_true_label_once():
    assert texts(oracle(frozenset({"wheel", "car"}), "a car", LEXICON)) == ["car", "wheel"]
