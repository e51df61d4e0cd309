"""The tables of phrases that the demo prints."""

import io

from rich.console import Console

from cli.demo.tables import phrase_table, source_table
from tests.unspoken.runs.rows import annotation, candidate, labelled_row
from unspoken.wire.proposals import PhraseSource

CAPTION, PARTS = PhraseSource(template="caption"), PhraseSource(template="parts", model="m")
ROW = labelled_row(0).model_copy(
    update={
        "candidates": (
            candidate(0, "car", sources=(CAPTION, PARTS)),
            candidate(1, "wheel", named=False, sources=(PARTS,)),
            candidate(2, "love", named=False, sources=(PARTS,), rejected="abstract"),
            candidate(3, "volcano", decoy=True),
            candidate(4, "road", named=False, sources=(PARTS,)),
        ),
        "annotations": (
            annotation(0, (0, 0, 20, 20), "car", 0.8),
            annotation(1, (0, 0, 9, 9), "wheel", 0.2, candidate_id=1, drop="below_threshold"),
        ),
    }
)


def printed(table) -> list[str]:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return [" ".join(line.split("│")).split() for line in console.file.getvalue().splitlines()]


def test_a_source_tells_how_many_of_its_phrases_were_named_implied_found_and_rejected():
    lines = printed(source_table([ROW]))
    assert ["caption", "1", "1"] in lines
    assert ["parts", "1", "2", "1", "1"] in lines


def test_every_phrase_of_a_picture_says_where_it_came_from_and_what_became_of_it():
    lines = printed(phrase_table([ROW]))
    assert ["car", "named", "caption,", "parts", "1", "found,", "best", "0.80"] in lines
    assert ["wheel", "implied", "parts", "not", "kept:", "below_threshold,", "0.20"] in lines
    assert ["love", "implied", "parts", "rejected:", "abstract"] in lines
    assert ["road", "implied", "parts", "not", "found"] in lines
    assert not any("volcano" in line for line in lines)


def test_a_run_without_pictures_has_no_phrases_to_show():
    assert phrase_table([]) is None
