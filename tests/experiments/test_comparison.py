"""The comparison applies thresholds like a labelling run, and counts decoys like an `auto` run."""

import pytest

from experiments.collections.collection import small_world
from experiments.comparison import Comparison
from experiments.found_boxes import STORED_FROM, ask_picture, best_scores
from experiments.phrase_sources import from_vocabulary, noun_chunks
from experiments.sources import Source
from tests.fakes import FakeDetector
from tests.smallworld.tiny_world import tiny_world
from unspoken.imaging.images import decode_picture
from unspoken.runs.plan import LabelConfig
from unspoken.text.lexicon import load_lexicon
from unspoken.wire.proposals import Proposal
from worker.label.candidates import list_candidates
from worker.label.merging import fixed_thresholds, merge_detections

LEXICON = load_lexicon()
CONFIG = LabelConfig(named_threshold=0.3)
NOUNS, WORDS = Source("B2", "nouns"), Source("B4", "vocabulary")


@pytest.fixture(scope="module")
def asked():
    """Return collection, phrases of each source, and detections."""
    collection = small_world(tiny_world(), num_scenes=6, seed=3)
    phrases, answers = [], []
    for captioned in collection.pictures:
        listed = {
            "B2": noun_chunks(captioned.caption, LEXICON),
            "B4": from_vocabulary(collection.vocabulary, captioned.caption, LEXICON),
        }
        phrases.append(listed)
        answers.append(
            ask_picture(
                FakeDetector(),
                decode_picture(captioned.read()),
                listed,
                vocabulary_source="B4",
                caption=captioned.caption,
                num_decoys=5,
                seed=captioned.key,
                config=CONFIG,
                lexicon=LEXICON,
            )
        )
    return collection, phrases, answers


def compared(asked):
    collection, phrases, answers = asked
    return Comparison(collection, phrases, answers, config=CONFIG, lexicon=LEXICON)


@pytest.mark.parametrize("source", [NOUNS, WORDS], ids=["shared", "vocabulary"])
def test_the_boxes_that_count_are_those_of_the_workers_merge(asked, source):
    collection, phrases, answers = asked
    labels = []
    for captioned, listed, answer in zip(collection.pictures, phrases, answers, strict=True):
        picture, proposed = decode_picture(captioned.read()), listed[source.name]
        texts = [*(phrase.text for phrase in proposed), *answer.decoys]
        candidates = list_candidates(
            Proposal(phrases=proposed), answer.decoys, max_phrases=len(proposed)
        )
        annotations = merge_detections(
            FakeDetector().detect(picture, texts, box_threshold=STORED_FROM).detections,
            candidates,
            size_hw=picture.size_hw,
            config=CONFIG,
            lexicon=LEXICON,
        )
        labels += [each.label for each in annotations if each.kept]
    outcome = compared(asked).decide(source, fixed_thresholds(CONFIG))
    assert labels
    assert outcome.labels == tuple(labels)


def test_every_phrase_and_every_decoy_is_counted_once(asked):
    _, phrases, answers = asked
    chosen = compared(asked).choose(NOUNS, false_discovery_rate=0.999)
    assert chosen.decoys == sum(len(answer.decoys) for answer in answers)
    assert sum(each.phrases for each in chosen.sources) == sum(len(each["B2"]) for each in phrases)


def test_a_rate_that_nothing_reaches_leaves_no_box(asked):
    comparison = compared(asked)
    chosen = comparison.choose(WORDS, false_discovery_rate=1e-9)
    assert comparison.decide(WORDS, chosen.by_source()).labels == ()


def test_no_decoy_is_like_a_phrase_that_is_asked(asked):
    _, phrases, answers = asked
    for listed, answer in zip(phrases, answers, strict=True):
        assert not {phrase.text for phrase in listed["B2"]} & set(answer.decoys)
        scores = best_scores(answer.shared, answer.decoys)
        assert ((scores == 0) | (scores >= STORED_FROM)).all()
