"""Validation errors in plain words, the same for every service, the client and the command line.

Pydantic's own messages name Python types ("Tuple should have at most 64 items after validation"),
and say of an unknown field only that it is not permitted.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

MAX_EXPECTED_CHARS = 300
_WORDS: Mapping[str, str] = {
    "missing": "is missing",
    "extra_forbidden": "is an unknown field",
    "string_type": "must be a text",
    "string_unicode": "is not valid Unicode",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "json_invalid": "is not JSON: {error}",
}


def plain_problem(problem: Mapping[str, Any], model: type[BaseModel] | None = None) -> str:
    """Return the message for one of pydantic's errors.

    `model` is the model that was validated; if given, an unknown field gets a suggestion.
    """
    kind = str(problem["type"])
    words = _WORDS.get(kind)
    if words is None:  # an error of our own validators
        return str(problem["msg"]).removeprefix("Value error, ")
    try:
        text = words.format(**problem.get("ctx", {}))[:MAX_EXPECTED_CHARS]
    except KeyError:
        return str(problem["msg"])
    if kind == "extra_forbidden" and model is not None:
        text += _suggestion(model, problem["loc"])
    return text


def plain_problems(error: ValidationError, model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return pydantic's list of errors with plain messages, and without the input."""
    return [
        {"type": "problem", "loc": each["loc"], "msg": plain_problem(each, model)}
        for each in error.errors(include_input=False, include_url=False)
    ]


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first of pydantic's errors as one line: `place.of.field: message`."""
    first = plain_problems(error, model)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _suggestion(model: type[BaseModel], where: tuple[str | int, ...]) -> str:
    """Return the hint for an unknown field: the model's own, or the nearest name."""
    owner: type[BaseModel] | None = model
    for part in where[:-1]:
        if isinstance(part, str) and owner is not None:
            field = owner.model_fields.get(part)
            owner = None if field is None else next(_models_in(field.annotation), None)
    if owner is None:
        return ""
    name = str(where[-1])
    hint = getattr(owner, "field_hints", {}).get(name.lower())
    if hint is not None:
        return f": {hint}"
    near = get_close_matches(name.lower(), owner.model_fields, n=1)
    known = ", ".join(sorted(owner.model_fields))
    return f": did you mean {near[0]}?" if near else f"; known are {known}"


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in an annotation, also inside lists, unions and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
