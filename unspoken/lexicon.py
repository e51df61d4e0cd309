"""The noun lexicon: which words name a visible thing, their singulars, synonyms and hypernyms.

`unspoken/data/nouns.txt` was made from WordNet 3.0 by scripts/build_lexicon.py. It is general:
it knows no data set. What it does not hold is unknown, not invisible.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files


def words(text: str) -> frozenset[str]:
    """The words of a block of text: how the lists below are written."""
    return frozenset(text.split())


# These name one thing though they look like plurals; "glass" and "stair" are other things.
PLURAL_ONLY = words(
    """
    glasses sunglasses eyeglasses goggles scissors trousers pants jeans shorts tights leggings
    pajamas stairs binoculars pliers tweezers tongs shears headphones earphones earbuds overalls
    sneakers dungarees clippers spectacles
    """
)

# Regions without a shape of their own: detected, but no instances to train on.
STUFF = words(
    """
    sky cloud fog mist smoke steam sunlight shadow rain snow ice grass lawn meadow field foliage
    moss hay straw sand soil mud dirt gravel clay ground floor ceiling wall road street highway
    path pavement sidewalk asphalt concrete water sea ocean river lake pond stream waterfall
    beach shore coast mountain hill valley desert forest wood city park garden horizon carpet
    rug tile brick stone rock dust fabric cloth metal plastic marble granite
    """
)

_REGULAR_PLURALS = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", ""))


@dataclass(frozen=True, eq=False)
class Lexicon:
    """Lemmas of one or two words (a space between), what they mean, and irregular plurals.

    One is equal to itself alone, so that what follows from it can be kept.
    """

    synonyms: Mapping[str, frozenset[str]]
    """Lemma -> the lemmas that mean the same thing, itself among them."""
    plurals: Mapping[str, str]
    hypernyms: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Lemma -> frequent words for anything more general: puppy -> dog, animal."""
    frequencies: Mapping[str, int] = field(default_factory=dict)
    """Lemma -> logarithm to base 2 of how often the British National Corpus has it."""

    def knows(self, lemma: str) -> bool:
        """Whether this singular names a visible thing."""
        return lemma in self.synonyms

    def singular(self, word: str) -> str:
        """The singular of one lower-case word; the word itself where it is one already."""
        if word in PLURAL_ONLY:
            return word
        if word in self.plurals:
            return self.plurals[word]
        if self.knows(word) or not word.endswith("s"):
            return word
        for candidate in _undo_plural(word):
            if self.knows(candidate):
                return candidate
        if word.endswith(("ss", "us", "is")) or len(word) < 4:
            return word
        return next(c for c in _undo_plural(word) if c != word)

    def synonyms_of(self, lemma: str) -> frozenset[str]:
        """The lemma and its synonyms."""
        return self.synonyms.get(lemma, frozenset({lemma}))

    def hypernyms_of(self, lemma: str) -> frozenset[str]:
        """Words for anything more general than the lemma or a synonym of it."""
        nothing: frozenset[str] = frozenset()
        return nothing.union(*(self.hypernyms.get(s, nothing) for s in self.synonyms_of(lemma)))

    def are_kin(self, first: str, second: str) -> bool:
        """Whether two phrases may be words for one thing: one's head means or includes the other's.

        So are two phrases of one head: a red car and a racing car.
        """
        one, other = self.head(first), self.head(second)
        return bool(
            self.synonyms_of(one) & (self.synonyms_of(other) | self.hypernyms_of(other))
            or self.synonyms_of(other) & self.hypernyms_of(one)
        )

    def head(self, phrase: str) -> str:
        """The head of a normalised phrase: its longest known ending, else its last word."""
        words = phrase.split()
        for start in range(len(words)):
            ending = " ".join(words[start:])
            if self.knows(ending):
                return ending
        return words[-1] if words else ""


def _undo_plural(word: str) -> list[str]:
    return [
        word[: -len(suffix)] + singular
        for suffix, singular in _REGULAR_PLURALS
        if word.endswith(suffix) and len(word) > len(suffix) + 1
    ]


def parse_lexicon(lines: Iterable[str]) -> Lexicon:
    """Read the lines of nouns.txt: '#' comments, groups of synonyms, plural>singular.

    After a group's lemmas may come its hypernyms, each behind a '<', and '=' with its frequency.
    """
    synonyms: dict[str, frozenset[str]] = {}
    hypernyms: dict[str, frozenset[str]] = {}
    frequencies: dict[str, int] = {}
    plurals: dict[str, str] = {}
    for line in lines:
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if ">" in line:
            plural, singular = line.split(">")
            plurals[plural] = singular
            continue
        words = [word.replace("_", " ") for word in line.split()]
        group = frozenset(word for word in words if word[0] not in "<=")
        above = frozenset(word[1:] for word in words if word[0] == "<")
        frequency = max((int(word[1:]) for word in words if word[0] == "="), default=0)
        for lemma in group:
            synonyms[lemma] = synonyms.get(lemma, frozenset()) | group
            hypernyms[lemma] = hypernyms.get(lemma, frozenset()) | above
            frequencies[lemma] = max(frequencies.get(lemma, 0), frequency)
    return Lexicon(synonyms=synonyms, plurals=plurals, hypernyms=hypernyms, frequencies=frequencies)


@cache
def load_lexicon() -> Lexicon:
    """The lexicon that comes with the package; read once a process."""
    text = files("unspoken").joinpath("data/nouns.txt").read_text(encoding="utf-8")
    return parse_lexicon([*text.splitlines(), *sorted(PLURAL_ONLY | STUFF)])
