"""Build a caption's proposal from the model's completions: merge phrases over templates, rank them.

`cut_completion` ends a completion while the model still writes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from unspoken.text.captions import caption_nouns, is_named, negated_nouns
from unspoken.text.lexicon import Lexicon
from unspoken.text.phrases import MAX_PHRASES, ParsedPhrase, is_stuff, joined, parse_phrases
from unspoken.wire.proposals import Phrase, PhraseSource, Proposal, RejectedCandidate

CAPTION_TEMPLATE = "caption"
_ITEM = re.compile(r"([^,;]+)([,;]?)")


@dataclass(frozen=True)
class Completion:
    """The text that the model wrote after one prompt."""

    text: str
    mean_logprob: float | None = None
    num_tokens: int = 0
    """Number of tokens that the model wrote; 0 if unknown."""


@dataclass(frozen=True)
class TemplateCompletion:
    """A completion with its template and, for a noun template, its noun.

    copyable: phrases of the worked examples, which the model may have copied.
    """

    template: str
    completion: Completion
    noun: str | None = None
    example_set: int = 0
    copyable: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Given:
    """A phrase from one completion."""

    answered: TemplateCompletion
    phrase: ParsedPhrase

    @property
    def may_be_copied(self) -> bool:
        return self.phrase.text in self.answered.copyable

    def source(self, model: str) -> PhraseSource:
        return PhraseSource(
            template=self.answered.template,
            example_set=self.answered.example_set,
            model=model,
            rank=self.phrase.rank,
            mean_logprob=self.answered.completion.mean_logprob,
            part_of=self.answered.noun,
        )

    def refused(self, reason: str) -> RejectedCandidate:
        return RejectedCandidate(
            raw=self.phrase.raw,
            reason=reason,
            template=self.answered.template,
            example_set=self.answered.example_set,
            rank=self.phrase.rank,
        )


@dataclass
class _Merged:
    """A phrase with all its sources.

    caption_rank: its rank among the caption's own nouns, if it is one. given: its completions.
    """

    text: str
    stuff: bool
    named: bool
    caption_rank: int | None = None
    given: list[_Given] = field(default_factory=list)

    @property
    def is_copy(self) -> bool:
        """True if it is not named and only one template gave it, always as a copy of an example."""
        templates = {given.answered.template for given in self.given}
        copied = all(given.may_be_copied for given in self.given)
        return not self.named and len(templates) == 1 and copied

    def refused(self, reason: str) -> list[RejectedCandidate]:
        refusals = [given.refused(reason) for given in self.given]
        if self.caption_rank is not None:
            own = RejectedCandidate(
                raw=self.text, reason=reason, template=CAPTION_TEMPLATE, rank=self.caption_rank
            )
            refusals.insert(0, own)
        return refusals

    def phrase(self, model: str) -> Phrase:
        sources = [given.source(model) for given in self.given]
        if self.caption_rank is not None:
            sources.insert(0, PhraseSource(template=CAPTION_TEMPLATE, rank=self.caption_rank))
        return Phrase(text=self.text, named=self.named, stuff=self.stuff, sources=tuple(sources))


def build_proposal(
    caption: str, completions: Sequence[TemplateCompletion], *, model: str, lexicon: Lexicon
) -> Proposal:
    """Return the caption's own nouns and the completions' phrases, at most MAX_PHRASES.

    Order: named first, then by the number of templates that agree, then by mean log-probability,
    then by rank. Rejected phrases are kept with their reasons.
    """
    merged: dict[str, _Merged] = {}
    rejected: list[RejectedCandidate] = []
    for rank, noun in enumerate(caption_nouns(caption, lexicon)):
        named = is_named(noun, caption, lexicon)
        merged[joined(noun)] = _Merged(noun, is_stuff(noun, lexicon), named, caption_rank=rank)
    absent = negated_nouns(caption, lexicon)
    for answered in completions:
        parsed = parse_phrases(
            answered.completion.text, template=answered.template, lexicon=lexicon
        )
        rejected += [
            refused.model_copy(update={"example_set": answered.example_set})
            for refused in parsed.rejected
        ]
        for phrase in parsed.phrases:
            given = _Given(answered, phrase)
            if lexicon.head(phrase.text) in absent:
                rejected.append(given.refused("negated"))
                continue
            named = is_named(phrase.text, caption, lexicon)
            new = _Merged(phrase.text, phrase.stuff, named)
            merged.setdefault(joined(phrase.text), new).given.append(given)
    copies = [each for each in merged.values() if each.is_copy]
    ranked = [(each.phrase(model), each) for each in merged.values() if not each.is_copy]
    ranked.sort(key=lambda pair: _order(pair[0]))
    rejected += [refusal for each in copies for refusal in each.refused("copied")]
    rejected += [r for _, each in ranked[MAX_PHRASES:] for r in each.refused("over the cap")]
    return Proposal(
        phrases=tuple(phrase for phrase, _ in ranked[:MAX_PHRASES]),
        rejected=tuple(rejected),
        raw_texts=_raw(completions),
    )


def _order(phrase: Phrase) -> tuple[bool, int, float, int]:
    logprobs = [s.mean_logprob for s in phrase.sources if s.mean_logprob is not None]
    return (
        not phrase.named,
        -len({source.template for source in phrase.sources}),
        -max(logprobs, default=0.0),
        min(source.rank for source in phrase.sources),
    )


def _raw(completions: Sequence[TemplateCompletion]) -> dict[str, str]:
    """Return each template's raw text; a noun template has one line `noun: answer` per noun."""
    lines: dict[str, list[str]] = {}
    for answered in completions:
        label = f"{answered.noun}: " if answered.noun is not None else ""
        lines.setdefault(answered.template, []).append(label + answered.completion.text)
    return {template: "\n".join(texts) for template, texts in lines.items()}


def cut_completion(text: str) -> tuple[str, bool]:
    """Return the completion in the text written so far, and True if it has ended.

    A small model that repeats an item keeps repeating itself from there on. The last item is
    compared only if a separator or the end of the line follows it, because it may still grow.
    """
    line, newline, _ = text.lstrip(" ").partition("\n")
    seen: set[str] = set()
    for match in _ITEM.finditer(line):
        item, separator = match[1].strip().lower(), match[2]
        if item in seen and (separator or newline):
            return line[: match.start()].rstrip(" ,;"), True
        seen.add(item)
    return line.strip(), bool(newline)
