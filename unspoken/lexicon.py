"""The noun lexicon: which words name a visible thing, their singulars and their synonyms.

`unspoken/data/nouns.txt` was made from WordNet 3.0 by scripts/build_lexicon.py. It is general:
it knows no data set. What it does not hold is unknown, not invisible.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Lexicon:
    """Lemmas of one or two words (a space between) with their synonyms, and irregular plurals."""

    synonyms: Mapping[str, frozenset[str]]
    """Lemma -> the lemmas that mean the same thing, itself among them."""
    plurals: Mapping[str, str]

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
    """Read the lines of nouns.txt: '#' comments, groups of synonyms, plural>singular."""
    synonyms: dict[str, frozenset[str]] = {}
    plurals: dict[str, str] = {}
    for line in lines:
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if ">" in line:
            plural, singular = line.split(">")
            plurals[plural] = singular
            continue
        group = frozenset(lemma.replace("_", " ") for lemma in line.split())
        for lemma in group:
            synonyms[lemma] = synonyms.get(lemma, frozenset()) | group
    return Lexicon(synonyms=synonyms, plurals=plurals)


@cache
def load_lexicon() -> Lexicon:
    """The lexicon that comes with the package; read once a process."""
    text = files("unspoken").joinpath("data/nouns.txt").read_text(encoding="utf-8")
    return parse_lexicon([*text.splitlines(), *sorted(PLURAL_ONLY | STUFF)])
