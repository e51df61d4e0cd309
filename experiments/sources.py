"""The compared sources, and the phrases of each for every picture of a collection."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from experiments.collections.collection import CaptionedPicture, Collection
from experiments.phrase_sources import (
    Phrases,
    exactly,
    from_vocabulary,
    ngrams,
    noun_chunks,
    of_other_caption,
    of_template,
    oracle,
    union,
    whole_caption,
    with_random,
)
from unspoken.ports import Prompter
from unspoken.progress import Stage
from unspoken.text.lexicon import Lexicon
from unspoken.wire.proposals import Proposal

SIX_TEMPLATES = ("named", "implied", "main_parts", "place", "worn", "kind")
"""Templates for the kinds of objects that captions omit, in the thesis's order."""
DEFAULT_TEMPLATES = ("parts", "noun_parts")
"""The product's default templates."""
ALL_TEMPLATES = (*SIX_TEMPLATES, *DEFAULT_TEMPLATES)
CAPTIONS_PER_CALL = 48

SourceName = str
Group = Literal["source", "without", "cumulative", "equal"]


@dataclass(frozen=True)
class Source:
    """A source of phrases: its name in tables and a short title.

    legend: a short name for plots, which needs no table to be understood.
    group: `source` for the sources themselves, `without` and `cumulative` for choices of templates,
    `equal` for a source limited to B5's number of queries. single_box: only the best box of its
    only phrase is used.
    """

    name: SourceName
    title: str
    legend: str = ""
    group: Group = "source"
    single_box: bool = False


SOURCES = (
    Source("B0", "whole caption, best box", single_box=True),
    Source("B1", "n-grams of the caption", "caption's n-grams"),
    Source("B2", "nouns of the caption", "caption's nouns"),
    Source("B3", "the model's named nouns"),
    Source("B4", "one vocabulary for all captions", "fixed vocabulary"),
    Source("B5", "default templates", "default templates"),
    Source("B5all", "templates, all eight", "all eight templates"),
    Source("B6", "n-grams and templates (B1 and B5)"),
    Source("C1", "B2 and as many random labels as B5 adds", "nouns, few random labels"),
    Source("C1n", "B1 and as many random labels as B5 adds to B2"),
    Source("C1all", "B2 and as many random labels as B5all adds", "nouns, many random labels"),
    Source("C2", "B5 of another picture's caption"),
    Source("C3", "oracle: the true labels", "true labels (oracle)"),
)
EQUAL = tuple(
    Source(f"{each.name}=", each.title, group="equal")
    for each in SOURCES
    if each.name in ("B1", "B2", "B3", "B4", "B5", "B5all", "B6", "C2", "C3")
)
WITHOUT = tuple(
    Source(f"B5all-{name}", f"all but {name}", group="without") for name in ALL_TEMPLATES
)
CUMULATIVE = tuple(
    Source(f"B2+{number}", f"+ {name}", group="cumulative")
    for number, name in enumerate(ALL_TEMPLATES, start=1)
)
ALL_SOURCES = (*SOURCES, *EQUAL, *WITHOUT, *CUMULATIVE)
LEGENDS = {each.name: each.legend for each in SOURCES if each.legend}
"""Name of a source that plots show -> its text in their legends."""


class CountingPrompter(Prompter, Protocol):
    """A prompter that counts the tokens that its model writes."""

    tokens_written: Counter[str]
    """Template -> tokens of all answers so far."""


@dataclass(frozen=True)
class TemplateProposals:
    """Proposals for every caption of a collection, by choice of templates."""

    by_templates: Mapping[tuple[str, ...], Sequence[Proposal]]
    tokens_written: Mapping[str, int]
    """Template -> tokens. The parts of a noun are asked for once, for all captions."""

    def of(self, *templates: str) -> Sequence[Proposal]:
        """Return the proposals made with these templates, in the pictures' order."""
        return self.by_templates[templates]


def template_choices() -> list[tuple[str, ...]]:
    """List every choice of templates that the comparison needs, the largest first."""
    without = [tuple(t for t in ALL_TEMPLATES if t != left) for left in ALL_TEMPLATES]
    cumulative = [ALL_TEMPLATES[:number] for number in range(1, len(ALL_TEMPLATES))]
    return list(
        dict.fromkeys([ALL_TEMPLATES, DEFAULT_TEMPLATES, ("named",), *without, *cumulative])
    )


def ask_prompter(
    prompter: CountingPrompter, captions: Sequence[str], *, stage: Stage
) -> TemplateProposals:
    """Ask the prompter with all templates for every caption, then with every other choice.

    The prompter must cache its answers. Then a further choice costs only parsing, and the parts of
    nouns that no earlier choice asked for.
    """
    by_templates: dict[tuple[str, ...], list[Proposal]] = {}
    before, written = Counter(prompter.tokens_written), Counter[str]()
    for templates in template_choices():
        proposals: list[Proposal] = []
        for start in range(0, len(captions), CAPTIONS_PER_CALL):
            batch = captions[start : start + CAPTIONS_PER_CALL]
            proposals += prompter.propose(batch, templates=templates)
            if templates == ALL_TEMPLATES:
                stage.advance(len(batch))
        if templates == ALL_TEMPLATES:
            written = Counter(prompter.tokens_written) - before
        by_templates[templates] = proposals
    return TemplateProposals(by_templates, written)


def other_captions(num_samples: int, *, seed: int) -> list[int]:
    """Return for each picture the index of another one: the next in a random order."""
    order = list(range(num_samples))
    random.Random(seed).shuffle(order)
    following = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return [following[index] for index in range(num_samples)]


def list_phrases(
    collection: Collection,
    proposals: TemplateProposals,
    *,
    vocabulary: Sequence[str],
    lexicon: Lexicon,
    seed: int,
) -> list[dict[SourceName, Phrases]]:
    """Return the phrases of each source for every picture: source -> phrases, most likely first."""
    others = other_captions(len(collection.pictures), seed=seed)
    listed = []
    for index, captioned in enumerate(collection.pictures):
        shuffled = list(vocabulary)
        random.Random(f"{seed}/{captioned.key}").shuffle(shuffled)
        random_labels = from_vocabulary(shuffled, captioned.caption, lexicon)
        phrases = _sources(captioned, index, others[index], proposals, random_labels, lexicon)
        phrases["B4"] = from_vocabulary(vocabulary, captioned.caption, lexicon)
        phrases |= _template_choices(index, proposals)
        budget = len(phrases["B5"])
        for each in EQUAL:
            whole = random_labels if each.name == "B4=" else phrases[each.name.rstrip("=")]
            phrases[each.name] = exactly(whole, random_labels, count=budget)
        listed.append(phrases)
    return listed


def _sources(
    captioned: CaptionedPicture,
    index: int,
    other: int,
    proposals: TemplateProposals,
    random_labels: Phrases,
    lexicon: Lexicon,
) -> dict[SourceName, Phrases]:
    """Return the phrases of all sources except B4 and the variants."""
    caption = captioned.caption
    grams, nouns = ngrams(caption, lexicon), noun_chunks(caption, lexicon)
    default = proposals.of(*DEFAULT_TEMPLATES)
    templates, everything = default[index].phrases, proposals.of(*ALL_TEMPLATES)[index].phrases
    added, added_by_all = _added(templates, nouns), _added(everything, nouns)
    return {
        "B0": whole_caption(caption, lexicon),
        "B1": grams,
        "B2": nouns,
        "B3": of_template(proposals.of("named")[index], "named"),
        "B5": templates,
        "B5all": everything,
        "B6": union(templates, grams),
        "C1": with_random(nouns, random_labels, count=added),
        "C1n": with_random(grams, random_labels, count=added),
        "C1all": with_random(nouns, random_labels, count=added_by_all),
        "C2": of_other_caption(default[other].phrases, caption, lexicon),
        "C3": oracle(captioned.truth.shown, caption, lexicon),
    }


def _added(phrases: Phrases, base: Phrases) -> int:
    """Return the number of distinct phrases that are not in `base`."""
    return len({each.text for each in phrases} - {each.text for each in base})


def _template_choices(index: int, proposals: TemplateProposals) -> dict[SourceName, Phrases]:
    without = {
        f"B5all-{left}": proposals.of(*(t for t in ALL_TEMPLATES if t != left))[index].phrases
        for left in ALL_TEMPLATES
    }
    cumulative = {
        f"B2+{number}": proposals.of(*ALL_TEMPLATES[:number])[index].phrases
        for number in range(1, len(ALL_TEMPLATES) + 1)
    }
    return without | cumulative
