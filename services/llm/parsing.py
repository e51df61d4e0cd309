"""Answers to a caption's prompts -> one proposal: phrases merged over templates, best first."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from unspoken.lexicon import Lexicon
from unspoken.phrases import (
    MAX_PHRASES,
    caption_nouns,
    is_named,
    is_stuff,
    negated_nouns,
    parse_phrases,
)
from unspoken.schemas import Phrase, PhraseSource, Proposal, RejectedCandidate

CAPTION_TEMPLATE = "caption"


@dataclass(frozen=True)
class Answer:
    """What the model wrote after one prompt."""

    text: str
    mean_logprob: float | None = None


@dataclass(frozen=True)
class TemplateAnswer:
    """An answer with the template that asked for it and, for a noun template, the noun."""

    template: str
    answer: Answer
    noun: str | None = None


@dataclass
class _Merged:
    """A phrase and all its sources so far."""

    text: str
    stuff: bool
    sources: list[PhraseSource] = field(default_factory=list)


def build_proposal(
    caption: str, answers: Sequence[TemplateAnswer], *, model: str, lexicon: Lexicon
) -> Proposal:
    """The caption's own nouns and the answers' phrases, at most MAX_PHRASES.

    Order: named first, then by how many templates agree, then by mean log-probability, then by
    place. Refused candidates are kept with their reasons.
    """
    merged: dict[str, _Merged] = {}
    rejected: list[RejectedCandidate] = []
    for rank, noun in enumerate(caption_nouns(caption, lexicon)):
        source = PhraseSource(template=CAPTION_TEMPLATE, rank=rank)
        merged[noun] = _Merged(noun, is_stuff(noun, lexicon), [source])
    absent = negated_nouns(caption, lexicon)
    for answered in answers:
        parsed = parse_phrases(answered.answer.text, template=answered.template, lexicon=lexicon)
        rejected += parsed.rejected
        for candidate in parsed.candidates:
            if lexicon.head(candidate.text) in absent:
                rejected.append(_refused(candidate.text, "negated", answered.template))
                continue
            phrase = merged.setdefault(candidate.text, _Merged(candidate.text, candidate.stuff))
            phrase.sources.append(
                PhraseSource(
                    template=answered.template,
                    model=model,
                    rank=candidate.rank,
                    mean_logprob=answered.answer.mean_logprob,
                    part_of=answered.noun,
                )
            )
    phrases = [
        Phrase(
            text=phrase.text,
            named=is_named(phrase.text, caption, lexicon),
            stuff=phrase.stuff,
            sources=tuple(phrase.sources),
        )
        for phrase in merged.values()
    ]
    phrases.sort(key=_order)
    rejected += [_refused(p.text, "over the cap", _template_of(p)) for p in phrases[MAX_PHRASES:]]
    return Proposal(
        phrases=tuple(phrases[:MAX_PHRASES]), rejected=tuple(rejected), raw_texts=_raw(answers)
    )


def _order(phrase: Phrase) -> tuple[bool, int, float, int]:
    logprobs = [s.mean_logprob for s in phrase.sources if s.mean_logprob is not None]
    return (
        not phrase.named,
        -len({source.template for source in phrase.sources}),
        -max(logprobs, default=0.0),
        min(source.rank for source in phrase.sources),
    )


def _template_of(phrase: Phrase) -> str:
    return phrase.sources[0].template


def _refused(text: str, reason: str, template: str) -> RejectedCandidate:
    return RejectedCandidate(raw=text, reason=reason, template=template)


def _raw(answers: Sequence[TemplateAnswer]) -> dict[str, str]:
    """Template -> raw text; a noun template's answers stand one a line behind their noun."""
    lines: dict[str, list[str]] = {}
    for answered in answers:
        label = f"{answered.noun}: " if answered.noun is not None else ""
        lines.setdefault(answered.template, []).append(label + answered.answer.text)
    return {template: "\n".join(texts) for template, texts in lines.items()}
