from experiments.collections.truth import LabelMatcher, PictureTruth
from smallworld.truth import TruthObject
from unspoken.text.lexicon import load_lexicon


def matcher():
    return LabelMatcher(
        ["car", "grapes", "traffic light", "wheel"],
        synonyms={"car": ("motorcar", "jalopy"), "traffic light": ("stoplight",)},
        lexicon=load_lexicon(),
    )


def test_a_phrase_means_the_label_that_it_spells_in_singular_or_plural():
    assert matcher().spelled("cars") == {"car"}
    assert matcher().spelled("grape") == {"grapes"}
    assert matcher().spelled("red car") == set()


def test_a_phrase_means_what_its_head_or_a_synonym_says():
    assert matcher().meant("small red cars,") == {"car"}
    assert matcher().meant("jalopy") == {"car"}
    assert matcher().meant("automobile") == {"car"}  # by the lexicon
    assert matcher().meant("steering wheel") == set()
    assert matcher().meant("car parked") == set()


def test_a_hypernym_is_told_apart_from_what_it_is_above():
    dogs = LabelMatcher(["dog", "car"], synonyms={}, lexicon=load_lexicon())
    assert dogs.below("big animals") == {"dog"}
    assert dogs.meant("animal") == set()


def truth(**what):
    return PictureTruth(
        objects=(TruthObject("car", (0, 0, 9, 9), is_part=False),), named=frozenset(), **what
    )


def test_an_exact_truth_refutes_every_label_that_is_not_open():
    exact = truth(open_labels=frozenset({"wheel"}))
    assert exact.can_refute(frozenset())
    assert exact.can_refute(frozenset({"car"}))
    assert not exact.can_refute(frozenset({"wheel"}))


def test_a_closed_truth_refutes_only_labels_of_its_own():
    closed = truth(closed_labels=frozenset({"car", "dog"}), open_labels=frozenset({"dog"}))
    assert closed.can_refute(frozenset({"car"}))
    assert not closed.can_refute(frozenset({"dog"}))
    assert not closed.can_refute(frozenset({"wheel"}))
    assert not closed.can_refute(frozenset())
