"""Bias statistics: labels that the model proposes too often, from rows with known answers."""

import pytest

from tests.unspoken.runs.rows import annotation, candidate, labelled_row
from unspoken.runs.dataset import bias
from unspoken.runs.dataset.bias import BiasCounts, chance_rate, share_there
from unspoken.runs.dataset.bias_page import render_bias_page
from unspoken.runs.dataset.manifest import count_dataset
from unspoken.wire.proposals import PhraseSource

MODEL = (PhraseSource(template="parts", model="fake-llm"),)
CAPTION = (PhraseSource(template="caption"),)


def row(index, *, adds, found=(), decoys=(), answered=()):
    """Return a row whose caption names a car; the detector finds some of the model's labels."""
    phrases = [candidate(0, "car", sources=CAPTION)]
    phrases += [
        candidate(n, phrase, named=False, sources=MODEL) for n, phrase in enumerate(adds, start=1)
    ]
    phrases += [
        candidate(n, phrase, named=False, decoy=True)
        for n, phrase in enumerate(decoys, start=len(phrases))
    ]
    boxes = [
        annotation(
            n, (0, 0, 9, 9), each.phrase, 0.9, candidate_id=each.id, named=False, decoy=each.decoy
        )
        for n, each in enumerate(phrases)
        if each.phrase in (answered if each.decoy else found)
    ]
    update = {"candidates": tuple(phrases), "annotations": tuple(boxes)}
    return labelled_row(index).model_copy(update=update)


def line_of(page, *cells):
    start = "| " + " | ".join(cells) + " |"
    (line,) = [line for line in page.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_without_rows_the_page_says_that_nothing_was_proposed():
    assert "proposed nothing" in render_bias_page(count_dataset([], box_threshold=0.3))


def test_a_label_that_the_detector_never_finds_was_proposed_in_vain():
    rows = [row(n, adds=("wheel", "driver"), found=("wheel",)) for n in range(10)]
    page = render_bias_page(count_dataset(rows, box_threshold=0.3))
    cells = ["driver", "10", "100.0%", "0.0%", "-", "0.0%", "10", "-"]
    assert line_of(page, "driver") == cells
    assert line_of(page, "wheel")[5:] == ["100.0%", "0", "100.0%"]
    assert page.index("| driver |") < page.index("| wheel |")


def test_what_a_decoy_explains_is_not_there():
    """The detector finds 'tree' half of the time, whether it was proposed or not."""
    proposed = [row(n, adds=("tree",), found=("tree",) if n % 2 else ()) for n in range(100)]
    decoys = [
        row(n, adds=(), decoys=("tree",), answered=("tree",) if n % 2 else ()) for n in range(100)
    ]
    page = render_bias_page(count_dataset(proposed + decoys, box_threshold=0.3))
    assert line_of(page, "tree")[1:7] == ["100", "50.0%", "50.0%", "50.0%", "0.0%", "100"]


def test_nouns_of_the_caption_are_no_proposals_of_the_model():
    counts = count_dataset([row(0, adds=("wheel",))], box_threshold=0.3)
    assert counts.bias.proposed == {"wheel": 1} and counts.bias.named == {"car": 1}


def test_a_pair_that_the_model_adds_by_habit_is_told_with_how_often_it_is_there():
    rows = [row(n, adds=("driver",), found=("driver",) if n < 2 else ()) for n in range(8)]
    rows += [row(n, adds=()) for n in range(8)]
    page = render_bias_page(count_dataset(rows, box_threshold=0.3))
    cells = ["car", "driver", "8", "50.0%", "1.0", "25.0%", "25.0%", "6"]
    assert line_of(page, "car", "driver") == cells


def test_a_pair_seen_a_few_times_is_no_habit():
    rows = [row(n, adds=("driver",)) for n in range(4)]
    assert "No label was proposed" in render_bias_page(count_dataset(rows, box_threshold=0.3))


def test_rare_pairs_are_forgotten_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr(bias, "MAX_PAIRS", 10)
    counts = BiasCounts()
    for n in range(50):
        counts.add(row(n, adds=("wheel", f"thing {n}")), reached={1})
    assert len(counts.pair_proposed) <= 10
    assert counts.pair_proposed["car", "wheel"] == counts.pair_found["car", "wheel"] == 50


@pytest.mark.parametrize(
    ("proposed", "found", "chance", "share"),
    [(10, 10, 0.0, 1.0), (10, 5, 0.5, 0.0), (10, 1, 0.5, 0.0), (10, 7, 0.4, 0.5), (3, 3, 1.0, 0.0)],
)
def test_chance_is_taken_off_what_was_found(proposed, found, chance, share):
    assert share_there(proposed, found, chance=chance) == pytest.approx(share)


def test_a_label_with_few_decoys_has_the_rate_of_all():
    assert chance_rate(0, 0, overall=0.25) == 0.25
    assert chance_rate(1, 1, overall=0.0) == pytest.approx(1 / 21)
    assert chance_rate(10_000, 5_000, overall=0.0) == pytest.approx(0.5, abs=0.01)


def test_the_truth_is_counted_where_it_is_known():
    rows = [row(n, adds=("wheel", "driver")) for n in range(3)]
    truth = {"wheel": True, "driver": None}
    counts = count_dataset(rows, box_threshold=0.3, is_there=lambda _, label: truth[label])
    page = render_bias_page(counts)
    assert line_of(page, "wheel")[-1] == "3 of 3"
    assert line_of(page, "driver")[-1] == "-"
