"""The noun lexicon: words that name a visible thing, with singulars, synonyms and hypernyms.

scripts/build_lexicon.py made `unspoken/data/nouns.txt` from WordNet 3.0. The lexicon is general and
not made for any data set. A word that it lacks is unknown, not necessarily invisible.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files


def words(text: str) -> frozenset[str]:
    """Return the words of a block of text, the format of the lists below."""
    return frozenset(text.split())


# Nouns in plural form that name one thing; "glass" and "stair" are different things.
PLURAL_ONLY = words(
    """
    glasses sunglasses eyeglasses goggles scissors trousers pants jeans shorts tights leggings
    pajamas stairs binoculars pliers tweezers tongs shears headphones earphones earbuds overalls
    sneakers dungarees clippers spectacles
    """
)

# Amorphous regions. They are detected, but are not used as training instances.
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
    """Lemmas of one or two words (separated by a space), their meanings, and irregular plurals.

    Instances compare by identity, so that results derived from one can be cached.
    """

    synonyms: Mapping[str, frozenset[str]]
    """Lemma -> lemmas with the same meaning, including itself."""
    plurals: Mapping[str, str]
    hypernyms: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Lemma -> frequent words for more general things: puppy -> dog, animal."""
    frequencies: Mapping[str, int] = field(default_factory=dict)
    """Lemma -> base-2 logarithm of its frequency in the British National Corpus."""

    def knows(self, lemma: str) -> bool:
        """Return True if this singular names a visible thing."""
        return lemma in self.synonyms

    def singular(self, word: str) -> str:
        """Return the singular of one lower-case word, or the word itself if it is singular."""
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
        """Return the lemma and its synonyms."""
        return self.synonyms.get(lemma, frozenset({lemma}))

    def hypernyms_of(self, lemma: str) -> frozenset[str]:
        """Return words for more general things than the lemma or a synonym of it."""
        nothing: frozenset[str] = frozenset()
        return nothing.union(*(self.hypernyms.get(s, nothing) for s in self.synonyms_of(lemma)))

    def may_name_same_thing(self, first: str, second: str) -> bool:
        """Return True if two phrases may name the same thing.

        That is so if the head of one is a synonym or hypernym of the other's head. Two phrases with
        the same head also qualify: a red car and a racing car.
        """
        one, other = self.head(first), self.head(second)
        return bool(
            self.synonyms_of(one) & (self.synonyms_of(other) | self.hypernyms_of(other))
            or self.synonyms_of(other) & self.hypernyms_of(one)
        )

    def head(self, phrase: str) -> str:
        """Return the head of a normalised phrase: its longest known ending, or its last word."""
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
    """Parse the lines of nouns.txt: '#' comments, groups of synonyms, plural>singular.

    A group's lemmas may be followed by its hypernyms, each after a '<', and its frequency, after an
    '='.
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
    """Return the lexicon of the package; it is read once per process."""
    text = files("unspoken").joinpath("data/nouns.txt").read_text(encoding="utf-8")
    return parse_lexicon([*text.splitlines(), *sorted(PLURAL_ONLY | STUFF)])
