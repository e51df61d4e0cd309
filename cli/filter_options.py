"""Parses filters of the command line: NAME=VALUE replaces a default, NAME=off disables a filter."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from unspoken.errors import InvalidInput
from unspoken.problem_words import plain_problem
from unspoken.wire.filters import FilterConfig


def parse_filters(settings: Sequence[str], *, blocklist: Path | None = None) -> FilterConfig:
    """Return the filters of a run. Raises InvalidInput.

    settings: such as 'min_similarity=0.3', 'language=off', 'nsfw_ratings=UNLIKELY,UNSURE'.
    blocklist: a file with one word or phrase per line, which replaces the default list.
    """
    values: dict[str, object] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in FilterConfig.model_fields or not value:
            names = ", ".join(FilterConfig.model_fields)
            raise InvalidInput(f"{setting!r} is not NAME=VALUE, NAME one of: {names}")
        values[name] = _value(value, default=FilterConfig.model_fields[name].default)
    if blocklist is not None:
        values["blocklist"] = _read_lines(blocklist)
    try:
        return FilterConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(f"filter {first['loc'][0]}: {plain_problem(first)}") from error


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
