"""Ground truth of pictures from different data sets, and matching of phrases to its labels.

A truth may be exact (the small world), complete for a list of labels (COCO), or known only for some
labels of each picture (LVIS). Labels that it cannot judge count neither as right nor as wrong.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from smallworld.truth import TruthObject
from unspoken.text.lexicon import Lexicon
from unspoken.text.phrases import singular_phrase
from unspoken.wire.texts import normalise_phrase


@dataclass(frozen=True)
class PictureTruth:
    """One picture's objects, the labels that its caption names, and the labels that are judged."""

    objects: tuple[TruthObject, ...]
    named: frozenset[str]
    open_labels: frozenset[str] = frozenset()
    """Labels that may be present without an object in the truth: small parts, crowds."""
    closed_labels: frozenset[str] | None = None
    """Labels whose absence can be known; None for all labels."""

    @property
    def shown(self) -> frozenset[str]:
        """Labels of the objects."""
        return frozenset(each.label for each in self.objects)

    @property
    def part_labels(self) -> frozenset[str]:
        """Labels of the parts among the objects."""
        return frozenset(each.label for each in self.objects if each.is_part)

    def can_refute(self, meant: frozenset[str]) -> bool:
        """Return True if these labels are certainly absent when no object has one of them."""
        if meant & self.open_labels:
            return False
        if self.closed_labels is None:
            return True
        return bool(meant) and meant <= self.closed_labels


class LabelMatcher:
    """Maps a phrase to the labels of a truth that it means, directly or through synonyms.

    Synonyms are the truth's own and the lexicon's (WordNet's groups, any sense). A phrase is
    matched by its head: "a small red car" means "car". A hypernym ("animal" for "dog") does not
    mean the label. It is reported separately (`below`), at any number of steps above the label.
    """

    def __init__(
        self, labels: Iterable[str], *, synonyms: Mapping[str, Iterable[str]], lexicon: Lexicon
    ) -> None:
        """Create a matcher; synonyms: label -> other words for it."""
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
        """Return the label that equals the whole phrase, in the singular or the plural."""
        found = [self._spelled.get(form, set()) for form in self._forms(normalise_phrase(phrase))]
        return frozenset().union(*found)

    def meant(self, phrase: str) -> frozenset[str]:
        """Return the labels that the phrase or its head equals or is a synonym of."""
        if phrase not in self._meant:
            self._meant[phrase] = self._look_up(normalise_phrase(phrase))
        return self._meant[phrase]

    def below(self, phrase: str) -> frozenset[str]:
        """Return the labels of which the phrase or its head is a hypernym: "dog" for "animal"."""
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
