"""False-discovery rates on constructed scores, and the thresholds that follow from them."""

import numpy as np
import pytest

from tests.unspoken.runs.rows import annotation, candidate, labelled_row
from unspoken.runs.dataset.false_discovery import (
    SCORE_GRID,
    UNDECIDED,
    ScoreTally,
    choose_thresholds,
    false_discovery_rates,
    lowest_threshold,
    source_of,
)
from unspoken.wire.proposals import PhraseSource


def counted(*scores):
    """Convert scores in thousandths to counts by step."""
    return np.bincount(scores, minlength=len(SCORE_GRID))


def row_of(*found, asked=(), decoys=0):
    """Return a row with one undecided box per (kind, score), and candidates without boxes."""
    part = (PhraseSource(template="noun_parts", part_of="car"),)
    kinds = {
        "named": {},
        "implied": {"named": False},
        "part": {"named": False, "sources": part},
        "decoy": {"named": False, "decoy": True},
    }
    whats = [what for what, _ in found] + [*asked] + ["decoy"] * decoys
    candidates = tuple(
        candidate(number, f"thing {number}", **kinds[what]) for number, what in enumerate(whats)
    )
    boxes = tuple(
        annotation(
            number,
            (0, 0, 9, 9),
            f"thing {number}",
            score,
            candidate_id=number,
            decoy=what == "decoy",
            drop=UNDECIDED,
        )
        for number, (what, score) in enumerate(found)
    )
    return labelled_row(0).model_copy(update={"candidates": candidates, "annotations": boxes})


def tally_of(*rows):
    tally = ScoreTally()
    for row in rows:
        tally.add(row)
    return tally


def chosen(tally, *, wanted=0.1, stored_from=0.0):
    return choose_thresholds(
        tally, false_discovery_rate=wanted, stored_from=stored_from, run_id="r"
    )


def test_nothing_found_has_no_rate_and_no_threshold():
    rates = false_discovery_rates(counted(), counted(), num_phrases=0, num_decoys=4)
    assert np.isnan(rates).all()
    assert lowest_threshold(rates, wanted=1.0) is None


def test_without_decoys_nothing_is_known():
    rates = false_discovery_rates(counted(500, 900), counted(), num_phrases=2, num_decoys=0)
    assert np.isnan(rates).all()


def test_the_rate_is_how_often_as_many_decoys_would_be_found_over_what_was_found():
    found, decoys = counted(300, 300, 800, 800, 800), counted(300, 300, 300, 500)
    rates = false_discovery_rates(found, decoys, num_phrases=10, num_decoys=100)
    # 10 phrases: a tenth of (the found decoys + 1), divided by the found phrases.
    assert rates[300] == pytest.approx(0.1 * (4 + 1) / 5)
    assert rates[301] == rates[500] == pytest.approx(0.1 * (1 + 1) / 3)
    assert rates[501] == rates[800] == pytest.approx(0.1 * (0 + 1) / 3)
    assert np.isnan(rates[801:]).all()


def test_a_rate_is_never_over_one():
    rates = false_discovery_rates(counted(100), counted(*[900] * 9), num_phrases=9, num_decoys=9)
    assert rates[100] == 1.0


@pytest.mark.parametrize(
    ("wanted", "threshold"),
    [
        pytest.param(1.0, 0.0, id="anything-goes"),
        pytest.param(0.1, 0.3, id="above-most-decoys"),
        pytest.param(0.02, 0.501, id="above-all-decoys"),
        pytest.param(0.001, None, id="more-than-the-decoys-can-tell"),
    ],
)
def test_the_threshold_is_the_lowest_that_is_good_enough(wanted, threshold):
    found = counted(*[299] * 10, *[900] * 20)
    decoys = counted(*[299] * 30, 500)
    rates = false_discovery_rates(found, decoys, num_phrases=50, num_decoys=200)
    assert lowest_threshold(rates, wanted=wanted) == threshold


def test_a_lower_wanted_rate_never_gives_a_lower_threshold():
    draw = np.random.default_rng(5)
    found = counted(*draw.integers(0, 1001, 500))
    decoys = counted(*draw.integers(0, 600, 300))
    rates = false_discovery_rates(found, decoys, num_phrases=400, num_decoys=800)
    chosen_at = [lowest_threshold(rates, wanted=wanted) for wanted in (0.5, 0.2, 0.1, 0.05, 0.02)]
    assert None not in chosen_at and chosen_at == sorted(chosen_at)


def test_a_part_is_what_nothing_but_a_whole_proposed():
    part = PhraseSource(template="noun_parts", part_of="car")
    other = PhraseSource(template="parts")
    sources = {"named": False, "sources": (part,)}
    assert source_of(candidate(0, "wheel", **sources)) == "part"
    assert source_of(candidate(0, "wheel", named=False, sources=(part, other))) == "implied"
    assert source_of(candidate(0, "wheel", named=False)) == "implied"
    assert source_of(candidate(0, "wheel", sources=(part,))) == "named"


def test_each_source_gets_its_own_threshold():
    named = [row_of(*[("named", 0.4)] * 8, decoys=10) for _ in range(10)]
    implied = [row_of(*[("implied", 0.8)] * 4, asked=["implied"] * 16) for _ in range(10)]
    false = row_of(*[("decoy", 0.3)] * 10, *[("decoy", 0.6)] * 2)
    found = chosen(tally_of(*named, *implied, false)).by_source()
    # 112 decoys. Behind .3, 2.1 of the 80 named boxes are false, and 5.4 of the 40 implied.
    assert found == {"named": 0.301, "implied": 0.601, "part": None}


def test_a_phrase_counts_once_by_the_best_of_its_boxes():
    (box,) = row_of(("part", 0.5)).annotations
    more = tuple(box.model_copy(update={"score": score}) for score in (0.2, 0.7, 0.6))
    tally = tally_of(row_of(("part", 0.5)).model_copy(update={"annotations": (box, *more)}))
    assert tally.found["part"].sum() == tally.found["part"][700] == 1


def test_a_box_that_only_its_shape_disqualifies_is_not_counted():
    row = row_of(("named", 0.5), ("decoy", 0.5))
    small = tuple(each.model_copy(update={"drop_reason": "too_small"}) for each in row.annotations)
    tally = tally_of(row.model_copy(update={"annotations": small}))
    assert (tally.num_phrases["named"], tally.num_decoys) == (1, 1)
    assert not tally.found["named"].any() and not tally.decoys_found.any()


def test_a_rejected_phrase_was_not_asked():
    row = labelled_row(0).model_copy(update={"annotations": ()})
    assert tally_of(row).num_phrases == {"named": 1, "implied": 1, "part": 0}


def test_what_was_chosen_says_what_it_rests_on():
    rows = [row_of(*[("named", 0.75)] * 5, ("decoy", 0.25), decoys=9) for _ in range(4)]
    found = chosen(tally_of(*rows), wanted=0.05, stored_from=0.1)
    named = found.sources[0]
    assert (found.decoys, found.stored_from, found.false_discovery_rate) == (40, 0.1, 0.05)
    assert (named.threshold, named.phrases, named.found, named.decoys_found) == (0.251, 20, 20, 0)
    assert named.false_discovery_rate == pytest.approx(1 / 40)


def test_no_threshold_is_below_what_was_stored():
    rows = [row_of(*[("named", 0.75)] * 5, decoys=10) for _ in range(4)]
    assert chosen(tally_of(*rows), stored_from=0.145).by_source()["named"] == 0.145


@pytest.mark.parametrize("thousandths", [1, 290, 570, 579, 999])
def test_a_box_on_the_threshold_is_counted_as_it_is_kept(thousandths):
    score = SCORE_GRID[thousandths]
    tally = tally_of(row_of(("named", score)))
    assert tally.found["named"][thousandths] == 1
