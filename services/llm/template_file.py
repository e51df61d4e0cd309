"""Templates from YAML: ours, and those of a file of the user's own, checked before anything runs.

A dataset says of every phrase which template gave it. So a name means one prompt: a file of one's
own adds templates and cannot change ours.
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from services.llm.parsing import CAPTION_TEMPLATE
from services.llm.prompts import Example, ExampleSet, Template, fill
from unspoken.errors import InvalidConfig
from unspoken.problem_words import plain_problem

_Line = Annotated[str, Field(min_length=1, max_length=400, pattern=r"^[^\r\n]+$")]
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


class _Entry(BaseModel):
    """One template as the file has it; templates.yaml says what the fields mean."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
            # A blank behind the colon would be a token that no answer begins after.
            raise ValueError("must end in a colon, without a blank behind it")
        return form


_ENTRIES = TypeAdapter(Annotated[dict[_Name, _Entry], Field(min_length=1)])


def load_templates(path: Path | None = None) -> Mapping[str, Template]:
    """Our templates by name, and those of the file at `path` beside them.

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
        raise InvalidConfig(f"{path}: no file of templates can be read here: {error}") from error


def _parse(text: str, *, source: str) -> dict[str, Template]:
    try:
        entries = _ENTRIES.validate_python(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise InvalidConfig(f"{source}: this is no YAML: {error}") from error
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc'])}: {plain_problem(problem)}"
            for problem in error.errors()
        ]
        raise InvalidConfig(f"{source}: {'; '.join(problems[:5])}") from error
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
