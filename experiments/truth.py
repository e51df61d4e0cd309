"""What a picture really shows, from whichever source, and which of its labels a phrase means.

A truth may be exact (the small world), closed over a list of labels (COCO), or known for some
labels of each picture only (LVIS). What it cannot tell is judged neither right nor wrong.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from smallworld.truth import TruthObject
from unspoken.lexicon import Lexicon
from unspoken.phrases import singular_phrase
from unspoken.query_texts import normalise_phrase


@dataclass(frozen=True)
class PictureTruth:
    """One picture's objects, which of their labels its caption names, and what can be judged."""

    objects: tuple[TruthObject, ...]
    named: frozenset[str]
    open_labels: frozenset[str] = frozenset()
    """Labels that may be there without an object of the truth: small parts, crowds."""
    closed_labels: frozenset[str] | None = None
    """Labels whose absence is known; None where that of every label is."""

    @property
    def shown(self) -> frozenset[str]:
        """Labels of the objects."""
        return frozenset(each.label for each in self.objects)

    @property
    def part_labels(self) -> frozenset[str]:
        """Labels of the parts among the objects."""
        return frozenset(each.label for each in self.objects if each.is_part)

    def can_refute(self, meant: frozenset[str]) -> bool:
        """Whether these labels are known to be absent where no object has one of them."""
        if meant & self.open_labels:
            return False
        if self.closed_labels is None:
            return True
        return bool(meant) and meant <= self.closed_labels


class LabelMatcher:
    """Phrase -> labels of a truth that it means, by itself or through synonyms.

    Synonyms are the truth's own, and the lexicon's (WordNet's groups, any sense). A phrase is taken
    by its head: "a small red car" means "car". A hypernym ("animal" for "dog") does not mean its
    label, but is told apart; the lexicon does not count its steps.
    """

    def __init__(
        self, labels: Iterable[str], *, synonyms: Mapping[str, Iterable[str]], lexicon: Lexicon
    ) -> None:
        """synonyms: label -> other words for it."""
        self.labels = frozenset(labels)
        self._lexicon = lexicon
        self._spelled: dict[str, set[str]] = {}
        self._known_as: dict[str, set[str]] = {}
        for label in self.labels:
            for word in self._forms(label):
                self._spelled.setdefault(word, set()).add(label)
            for word in (label, *synonyms.get(label, ())):
                for form in self._forms(word):
                    self._known_as.setdefault(form, set()).add(label)
        self._below: dict[str, set[str]] = {}
        for label in self.labels:
            for word in lexicon.hypernyms_of(label):
                self._below.setdefault(word, set()).add(label)
        self._meant: dict[str, frozenset[str]] = {}

    def spelled(self, phrase: str) -> frozenset[str]:
        """The label that the whole phrase is, in the singular or the plural."""
        found = [self._spelled.get(form, set()) for form in self._forms(normalise_phrase(phrase))]
        return frozenset().union(*found)

    def meant(self, phrase: str) -> frozenset[str]:
        """Labels that the phrase or its head is, or is a synonym of."""
        if phrase not in self._meant:
            self._meant[phrase] = self._look_up(normalise_phrase(phrase))
        return self._meant[phrase]

    def below(self, phrase: str) -> frozenset[str]:
        """Labels that the lexicon has below the phrase or its head: "dog" for "animal"."""
        forms = self._forms(normalise_phrase(phrase))
        words = {*forms, *(self._lexicon.head(form) for form in forms)}
        return frozenset(label for word in words for label in self._below.get(word, ()))

    def _look_up(self, text: str) -> frozenset[str]:
        words = set(self._forms(text))
        words |= {self._lexicon.head(word) for word in words}
        words |= {synonym for word in words for synonym in self._lexicon.synonyms_of(word)}
        return frozenset(label for word in words for label in self._known_as.get(word, ()))

    def _forms(self, text: str) -> tuple[str, str]:
        return text, singular_phrase(text, self._lexicon)
