"""Sources of phrases: functions from a caption, or a language model's proposal, to phrases.

B0 to B6 and C1 to C3 are the names in the comparison; each function's docstring gives its origin.
Every source marks phrases as `named` or implied by the same rule, because the mark decides which
threshold applies to their boxes.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from services.llm.parsing import build_proposal
from unspoken.text.captions import is_named, prose
from unspoken.text.lexicon import Lexicon
from unspoken.text.phrases import GENERIC_WORDS, STOP_WORDS, is_stuff
from unspoken.wire.proposals import Phrase, PhraseSource, Proposal
from unspoken.wire.texts import normalise_phrase

Phrases = tuple[Phrase, ...]

MAX_NGRAM_WORDS = 10
MAX_NGRAMS = 300
MAX_QUERY_CHARS = 200
"""Limit of one phrase, which must fit into a detector's prompt of 256 word pieces."""


def whole_caption(caption: str, lexicon: Lexicon) -> Phrases:
    """B0: the caption is the only query, and its best box is kept (as OWLv2 describes 3Ways).

    Markup is removed from the caption, and it is cut at a word boundary to the length of one query.
    """
    text = " ".join(prose(caption).split())
    if len(text) > MAX_QUERY_CHARS:
        text = text[:MAX_QUERY_CHARS].rpartition(" ")[0]
    return _of_caption([text], "caption as query", lexicon)


def ngrams(caption: str, lexicon: Lexicon) -> Phrases:
    """B1: all n-grams of the caption's words, as in OWLv2 (NeurIPS 2023, appendix A.2).

    The caption is lower-cased and split at blanks, and generic words are removed; n is 1 to 10.
    N-grams of stop words alone are removed, and at most 300 are kept. As in OWLv2, punctuation
    stays attached to its word. The limit of 300 makes the order matter: shorter n-grams first, then
    from left to right. Markup and control characters are removed, because the detector refuses
    them.
    """
    words = [word for word in prose(caption).split() if word not in GENERIC_WORDS]
    texts: dict[str, None] = {}
    for length in range(1, min(MAX_NGRAM_WORDS, len(words)) + 1):
        for start in range(len(words) - length + 1):
            gram = words[start : start + length]
            if not all(word in STOP_WORDS for word in gram):
                texts.setdefault(" ".join(gram))
    return _of_caption(islice(texts, MAX_NGRAMS), "n-grams", lexicon)


def noun_chunks(caption: str, lexicon: Lexicon) -> Phrases:
    """B2: the caption's nouns, as GRIT (Kosmos-2, 2023) grounds noun chunks.

    A simple substitute for a parser: visible nouns of the lexicon with one or two words, in the
    singular, without adjectives; abstract nouns are not in the lexicon. The product uses the same
    nouns before it asks a language model.
    """
    return build_proposal(caption, (), model="", lexicon=lexicon).phrases


def of_template(proposal: Proposal, template: str) -> Phrases:
    """B3, for the template `named`: the nouns that the model finds in the caption.

    This is Grounded-SAM's auto-labelling: a language model extracts the nouns, in the singular.
    """
    given = [
        phrase.model_copy(
            update={"sources": tuple(s for s in phrase.sources if s.template == template)}
        )
        for phrase in proposal.phrases
    ]
    return tuple(phrase for phrase in given if phrase.sources)


def from_vocabulary(labels: Iterable[str], caption: str, lexicon: Lexicon) -> Phrases:
    """B4: a list of labels, the same for every picture (OWL-ST's curated vocabulary has 2 520).

    OWL multiplies these scores by .3 when it merges them with the caption's own queries. Here the
    list is a separate source, and scores are not scaled.
    """
    return tuple(
        Phrase(
            text=label,
            named=is_named(label, caption, lexicon),
            stuff=is_stuff(label, lexicon),
            sources=(PhraseSource(template="vocabulary", rank=rank),),
        )
        for rank, label in enumerate(labels)
    )


def union(first: Phrases, second: Phrases) -> Phrases:
    """B6, from B5 and B1: the first source's phrases, then the second's that are new."""
    present = {phrase.text for phrase in first}
    return (*first, *(phrase for phrase in second if phrase.text not in present))


def with_random(phrases: Phrases, random_labels: Phrases, *, count: int) -> Phrases:
    """C1: `count` additional random labels.

    More queries always find more objects, so a real gain must be larger than that of this control.
    random_labels: the vocabulary in a random order drawn for this picture.
    """
    present = {phrase.text for phrase in phrases}
    new = (label for label in random_labels if label.text not in present)
    return (*phrases, *islice(new, count))


def of_other_caption(phrases: Phrases, caption: str, lexicon: Lexicon) -> Phrases:
    """C2: phrases proposed for another picture's caption, marked `named` by this caption."""
    return tuple(
        phrase.model_copy(update={"named": is_named(phrase.text, caption, lexicon)})
        for phrase in phrases
    )


def oracle(labels: Collection[str], caption: str, lexicon: Lexicon) -> Phrases:
    """C3: the true labels, as a perfect proposer would give: an upper limit."""
    return from_vocabulary(sorted(labels), caption, lexicon)


def exactly(phrases: Phrases, random_labels: Phrases, *, count: int) -> Phrases:
    """Return exactly `count` phrases: cut after `count`, or filled up with random labels."""
    return with_random(phrases[:count], random_labels, count=count - len(phrases[:count]))


def _of_caption(texts: Iterable[str], template: str, lexicon: Lexicon) -> Phrases:
    """Make phrases of pieces of a caption. All are `named`; pieces without letters are dropped."""
    kept: Sequence[str] = [
        text for text in texts if normalise_phrase(text) and len(text) <= MAX_QUERY_CHARS
    ]
    return tuple(
        Phrase(
            text=text,
            named=True,
            stuff=is_stuff(text, lexicon),
            sources=(PhraseSource(template=template, rank=rank),),
        )
        for rank, text in enumerate(kept)
    )
