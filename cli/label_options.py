"""Options of `unspoken label`: their flags, and the request that they are parsed to.

Each field of LabelOptions is a parameter of the command `label`, and has the same name there.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cli.checking.paths import read_lines
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
        field = re.split(r"[.[]", first.where)[0]
        raise InvalidInput(_of_flag(field, first.problem, fields)) from error


def _of_flag(field: str, problem: str, fields: Mapping[str, object]) -> str:
    """Return a problem with the flag as the user typed it, and its value."""
    if not field:
        return _with_flags(problem)
    value = fields.get(field)
    if field == "run_id":
        return "--name must have 1 to 64 characters: lower-case letters, digits and hyphens"
    if field == "box_threshold":
        problem = "must be a number from 0 to 1, or 'auto'"
    return f"{flag_of(field)} {_with_flags(problem)}, got {value!r}"


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
            raise InvalidInput(
                f"--filter: {unknown_name(name, FilterConfig.model_fields, what='filter')}"
            )
        if not value:
            raise InvalidInput(
                f"--filter {name} has no value. Write {name}=VALUE, or {name}=off to disable it"
            )
        values[name] = _value(value, default=FilterConfig.model_fields[name].default)
    if blocklist is not None:
        values["blocklist"] = read_lines(blocklist, what="--blocklist")
    try:
        return FilterConfig.model_validate(values)
    except ValidationError as error:
        raise InvalidInput(f"--filter {first_problem(error, FilterConfig)}") from error


def _value(text: str, *, default: object) -> object:
    if isinstance(default, bool):
        return text
    if text == "off":
        return None
    return tuple(text.split(",")) if isinstance(default, tuple) else text
