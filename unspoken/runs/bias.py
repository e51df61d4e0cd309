"""What the language model proposes against what is there: per label, and per label of a caption.

Nobody knows what a picture shows. A detector's answers tell, once corrected by how often it
answers a decoy of that label: of the pictures for which a label was proposed, about
(found - chance) / (1 - chance) show it. Objects that the detector misses make it more, likenesses
of what was proposed, which no decoy is, make it less. Where the truth is known, it is counted
beside that.
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from unspoken.runs.rows import Candidate, Row

CAPTION = "caption"
"""The template of the caption's own nouns, which no model proposed."""
PRIOR_DECOYS = 20
"""A label's own decoys are few: the rate of all decoys counts as this many more of its own."""
MAX_PAIRS = 200_000

IsThere = Callable[[Row, str], bool | None]
"""Whether a picture shows a label; None where nobody can tell."""

Pair = tuple[str, str]
"""What the caption names, and what the model added to it."""


@dataclass
class BiasCounts:
    """Numbers of pictures, gathered row by row; the rarest pairs are forgotten beyond MAX_PAIRS."""

    pictures: int = 0
    proposed: Counter[str] = field(default_factory=Counter)
    """For which the model proposed the label, named or implied."""
    found: Counter[str] = field(default_factory=Counter)
    """Of these, in which the detector found it."""
    judged: Counter[str] = field(default_factory=Counter)
    there: Counter[str] = field(default_factory=Counter)
    """Of those proposed and judged by a truth, which show it."""
    implied: Counter[str] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)
    """Whose caption names the label."""
    pair_proposed: Counter[Pair] = field(default_factory=Counter)
    pair_found: Counter[Pair] = field(default_factory=Counter)

    def add(self, row: Row, *, reached: Collection[int], is_there: IsThere | None = None) -> None:
        """Count a labelled row; `reached`: ids of the candidates that the detector found."""
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
        """How many times as often the model adds the label to that noun as to any caption."""
        noun, label = pair
        with_noun = self.pair_proposed[pair] / self.named[noun]
        return with_noun / (self.implied[label] / self.pictures)

    def _forget_rare_pairs(self) -> None:
        # Captions' words have a long tail: half of all pairs are seen once, and none of those is a
        # habit of the model.
        kept = dict(self.pair_proposed.most_common(MAX_PAIRS // 2))
        self.pair_proposed = Counter(kept)
        self.pair_found = Counter({pair: self.pair_found[pair] for pair in kept})


def _by_model(candidate: Candidate) -> bool:
    return any(source.template != CAPTION for source in candidate.sources)


def chance_rate(asked: int, answered: int, *, overall: float) -> float:
    """How often the detector answers a label that is absent, drawn towards all labels' rate."""
    return (answered + PRIOR_DECOYS * overall) / (asked + PRIOR_DECOYS)


def share_there(proposed: int, found: int, *, chance: float) -> float:
    """Estimate: share of the pictures that a label was proposed for and that show it."""
    if chance >= 1:
        return 0.0
    return max(0.0, (found / proposed - chance) / (1 - chance))
