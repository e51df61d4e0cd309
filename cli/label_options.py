"""Options of `unspoken label`: their flags, and the request that they are parsed to.

Each field of LabelOptions is a parameter of the command `label`, and has the same name there.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from unspoken.errors import InvalidInput
from unspoken.problem_words import first_problem, plain_problems, unknown_name
from unspoken.wire.filters import FilterConfig
from unspoken.wire.label_options import LabelOptions
from unspoken.wire.runs import RunRequest

DEFAULTS = LabelOptions()
_FLAGS = {
    "run_id": "--name",
    "false_discovery_rate": "--fdr",
    "templates": "--template",
    "num_decoys": "--decoys",
    "filters": "--filter",
}
"""Flags that differ from the name of their field."""


def flag_of(field: str) -> str:
    """Return the flag of a request's field."""
    return _FLAGS.get(field, f"--{field.replace('_', '-')}")


def _with_flags(text: str) -> str:
    """Return a message of LabelOptions with flags instead of the names of fields."""
    names = "|".join(LabelOptions.model_fields)
    return re.sub(rf"\b({names})\b", lambda found: flag_of(found[0]), text)


def run_request(parameters: Mapping[str, Any], **place: object) -> RunRequest:
    """Build the request of a run. Raises InvalidInput.

    parameters: those of the command. place: fields that are not labelling options.
    """
    fields = {
        name: parameters[name]
        for name in LabelOptions.model_fields
        if parameters.get(name) not in (None, ())  # () for a repeatable flag that is not given
    }
    filters = parse_filters(fields.pop("filters", ()), blocklist=parameters.get("blocklist"))
    try:
        return RunRequest.model_validate({**place, **fields, "filters": filters})
    except ValidationError as error:
        first = plain_problems(error, RunRequest)[0]
        where = f"{flag_of(re.split(r'[.[]', first.where)[0])}: " if first.where else ""
        raise InvalidInput(where + _with_flags(first.problem)) from error


def parse_filters(settings: Sequence[str], *, blocklist: Path | None = None) -> FilterConfig:
    """Return the filters of a run: NAME=VALUE sets a limit, NAME=off disables a filter.

    Raises InvalidInput.

    settings: such as 'min_similarity=0.3', 'language=off', 'nsfw_ratings=UNLIKELY,UNSURE'.
    blocklist: a file with one word or phrase per line, which replaces the default list.
    """
    values: dict[str, object] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in FilterConfig.model_fields:
            raise InvalidInput(unknown_name(name, FilterConfig.model_fields, what="filter"))
        if not value:
            raise InvalidInput(f"filter {name}: write {name}=VALUE, or {name}=off to disable it")
        values[name] = _value(value, default=FilterConfig.model_fields[name].default)
    if blocklist is not None:
        values["blocklist"] = _read_lines(blocklist)
    try:
        return FilterConfig.model_validate(values)
    except ValidationError as error:
        raise InvalidInput(f"filter {first_problem(error, FilterConfig)}") from error


def _value(text: str, *, default: object) -> object:
    if isinstance(default, bool):
        return text
    if text == "off":
        return None
    return tuple(text.split(",")) if isinstance(default, tuple) else text


def _read_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the blocklist {path} cannot be read: {error}") from error
    return [line.strip() for line in lines if line.strip()]
