"""Few-shot prompts: worked examples, then the subject as data, then a cue.

The examples are the same for all subjects of a template and example set, so that their keys and
values are computed once. A caption is one quoted line: line breaks, control characters and the
brackets of a model's own markers are gone before the model sees it, so it cannot open a block or a
turn of its own.
"""

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from unspoken.errors import InvalidInput

MAX_CAPTION_CHARS = 400

# "<|im_end|>", "</s>" and "[INST]" would be read as tokens that end the caption and open a turn.
_HARMLESS = str.maketrans({'"': "'", "<": " ", ">": " ", "[": "(", "]": ")"})


@dataclass(frozen=True)
class Example:
    """A worked example: its subject, the form filled with it, and what is answered."""

    subject: str
    question: str
    answer: str


@dataclass(frozen=True)
class ExampleSet:
    """Worked examples that stand together before a question."""

    examples: tuple[Example, ...]
    separator: str

    @property
    def prefix(self) -> str:
        """The examples as one text, for a model that goes on with texts."""
        return "".join(f"{e.question} {e.answer}{self.separator}" for e in self.examples)


@dataclass(frozen=True)
class Template:
    """One way to ask: an example set, then `question(subject)`.

    The answer is one line. `drop_copies`: whether a phrase of the examples is refused where nothing
    else gives it.
    """

    name: str
    form: str
    example_sets: tuple[ExampleSet, ...]
    drop_copies: bool

    @property
    def asks_about_nouns(self) -> bool:
        """Whether the subject is a noun of the caption rather than the caption."""
        return "{a_noun}" in self.form

    def question(self, subject: str) -> str:
        """The part of the prompt that is the subject's own."""
        return fill(self.form, subject)

    def example_set_of(self, subject: str) -> int:
        """Which example set precedes the subject: a hash of it decides, the same everywhere."""
        digest = hashlib.sha256(quoted(subject).encode()).digest()
        return int.from_bytes(digest[:8], "big") % len(self.example_sets)


def quoted(caption: str) -> str:
    """The caption on one line, without control characters, quotes and brackets, cut at a word."""
    text = unicodedata.normalize("NFKC", caption[: 4 * MAX_CAPTION_CHARS])
    text = "".join(" " if unicodedata.category(char).startswith("C") else char for char in text)
    text = " ".join(text.translate(_HARMLESS).split())
    if len(text) <= MAX_CAPTION_CHARS:
        return text
    return text[:MAX_CAPTION_CHARS].rsplit(" ", 1)[0]


def fill(form: str, subject: str) -> str:
    """The form with its subject in place: {caption}, or {a_noun} with its article."""
    subject = quoted(subject)
    article = "an" if subject[:1].lower() in tuple("aeiou") else "a"
    return form.replace("{a_noun}", f"{article} {subject}").replace("{caption}", subject)


def choose_templates(
    names: Sequence[str] | None, *, known: Mapping[str, Template], default: Sequence[str]
) -> list[Template]:
    """The templates asked for, each once. Raises InvalidInput for an unknown name."""
    chosen = list(dict.fromkeys(default if names is None else names))
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise InvalidInput(
            f"unknown template {unknown[0][:40]!r}; known: {', '.join(sorted(known))}",
            details={"known": sorted(known)},
        )
    return [known[name] for name in chosen]


def prompt_sha256(templates: Sequence[Template], *, style: str) -> str:
    """Digest of all that surrounds a subject; the order in which templates were named is none."""
    asked = sorted((asdict(template) for template in templates), key=lambda each: each["name"])
    return hashlib.sha256(json.dumps([style, asked], sort_keys=True).encode()).hexdigest()
