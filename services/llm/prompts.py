"""Few-shot prompts: worked examples, then the subject as data, then a cue.

The examples are the same for all subjects of a template and example set, so their keys and values
are computed once. A caption becomes one quoted line. Line breaks, control characters and the
brackets of a model's special markers are removed, so a caption cannot start a new block or turn
(prompt injection).
"""

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from unspoken.errors import InvalidInput
from unspoken.problem_words import unknown_name

MAX_CAPTION_CHARS = 400

# "<|im_end|>", "</s>" and "[INST]" would be read as tokens that end the caption and open a turn.
_HARMLESS = str.maketrans({'"': "'", "<": " ", ">": " ", "[": "(", "]": ")"})


@dataclass(frozen=True)
class Example:
    """A worked example: its subject, the form filled with the subject, and the answer."""

    subject: str
    question: str
    answer: str


@dataclass(frozen=True)
class ExampleSet:
    """Worked examples that precede a question together."""

    examples: tuple[Example, ...]
    separator: str

    @property
    def prefix(self) -> str:
        """The examples as one text, for a completion model."""
        return "".join(f"{e.question} {e.answer}{self.separator}" for e in self.examples)


@dataclass(frozen=True)
class Template:
    """A prompt template: an example set, then `question(subject)`. The answer is one line.

    drop_copies: True rejects a phrase of the examples that no other source gives.
    """

    name: str
    form: str
    example_sets: tuple[ExampleSet, ...]
    drop_copies: bool

    @property
    def asks_about_nouns(self) -> bool:
        """True if the subject is a noun of the caption rather than the caption itself."""
        return "{a_noun}" in self.form

    def question(self, subject: str) -> str:
        """Return the part of the prompt after the examples: the form filled with the subject."""
        return fill(self.form, subject)

    def example_set_of(self, subject: str) -> int:
        """Return the index of the subject's example set, chosen by a stable hash of the subject."""
        digest = hashlib.sha256(quoted(subject).encode()).digest()
        return int.from_bytes(digest[:8], "big") % len(self.example_sets)


def quoted(caption: str) -> str:
    """Return the caption on one line, cut at a word; replace double quotes, <> and [].

    Control characters become spaces. The result has at most MAX_CAPTION_CHARS characters.
    """
    text = unicodedata.normalize("NFKC", caption[: 4 * MAX_CAPTION_CHARS])
    text = "".join(" " if unicodedata.category(char).startswith("C") else char for char in text)
    text = " ".join(text.translate(_HARMLESS).split())
    if len(text) <= MAX_CAPTION_CHARS:
        return text
    return text[:MAX_CAPTION_CHARS].rsplit(" ", 1)[0]


def fill(form: str, subject: str) -> str:
    """Return the form with its subject filled in: {caption}, or {a_noun} with an article."""
    subject = quoted(subject)
    article = "an" if subject[:1].lower() in tuple("aeiou") else "a"
    return form.replace("{a_noun}", f"{article} {subject}").replace("{caption}", subject)


def choose_templates(
    names: Sequence[str] | None, *, known: Mapping[str, Template], default: Sequence[str]
) -> list[Template]:
    """Return the requested templates without duplicates. Raises InvalidInput for unknown names."""
    chosen = list(dict.fromkeys(default if names is None else names))
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise InvalidInput(
            unknown_name(unknown[0], known, what="template"),
            details={"known": sorted(known)},
        )
    return [known[name] for name in chosen]


def prompt_sha256(templates: Sequence[Template], *, style: str) -> str:
    """Return a digest of the prompt style and templates, independent of the templates' order."""
    asked = sorted((asdict(template) for template in templates), key=lambda each: each["name"])
    return hashlib.sha256(json.dumps([style, asked], sort_keys=True).encode()).hexdigest()
