"""Estimation of false-discovery rates by decoys, and the score thresholds that limit them.

A decoy is a phrase that was asked of the detector but not proposed. Of N decoys, the detector
answers D with a box of score t or more. It answers absent phrases at about the same rate. A source
has A phrases, of which the detector finds F. About A * (D + 1) / N of these are false, or fewer,
because not all A are absent. Adding one to D makes the estimate safe when there are few decoys
(as in knockoffs and target-decoy search). Phrases are counted and not boxes, because three boxes
are no better evidence of a part than one. The estimate does not cover loose boxes, second boxes,
or objects similar to a proposed phrase, which mislead the detector more often than a decoy does.

Scores are counted on a grid of 0.001, so that a run of any size takes the same memory.
Legend: S scores of the grid, 0 to 1.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from unspoken.runs.dataset.rows import Annotation, Candidate, Row
from unspoken.wire.base import FileModel

Source = Literal["named", "implied", "part"]
SOURCES: tuple[Source, ...] = ("named", "implied", "part")
UNDECIDED = "undecided"
"""`drop_reason` of a stored box until the thresholds of its run are chosen."""

SCORE_GRID = tuple(thousandths / 1000 for thousandths in range(1001))
"""Scores at which phrases are counted; every threshold is one of these."""

Thresholds = Mapping[Source, float | None]
"""Source -> lowest score of its kept boxes; None if no box is kept."""


def wholes_of(candidate: Candidate) -> frozenset[str]:
    """Return the nouns of which the candidate was proposed as a part.

    Empty if the caption names it or it was also proposed in another way.
    """
    nouns = {source.part_of for source in candidate.sources}
    if candidate.named or None in nouns:
        return frozenset()
    return frozenset(noun for noun in nouns if noun is not None)


def source_of(candidate: Candidate) -> Source:
    """Return 'named' if the caption names it, 'part' if it was only proposed as a part of a noun.

    Otherwise return 'implied'.
    """
    if candidate.named:
        return "named"
    return "part" if wholes_of(candidate) else "implied"


def annotation_source(annotation: Annotation, row: Row) -> Source:
    """Return the source of an annotation's label, by its candidate if the row has it."""
    candidate = next((each for each in row.candidates if each.id == annotation.candidate_id), None)
    if candidate is None:
        return "named" if annotation.named else "implied"
    return source_of(candidate)


def false_discovery_rates(
    found: np.ndarray, decoys_found: np.ndarray, *, num_phrases: int, num_decoys: int
) -> np.ndarray:
    """Estimate the share of false phrases at each threshold, at most 1: (S,), (S,) -> (S,).

    found, decoys_found: number of phrases and decoys whose best score is at that threshold. The
    rate is NaN if no phrase is found at or above it, or no decoy was asked.
    """
    left = np.cumsum(found[::-1])[::-1]
    decoys_left = np.cumsum(decoys_found[::-1])[::-1]
    rates = np.full(len(found), np.nan)
    if num_decoys:
        expected = num_phrases * (decoys_left + 1) / num_decoys
        np.divide(expected, left, out=rates, where=left > 0)
    return np.asarray(np.minimum(rates, 1.0))


def lowest_threshold(rates: np.ndarray, *, wanted: float) -> float | None:
    """Return the lowest threshold whose rate is at most `wanted`; None if there is none."""
    good = np.flatnonzero(rates <= wanted)  # comparisons with NaN are False
    return SCORE_GRID[int(good[0])] if good.size else None


def _nothing() -> np.ndarray:
    return np.zeros(len(SCORE_GRID), dtype=np.int64)


@dataclass
class ScoreTally:
    """Histograms of the best scores of each source's phrases and of the decoys."""

    num_phrases: dict[Source, int] = field(default_factory=lambda: dict.fromkeys(SOURCES, 0))
    found: dict[Source, np.ndarray] = field(
        default_factory=lambda: {source: _nothing() for source in SOURCES}
    )
    num_decoys: int = 0
    decoys_found: np.ndarray = field(default_factory=_nothing)

    def add(self, row: Row) -> None:
        """Count a row's phrases, each with the best score of its undecided boxes."""
        best: dict[int, float] = {}
        for annotation in row.annotations:
            if annotation.drop_reason == UNDECIDED:
                number = annotation.candidate_id
                best[number] = max(annotation.score, best.get(number, 0.0))
        for candidate in row.candidates:
            if candidate.rejected is None:
                self.count(candidate, best.get(candidate.id))

    def count(self, candidate: Candidate, score: float | None) -> None:
        """Count one phrase or decoy that was asked. `score`: of its best box; None for no box."""
        if candidate.decoy:
            self.num_decoys += 1
            found = self.decoys_found
        else:
            self.num_phrases[source_of(candidate)] += 1
            found = self.found[source_of(candidate)]
        if score is not None:
            found[bisect_right(SCORE_GRID, score) - 1] += 1

    def rates(self, source: Source) -> np.ndarray:
        """Return the false-discovery rates of one source at every threshold, (S,)."""
        return false_discovery_rates(
            self.found[source],
            self.decoys_found,
            num_phrases=self.num_phrases[source],
            num_decoys=self.num_decoys,
        )


class SourceThreshold(FileModel):
    """The threshold chosen for one source, and the counts that it is based on."""

    source: Source
    threshold: float | None
    """Lowest score of a kept box; None if no score is good enough, and then no box is kept."""
    phrases: int
    """Number of phrases asked of the detector."""
    found: int
    """Number of phrases with a box at or above the threshold, before parts outside their wholes
    are dropped."""
    decoys_found: int
    false_discovery_rate: float | None


class ChosenThresholds(FileModel):
    """The thresholds of an `auto` run, which are `thresholds` in its manifest."""

    false_discovery_rate: float
    """Largest estimated share of false labels that was asked for."""
    run_id: str
    """The run whose decoys chose the thresholds. A retry uses those of the run it completes."""
    stored_from: float
    """Lowest score of a stored box; no threshold is lower."""
    decoys: int
    sources: tuple[SourceThreshold, ...]

    @property
    def lowest(self) -> float | None:
        """Lowest threshold of any source; None if no box is kept."""
        chosen = [each.threshold for each in self.sources if each.threshold is not None]
        return min(chosen, default=None)

    def by_source(self) -> dict[Source, float | None]:
        """Return source -> its threshold."""
        return {each.source: each.threshold for each in self.sources}


class Decision(NamedTuple):
    """The thresholds of an `auto` run, and the scores that its card plots."""

    chosen: ChosenThresholds
    tally: ScoreTally


def choose_thresholds(
    tally: ScoreTally, *, false_discovery_rate: float, stored_from: float, run_id: str
) -> ChosenThresholds:
    """Choose for each source the lowest threshold whose rate is at most `false_discovery_rate`."""
    first = bisect_right(SCORE_GRID, stored_from) - 1
    chosen = []
    for source in SOURCES:
        rates = tally.rates(source)
        rates[:first] = np.nan
        threshold = lowest_threshold(rates, wanted=false_discovery_rate)
        place = len(SCORE_GRID) if threshold is None else SCORE_GRID.index(threshold)
        chosen.append(
            SourceThreshold(
                source=source,
                threshold=threshold,
                phrases=tally.num_phrases[source],
                found=int(tally.found[source][place:].sum()),
                decoys_found=int(tally.decoys_found[place:].sum()),
                false_discovery_rate=None if threshold is None else float(rates[place]),
            )
        )
    return ChosenThresholds(
        false_discovery_rate=false_discovery_rate,
        run_id=run_id,
        stored_from=stored_from,
        decoys=tally.num_decoys,
        sources=tuple(chosen),
    )
