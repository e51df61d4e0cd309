"""Negatives: labels without detections that count as absent."""

from unspoken.runs.dataset.rows import Candidate
from unspoken.text.lexicon import load_lexicon
from unspoken.wire.detections import Detection
from unspoken.wire.pictures import Box
from worker.label.candidates import list_negatives

BOX = Box(x0=0, y0=0, x1=9, y1=9)


def negatives(*asked, found=()):
    """Compute negatives; `asked`: phrases, or (phrase, further fields of it)."""
    candidates = []
    for number, each in enumerate(asked):
        phrase, what = each if isinstance(each, tuple) else (each, {})
        fields = {"named": False, "stuff": False, "decoy": False, "sources": (), **what}
        candidates.append(Candidate(id=number, phrase=phrase, **fields))
    phrases = [candidate.phrase for candidate in candidates]
    detections = [
        Detection(phrase_index=phrases.index(phrase), phrase=phrase, box=BOX, score=0.2)
        for phrase in found
    ]
    return list_negatives(candidates, detections, load_lexicon())


def test_nothing_asked_gives_no_negatives():
    assert negatives() == ()


def test_what_was_asked_and_got_no_box_is_a_negative():
    assert negatives("wheel", "lamp", "tree", found=["lamp"]) == ("wheel", "tree")


def test_what_the_caption_names_is_none_though_the_detector_is_silent():
    assert negatives(("car", {"named": True}), "tree") == ("tree",)


def test_decoys_and_rejected_phrases_are_none():
    assert negatives(("teapot", {"decoy": True}), ("photo", {"rejected": "generic"})) == ()


def test_kin_of_what_is_there_are_none():
    assert negatives("animal", "hound", "tree", "dog", found=["dog"]) == ("tree",)
    assert negatives("puppy", "sofa", ("dog", {"named": True})) == ("sofa",)


def test_a_phrase_stands_once():
    assert negatives("tree", "tree") == ("tree",)
