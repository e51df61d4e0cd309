"""Counts of the labels that the language model proposes against those that pictures show.

The counts are per label, and per pair of a noun in the caption and a label that the model adds.
What a picture really shows is unknown. It is estimated from the detector's answers, corrected by
the rate at which the detector answers a decoy of the same label. Of the pictures for which a label
was proposed, about (found - chance) / (1 - chance) show it. The true share is higher if the
detector misses objects. It is lower if pictures show things similar to the label, because decoys
are not similar to what a picture shows. Where ground truth is known, it is counted as well.
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from unspoken.runs.dataset.rows import Candidate, Row

CAPTION = "caption"
"""Template name of the caption's own nouns, which no model proposed."""
PRIOR_DECOYS = 20
"""Weight of the rate of all decoys, in decoys, because a single label has few decoys."""
MAX_PAIRS = 200_000

IsThere = Callable[[Row, str], bool | None]
"""Returns True if a picture shows a label; None if that is unknown."""

Pair = tuple[str, str]
"""A noun that the caption names, and a label that the model added to it."""


@dataclass
class BiasCounts:
    """Counts of pictures, added row by row. Beyond MAX_PAIRS, the rarest pairs are dropped."""

    pictures: int = 0
    proposed: Counter[str] = field(default_factory=Counter)
    """Label -> pictures for which the model proposed it, named or implied."""
    found: Counter[str] = field(default_factory=Counter)
    """Label -> pictures for which it was proposed and in which the detector found it."""
    judged: Counter[str] = field(default_factory=Counter)
    """Label -> pictures for which it was proposed and ground truth is known."""
    there: Counter[str] = field(default_factory=Counter)
    """Label -> judged pictures that show it."""
    implied: Counter[str] = field(default_factory=Counter)
    """Label -> pictures for which the model proposed it as implied."""
    named: Counter[str] = field(default_factory=Counter)
    """Label -> pictures whose caption names it."""
    pair_proposed: Counter[Pair] = field(default_factory=Counter)
    pair_found: Counter[Pair] = field(default_factory=Counter)

    def add(self, row: Row, *, reached: Collection[int], is_there: IsThere | None = None) -> None:
        """Count a labelled row. `reached`: ids of the candidates that the detector found."""
        asked = [each for each in row.candidates if each.rejected is None and not each.decoy]
        proposed = [each for each in asked if _by_model(each)]
        implied = {each.phrase: each.id in reached for each in proposed if not each.named}
        named = {each.phrase for each in asked if each.named}
        self.pictures += 1
        self.named.update(named)
        self.implied.update(implied.keys())
        for phrase in {each.phrase for each in proposed}:
            self.proposed[phrase] += 1
            there = is_there(row, phrase) if is_there else None
            self.judged.update([] if there is None else [phrase])
            self.there.update([phrase] if there else [])
        self.found.update({each.phrase for each in proposed if each.id in reached})
        for noun in named:
            for phrase, was_found in implied.items():
                self.pair_proposed[noun, phrase] += 1
                self.pair_found[noun, phrase] += was_found
        if len(self.pair_proposed) > MAX_PAIRS:
            self._forget_rare_pairs()

    def lift(self, pair: Pair) -> float:
        """Return the rate at which the model adds the label to that noun, over its overall rate."""
        noun, label = pair
        with_noun = self.pair_proposed[pair] / self.named[noun]
        return with_noun / (self.implied[label] / self.pictures)

    def _forget_rare_pairs(self) -> None:
        # Words in captions have a long tail: half of all pairs occur once, and a pair that occurs
        # once shows no bias of the model.
        kept = dict(self.pair_proposed.most_common(MAX_PAIRS // 2))
        self.pair_proposed = Counter(kept)
        self.pair_found = Counter({pair: self.pair_found[pair] for pair in kept})


def _by_model(candidate: Candidate) -> bool:
    return any(source.template != CAPTION for source in candidate.sources)


def chance_rate(asked: int, answered: int, *, overall: float) -> float:
    """Estimate the rate at which the detector answers an absent label.

    The label's own rate is shrunk towards `overall`, the rate of all labels.
    """
    return (answered + PRIOR_DECOYS * overall) / (asked + PRIOR_DECOYS)


def share_there(proposed: int, found: int, *, chance: float) -> float:
    """Estimate the share of the pictures for which a label was proposed that show it."""
    if chance >= 1:
        return 0.0
    return max(0.0, (found / proposed - chance) / (1 - chance))
