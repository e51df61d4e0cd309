"""A picture's candidates: the phrases that may name something in it, from proposals to negatives.

The proposals for all captions of a picture are joined. Their phrases, with decoys, are the
candidates that the detector searches for. Candidates that the picture does not show are negatives.
"""

from collections.abc import Sequence
from itertools import chain, zip_longest

from unspoken.runs.dataset.rows import Candidate
from unspoken.text.captions import is_named
from unspoken.text.lexicon import Lexicon
from unspoken.wire.detections import Detection
from unspoken.wire.proposals import Phrase, PhraseSource, Proposal


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


def list_candidates(
    proposal: Proposal, decoys: Sequence[str], *, max_phrases: int
) -> tuple[Candidate, ...]:
    """Return a picture's candidates: phrases to detect, then decoys, then rejected phrases.

    A candidate's id is its position. Phrases beyond `max_phrases` are rejected as `over_limit`.
    """
    candidates: list[Candidate] = []

    def add(
        phrase: str,
        sources: tuple[PhraseSource, ...] = (),
        *,
        named: bool = False,
        stuff: bool = False,
        decoy: bool = False,
        rejected: str | None = None,
    ) -> None:
        candidates.append(
            Candidate(
                id=len(candidates),
                phrase=phrase,
                named=named,
                stuff=stuff,
                decoy=decoy,
                sources=sources,
                rejected=rejected,
            )
        )

    for phrase in proposal.phrases[:max_phrases]:
        add(phrase.text, phrase.sources, named=phrase.named, stuff=phrase.stuff)
    for decoy in decoys:
        add(decoy, decoy=True)
    for phrase in proposal.phrases[max_phrases:]:
        add(phrase.text, phrase.sources, named=phrase.named, rejected="over_limit")
    for each in proposal.rejected:
        source = PhraseSource(template=each.template, example_set=each.example_set, rank=each.rank)
        add(each.raw, (source,), rejected=each.reason)
    return tuple(candidates)


def list_negatives(
    candidates: Sequence[Candidate], detections: Sequence[Detection], lexicon: Lexicon
) -> tuple[str, ...]:
    """Return hard negatives: candidates' phrases that the picture does not show, in order, once.

    A network that learns to name things learns more from things that fit the scene than from random
    words. A phrase counts as absent only if all of this holds:

    * the detector gave it no box that is stored (`stored_from`: half of the score of a kept box),
    * the caption does not name it,
    * it is not related to a phrase that was found or named. In a picture with a dog, "animal"
      without a box has only scored low.

    detections: all detections with a score high enough to be stored; `phrase_index` is the id of
    the candidate. Decoys are left out, because they only serve to count false detections.
    """
    asked = [each for each in candidates if each.rejected is None and not each.decoy]
    answered = {detection.phrase_index for detection in detections}
    there = {each.phrase for each in asked if each.named or each.id in answered}
    absent = (each.phrase for each in asked if each.phrase not in there)
    return tuple(
        dict.fromkeys(
            phrase
            for phrase in absent
            if not any(lexicon.may_name_same_thing(phrase, each) for each in there)
        )
    )
