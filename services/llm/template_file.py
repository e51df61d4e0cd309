"""Read and check the templates of the package and of the user's YAML file at start.

A dataset records the template of every phrase, so a template's name must always mean the same
prompt. The user's file can therefore add templates but not replace those of the package.
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from services.llm.parsing import CAPTION_TEMPLATE
from services.llm.prompts import Example, ExampleSet, Template, fill
from unspoken.errors import InvalidConfig
from unspoken.problem_words import plain_problems
from unspoken.safe_text import one_line
from unspoken.wire.base import RequestModel

_Line = Annotated[str, Field(min_length=1, max_length=400, pattern=r"^[^\r\n]+$")]
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


class _Entry(RequestModel):
    """One template of the file; templates.yaml explains the fields."""

    form: Annotated[str, Field(max_length=2000)]
    separator: Annotated[str, Field(pattern=r"\n$", max_length=100)] = "\n\n"
    drop_copies: bool = True
    example_sets: Annotated[
        list[Annotated[list[tuple[_Line, _Line]], Field(min_length=1, max_length=32)]],
        Field(min_length=1, max_length=16),
    ]

    @field_validator("form")
    @classmethod
    def _asks_one_question(cls, form: str) -> str:
        if form.count("{caption}") + form.count("{a_noun}") != 1:
            raise ValueError("wants {caption} or {a_noun}, once")
        if not form.endswith(":"):
            # A space after the colon would be a token of its own, and no answer starts after it.
            raise ValueError("must end in a colon, without a space after it")
        return form


_TEMPLATES = Annotated[dict[_Name, _Entry], Field(min_length=1)]
_ENTRIES: TypeAdapter[dict[str, _Entry]] = TypeAdapter(_TEMPLATES)


def load_templates(path: Path | None = None) -> Mapping[str, Template]:
    """Return the package's templates and those of the file at `path`, by name.

    Raises InvalidConfig with the file, the template and the field that are wrong.
    """
    ours = files("services.llm").joinpath("templates.yaml").read_text(encoding="utf-8")
    templates = _parse(ours, source="templates.yaml")
    if path is None:
        return templates
    own = _parse(_read(path), source=str(path))
    taken = sorted({*templates, CAPTION_TEMPLATE} & set(own))
    if taken:
        raise InvalidConfig(f"{path}: the name {taken[0]!r} is taken; give the template another")
    return {**templates, **own}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(
            f"{path}: the template file cannot be read: {one_line(error)}. Check LLM_TEMPLATES_FILE"
        ) from error


def _parse(text: str, *, source: str) -> dict[str, Template]:
    try:
        entries = _ENTRIES.validate_python(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise InvalidConfig(f"{source}: this is not YAML: {one_line(error)}") from error
    except ValidationError as error:
        problems = "; ".join(each.message for each in plain_problems(error, _TEMPLATES)[:5])
        raise InvalidConfig(f"{source}: {problems}") from error
    return {name: _template(name, entry) for name, entry in entries.items()}


def _template(name: str, entry: _Entry) -> Template:
    sets = [
        ExampleSet(
            tuple(
                Example(subject, fill(entry.form, subject), answer) for subject, answer in examples
            ),
            separator=entry.separator,
        )
        for examples in entry.example_sets
    ]
    return Template(name, entry.form, example_sets=tuple(sets), drop_copies=entry.drop_copies)
