"""How many found phrases of a source are false, by the decoys, and from which score on few are.

A decoy is a phrase that nobody proposed. Of N decoys a detector answers D with a box of score t or
more. It answers phrases that are absent about as often; so of a source's A phrases, of which it
finds F, about A * (D + 1) / N are found in vain, or fewer, as not all A are absent. The one more
keeps a handful of decoys from promising what they cannot know (as in knockoffs and target-decoy
search). Phrases are counted and not boxes: a part that gets three boxes is no better proved than
one that gets one. What the estimate does not see: loose boxes, second boxes, and likenesses of
what was proposed, which deceive more often than a decoy does.

Scores are counted in steps of .001, so that a run of any size takes the same memory.
Legend: S steps of the score, 0 to 1.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from unspoken.runs.rows import Candidate, Row
from unspoken.schemas import WireModel

Source = Literal["named", "implied", "part"]
SOURCES: tuple[Source, ...] = ("named", "implied", "part")
UNDECIDED = "undecided"
"""`drop_reason` of a stored box that only its run's thresholds stand between and the dataset."""

STEPS = tuple(step / 1000 for step in range(1001))
"""Scores at which phrases are counted, and which thresholds can be."""

Thresholds = Mapping[Source, float | None]
"""Lowest score of a source's boxes; None where none of them counts."""


def wholes_of(candidate: Candidate) -> frozenset[str]:
    """Nouns that the candidate was said to be a part of; none where anything else proposed it."""
    nouns = {source.part_of for source in candidate.sources}
    if candidate.named or None in nouns:
        return frozenset()
    return frozenset(noun for noun in nouns if noun is not None)


def source_of(candidate: Candidate) -> Source:
    """Named by the caption, implied by it, or only a part that a noun's parts were asked for."""
    if candidate.named:
        return "named"
    return "part" if wholes_of(candidate) else "implied"


def false_discovery_rates(
    found: np.ndarray, decoys_found: np.ndarray, *, num_phrases: int, num_decoys: int
) -> np.ndarray:
    """Estimated share found in vain from each step on, at most 1: (S,), (S,) -> (S,).

    found, decoys_found: how many have that for their best score. NaN where none is left, or no
    decoy was asked.
    """
    left = np.cumsum(found[::-1])[::-1]
    decoys_left = np.cumsum(decoys_found[::-1])[::-1]
    rates = np.full(len(found), np.nan)
    if num_decoys:
        expected = num_phrases * (decoys_left + 1) / num_decoys
        np.divide(expected, left, out=rates, where=left > 0)
    return np.asarray(np.minimum(rates, 1.0))


def lowest_threshold(rates: np.ndarray, *, wanted: float) -> float | None:
    """The first step whose rate is at most the wanted one; None where no step's is."""
    good = np.flatnonzero(rates <= wanted)  # NaN is never good
    return STEPS[int(good[0])] if good.size else None


def _nothing() -> np.ndarray:
    return np.zeros(len(STEPS), dtype=np.int64)


@dataclass
class ScoreTally:
    """Best scores of the phrases of each source, and of the decoys, gathered row by row."""

    num_phrases: dict[Source, int] = field(default_factory=lambda: dict.fromkeys(SOURCES, 0))
    found: dict[Source, np.ndarray] = field(
        default_factory=lambda: {source: _nothing() for source in SOURCES}
    )
    num_decoys: int = 0
    decoys_found: np.ndarray = field(default_factory=_nothing)

    def add(self, row: Row) -> None:
        """Count a row's phrases, and for each the best of its undecided boxes."""
        best: dict[int, float] = {}
        for annotation in row.annotations:
            if annotation.drop_reason == UNDECIDED:
                number = annotation.candidate_id
                best[number] = max(annotation.score, best.get(number, 0.0))
        for candidate in row.candidates:
            if candidate.rejected is None:
                self.count(candidate, best.get(candidate.id))

    def count(self, candidate: Candidate, score: float | None) -> None:
        """Count one phrase or decoy that was asked; `score`: of its best box, None without any."""
        if candidate.decoy:
            self.num_decoys += 1
            found = self.decoys_found
        else:
            self.num_phrases[source_of(candidate)] += 1
            found = self.found[source_of(candidate)]
        if score is not None:
            found[bisect_right(STEPS, score) - 1] += 1

    def rates(self, source: Source) -> np.ndarray:
        """False-discovery rates of one source at every step: (S,)."""
        return false_discovery_rates(
            self.found[source],
            self.decoys_found,
            num_phrases=self.num_phrases[source],
            num_decoys=self.num_decoys,
        )


class SourceThreshold(WireModel):
    """What was chosen for one source, and what it rests on."""

    source: Source
    threshold: float | None
    """Lowest score that counts; None where no score is good enough, and no box counts."""
    phrases: int
    """Asked of the detector."""
    found: int
    """Of these, with a box at or above the threshold, before parts are sought in their wholes."""
    decoys_found: int
    false_discovery_rate: float | None


class ChosenThresholds(WireModel):
    """The thresholds of an `auto` run: `thresholds` of its manifest."""

    wanted_fdr: float
    run_id: str
    """The run whose decoys decided: a retry takes the thresholds of what it completes."""
    stored_from: float
    """No box below this score was stored, so no threshold is lower."""
    decoys: int
    sources: tuple[SourceThreshold, ...]

    @property
    def lowest(self) -> float | None:
        """From where on a box of some source counts; None where none does."""
        chosen = [each.threshold for each in self.sources if each.threshold is not None]
        return min(chosen, default=None)

    def by_source(self) -> dict[Source, float | None]:
        """Source -> its threshold."""
        return {each.source: each.threshold for each in self.sources}


class Decision(NamedTuple):
    """The thresholds of an `auto` run, and the scores that its card draws them on."""

    chosen: ChosenThresholds
    tally: ScoreTally


def choose_thresholds(
    tally: ScoreTally, *, wanted_fdr: float, stored_from: float, run_id: str
) -> ChosenThresholds:
    """For each source the lowest score from which few enough phrases are found in vain."""
    first = bisect_right(STEPS, stored_from) - 1
    chosen = []
    for source in SOURCES:
        rates = tally.rates(source)
        rates[:first] = np.nan
        threshold = lowest_threshold(rates, wanted=wanted_fdr)
        step = len(STEPS) if threshold is None else STEPS.index(threshold)
        chosen.append(
            SourceThreshold(
                source=source,
                threshold=threshold,
                phrases=tally.num_phrases[source],
                found=int(tally.found[source][step:].sum()),
                decoys_found=int(tally.decoys_found[step:].sum()),
                false_discovery_rate=None if threshold is None else float(rates[step]),
            )
        )
    return ChosenThresholds(
        wanted_fdr=wanted_fdr,
        run_id=run_id,
        stored_from=stored_from,
        decoys=tally.num_decoys,
        sources=tuple(chosen),
    )
