"""Joins the language model's proposals for the captions of one picture into one proposal."""

from collections.abc import Sequence
from itertools import chain, zip_longest

from unspoken.text.captions import is_named
from unspoken.text.lexicon import Lexicon
from unspoken.wire.proposals import Phrase, Proposal


def join_proposals(proposals: Sequence[Proposal], *, caption: str, lexicon: Lexicon) -> Proposal:
    """Return one proposal with each phrase once, taken from the proposals in turn.

    A phrase that one caption implies and another one names is named. caption: all captions as one
    text.
    """
    first, *others = proposals
    if not others:
        return first
    joint: dict[str, Phrase] = {}
    in_turn = chain.from_iterable(zip_longest(*(each.phrases for each in proposals)))
    for phrase in filter(None, in_turn):
        before = joint.get(phrase.text)
        if before is not None:
            phrase = Phrase(
                text=phrase.text,
                named=before.named or phrase.named,
                stuff=before.stuff or phrase.stuff,
                sources=before.sources + phrase.sources,
            )
        elif not phrase.named and is_named(phrase.text, caption, lexicon):
            phrase = phrase.model_copy(update={"named": True})
        joint[phrase.text] = phrase
    rejected = dict.fromkeys(chain.from_iterable(each.rejected for each in proposals))
    return first.model_copy(update={"phrases": tuple(joint.values()), "rejected": tuple(rejected)})
