"""Comparison of sources with the same detector, threshold rules and merging, counted per picture.

There are three settings: the product's fixed thresholds; thresholds chosen by decoys for each
source at one false-discovery rate, as in an `auto` run; and equal numbers of queries.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.collections.collection import CaptionedPicture, Collection
from experiments.found_boxes import STORED_FROM, AskedPicture, FoundBoxes
from experiments.judging import count_picture
from experiments.phrase_sources import Phrases
from experiments.sources import Source, SourceName
from unspoken.runs.dataset.false_discovery import (
    ChosenThresholds,
    ScoreTally,
    Thresholds,
    choose_thresholds,
    source_of,
)
from unspoken.runs.dataset.rows import Annotation, Candidate
from unspoken.runs.plan import LabelConfig
from unspoken.text.lexicon import Lexicon
from unspoken.wire.proposals import Proposal
from worker.label.candidates import list_candidates
from worker.label.merging import decide_annotations

VOCABULARY_SOURCE = "B4"


@dataclass(frozen=True)
class Outcome:
    """The result of one source with one set of thresholds."""

    counts: np.ndarray  # (P, C) of judging.COLUMNS
    labels: tuple[str, ...]
    """Labels of all kept boxes."""


class Comparison:
    """Detected pictures, to which any thresholds can be applied."""

    def __init__(
        self,
        collection: Collection,
        phrases: Sequence[Mapping[SourceName, Phrases]],
        asked: Sequence[AskedPicture],
        *,
        config: LabelConfig,
        lexicon: Lexicon,
    ) -> None:
        """Create a comparison; `phrases` and `asked` have one entry per picture, in order."""
        self._collection = collection
        self._phrases = phrases
        self._asked = asked
        self._config = config
        self._lexicon = lexicon
        self._candidates: dict[SourceName, list[tuple[Candidate, ...]]] = {}

    def choose(self, source: Source, *, false_discovery_rate: float) -> ChosenThresholds:
        """Choose thresholds of named, implied and part labels from scores of phrases and decoys."""
        tally = ScoreTally()
        for candidates, asked in zip(self._listed(source), self._asked, strict=True):
            boxes = _boxes_of(source, asked)
            for candidate in candidates:
                found = boxes[candidate.phrase]
                tally.count(candidate, found[0].score if found else None)
        return choose_thresholds(
            tally,
            false_discovery_rate=false_discovery_rate,
            stored_from=STORED_FROM,
            run_id=source.name,
        )

    def decide(self, source: Source, thresholds: Thresholds) -> Outcome:
        """Apply thresholds to a source's boxes and count the kept boxes against the truth."""
        rows, labels = [], []
        for index, captioned in enumerate(self._collection.pictures):
            kept = self._kept(source, index, thresholds)
            labels += [box.label for box in kept]
            rows.append(
                count_picture(
                    [phrase.text for phrase in self._phrases[index][source.name]],
                    kept,
                    captioned.truth,
                    self._collection.matcher,
                    meaning=_meaning(source, captioned),
                )
            )
        return Outcome(np.stack(rows), tuple(labels))

    def _listed(self, source: Source) -> list[tuple[Candidate, ...]]:
        if source.name not in self._candidates:
            self._candidates[source.name] = [
                list_candidates(
                    Proposal(phrases=phrases[source.name]),
                    asked.decoys,
                    max_phrases=len(phrases[source.name]),
                )
                for phrases, asked in zip(self._phrases, self._asked, strict=True)
            ]
        return self._candidates[source.name]

    def _kept(self, source: Source, index: int, thresholds: Thresholds) -> list[Annotation]:
        """Return the kept boxes, decided and merged by the worker's own rules."""
        candidates, asked = self._listed(source)[index], self._asked[index]
        boxes = _boxes_of(source, asked)
        likely: list[Annotation] = []
        for candidate in candidates:
            needed = thresholds[source_of(candidate)]
            if candidate.decoy or needed is None:
                continue
            found = boxes[candidate.phrase][: 1 if source.single_box else None]
            # The rules below would drop boxes under the threshold too, only later.
            likely += [
                _annotation(candidate, box.score, box.box_xyxy)
                for box in found
                if box.score >= needed
            ]
        likely.sort(key=lambda each: (-each.score, each.candidate_id, *each.box))
        decided = decide_annotations(
            likely,
            candidates,
            size_hw=asked.size_hw,
            config=self._config,
            lexicon=self._lexicon,
            thresholds=thresholds,
        )
        return [each for each in decided if each.kept]


def _boxes_of(source: Source, asked: AskedPicture) -> FoundBoxes:
    return asked.vocabulary if source.name == VOCABULARY_SOURCE else asked.shared


def _meaning(source: Source, captioned: CaptionedPicture) -> Callable[[str], frozenset[str]] | None:
    """Return the meaning of B0's query, all labels that the caption names; None for others."""
    if not source.single_box:
        return None
    return lambda _: captioned.truth.named


def _annotation(
    candidate: Candidate, score: float, box: tuple[float, float, float, float]
) -> Annotation:
    return Annotation(
        id=0,
        box=box,
        label=candidate.phrase,
        score=score,
        candidate_id=candidate.id,
        named=candidate.named,
        stuff=candidate.stuff,
        decoy=candidate.decoy,
        kept=False,
    )
