"""Ways from a caption, and from what a language model said of it, to phrases to look for.

The names B0 to B6 and C1 to C3 are those of the comparison; where each comes from is said at its
function. Every phrase is `named` or implied by the same rule, whichever source gave it, since that
decides which threshold its boxes must reach.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from services.llm.parsing import build_proposal
from unspoken.captions import is_named, prose
from unspoken.lexicon import Lexicon
from unspoken.phrases import GENERIC_WORDS, STOP_WORDS, is_stuff
from unspoken.query_texts import normalise_phrase
from unspoken.schemas import Phrase, PhraseSource, Proposal

Phrases = tuple[Phrase, ...]

MAX_NGRAM_WORDS = 10
MAX_NGRAMS = 300
MAX_QUERY_CHARS = 200
"""A query of one phrase must fit into a detector's prompt of 256 word pieces."""


def whole_caption(caption: str, lexicon: Lexicon) -> Phrases:
    """B0: the caption is the one query, and its best box is kept (what OWLv2 tells of 3Ways).

    The caption is taken as a reader sees it, cut at a word to what one query may hold.
    """
    text = " ".join(prose(caption).split())
    if len(text) > MAX_QUERY_CHARS:
        text = text[:MAX_QUERY_CHARS].rpartition(" ")[0]
    return _of_caption([text], "caption as query", lexicon)


def ngrams(caption: str, lexicon: Lexicon) -> Phrases:
    """B1: all n-grams of the caption's words, as in OWLv2 (NeurIPS 2023, appendix A.2).

    Lower case, split at blanks, generic words removed; n from 1 to 10; those of stop words alone
    removed; at most 300. Punctuation stays glued to its word, as there. Order, which the cap of 300
    depends on: by length, the shortest first, and within a length from left to right. Captions
    are read without markup and control characters, which the detector refuses.
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
    """B2: the caption's nouns, as GRIT (Kosmos-2, 2023) takes noun chunks to ground.

    A light stand-in for a parser: the lexicon's visible nouns of one or two words, in the singular,
    without their adjectives; abstract nouns are not in the lexicon. It is also what the product
    itself takes from a caption before it asks a language model.
    """
    return build_proposal(caption, (), model="", lexicon=lexicon).phrases


def of_template(proposal: Proposal, template: str) -> Phrases:
    """B3, with the template `named`: the nouns that the model finds in the caption.

    The auto-labelling idea of Grounded-SAM: a language model extracts the nouns, in the singular.
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

    OWL scales these scores by .3 where it merges them with the caption's own queries. Here the list
    is a source by itself and nothing is scaled.
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
    """B6 of B5 and B1: the first's phrases, then the second's others."""
    present = {phrase.text for phrase in first}
    return (*first, *(phrase for phrase in second if phrase.text not in present))


def with_random(phrases: Phrases, random_labels: Phrases, *, count: int) -> Phrases:
    """C1: `count` random labels more. Whatever asks more finds more: a gain must beat this.

    random_labels: the vocabulary in an order drawn for this picture.
    """
    present = {phrase.text for phrase in phrases}
    new = (label for label in random_labels if label.text not in present)
    return (*phrases, *islice(new, count))


def of_other_caption(phrases: Phrases, caption: str, lexicon: Lexicon) -> Phrases:
    """C2: what was proposed for another picture's caption; `named` is as this caption has it."""
    return tuple(
        phrase.model_copy(update={"named": is_named(phrase.text, caption, lexicon)})
        for phrase in phrases
    )


def oracle(labels: Collection[str], caption: str, lexicon: Lexicon) -> Phrases:
    """C3: the labels of the truth: what a perfect proposer would have asked. A ceiling."""
    return from_vocabulary(sorted(labels), caption, lexicon)


def exactly(phrases: Phrases, random_labels: Phrases, *, count: int) -> Phrases:
    """As many phrases as another source has: cut in their order, or filled up at random."""
    return with_random(phrases[:count], random_labels, count=count - len(phrases[:count]))


def _of_caption(texts: Iterable[str], template: str, lexicon: Lexicon) -> Phrases:
    """Pieces of a caption: named by what they are. Pieces without a letter are no query."""
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
