"""Few-shot prompts: a fixed block of worked examples, then the subject as data, then a cue.

The block (`prefix`) is the same for all subjects of a template, so that its keys and values are
computed once. A caption is one quoted line: line breaks and control characters are gone before
the model sees it, so it cannot open a block of its own.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import yaml

from unspoken.errors import InvalidInput

MAX_CAPTION_CHARS = 400


@dataclass(frozen=True)
class Template:
    """One way to ask. `prefix` + `suffix(subject)` is the prompt; the answer is one line."""

    name: str
    form: str
    prefix: str

    @property
    def asks_about_nouns(self) -> bool:
        """Whether the subject is a noun of the caption rather than the caption."""
        return "{a_noun}" in self.form

    def suffix(self, subject: str) -> str:
        """The part of the prompt that is the subject's own."""
        return _fill(self.form, subject)


def quoted(caption: str) -> str:
    """The caption on one line, without control characters and double quotes, cut at a word."""
    text = unicodedata.normalize("NFKC", caption[: 4 * MAX_CAPTION_CHARS])
    text = "".join(" " if unicodedata.category(char).startswith("C") else char for char in text)
    text = " ".join(text.replace('"', "'").split())
    if len(text) <= MAX_CAPTION_CHARS:
        return text
    return text[:MAX_CAPTION_CHARS].rsplit(" ", 1)[0]


def load_templates() -> Mapping[str, Template]:
    """All templates of templates.yaml by name."""
    text = files("services.llm").joinpath("templates.yaml").read_text(encoding="utf-8")
    templates = {}
    for name, entry in yaml.safe_load(text).items():
        blocks = [
            f"{_fill(entry['form'], subject)} {answer}{entry['separator']}"
            for subject, answer in entry["examples"]
        ]
        templates[name] = Template(name=name, form=entry["form"], prefix="".join(blocks))
    return templates


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


def _fill(form: str, subject: str) -> str:
    subject = quoted(subject)
    article = "an" if subject[:1].lower() in tuple("aeiou") else "a"
    return form.replace("{a_noun}", f"{article} {subject}").replace("{caption}", subject)
