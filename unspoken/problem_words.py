"""Validation errors in plain words, the same for every service, the client and the command line.

Pydantic's own messages name Python types ("Tuple should have at most 64 items after validation"),
and say of an unknown field only that it is not permitted.
"""

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any, NamedTuple, TypeAlias, get_args, get_origin

from pydantic import BaseModel, ValidationError

MAX_EXPECTED_CHARS = 300
MAX_NAME_CHARS = 64
MAX_PROBLEMS = 20
Location: TypeAlias = tuple[str | int, ...]

_UNKNOWN = "extra_forbidden"
_NO_HINTS: Mapping[str, str] = {}
_WORDS: Mapping[str, str] = {
    "missing": "is missing",
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


class Problem(NamedTuple):
    """One problem of an input: its place, such as `queries[0].text`, and what is wrong there.

    `message` says both in one sentence.
    """

    where: str
    problem: str
    message: str


def plain_problems(error: ValidationError, kind: Any = None) -> list[Problem]:
    """Return the first problems of a validation, without the input.

    Unknown fields come first, because a misspelt field is also missing under its right name.
    `kind` is the model or type that was validated; if given, unknown fields get a suggestion.
    """
    problems = error.errors(include_input=False, include_url=False)
    problems.sort(key=lambda each: each["type"] != _UNKNOWN)
    return [plain_problem(each, kind) for each in problems[:MAX_PROBLEMS]]


def first_problem(error: ValidationError, kind: Any = None) -> str:
    """Return the first problem of a validation as one line; see `plain_problems`."""
    return plain_problems(error, kind)[0].message


def plain_problem(problem: Mapping[str, Any], kind: Any = None) -> Problem:
    """Return one of pydantic's errors as a Problem; see `plain_problems`."""
    where: Location = problem["loc"]
    if problem["type"] == _UNKNOWN:
        owner = _owner(kind, where)
        words = unknown_name(
            str(where[-1]),
            () if owner is None else owner.model_fields,
            hints=getattr(owner, "field_hints", _NO_HINTS),
            owner=place(where[:-1]),
        )
        return Problem(place(where), words, words)
    words = _words_of(problem)
    return Problem(place(where), words, f"{place(where)}: {words}" if where else words)


def unknown_names(
    names: Iterable[str],
    *,
    known: Collection[str],
    what: str = "field",
    owner: str = "",
    hints: Mapping[str, str] = _NO_HINTS,
) -> list[Problem]:
    """Return a problem for each of the first names that are not known; see `unknown_name`."""
    problems = []
    for name in islice((name for name in names if name not in known), MAX_PROBLEMS):
        words = unknown_name(name, known, what=what, owner=owner, hints=hints)
        problems.append(Problem(name[:MAX_NAME_CHARS], words, words))
    return problems


def place(where: Location) -> str:
    """Return a location as a path: ("queries", 0, "text") -> queries[0].text.

    Only the start of a long name is shown.
    """
    parts = (
        f"[{part}]" if isinstance(part, int) else f".{part[:MAX_NAME_CHARS]}" for part in where
    )
    return "".join(parts).removeprefix(".")


def unknown_name(
    name: str,
    known: Iterable[str],
    *,
    what: str = "field",
    owner: str = "",
    hints: Mapping[str, str] = _NO_HINTS,
) -> str:
    """Return the message for an unknown name, with the nearest of the known names.

    Args:
        name: The unknown name. Only its start is shown and compared, because it may be long.
        known: The valid names.
        what: The kind of thing that has the name.
        owner: The place of the object that has the field.
        hints: Lower-case unknown name -> hint, for frequent mistakes.
    """
    name, known = name[:MAX_NAME_CHARS], sorted(known)
    message = f"unknown {what} {name!r}{f' of {owner}' if owner else ''}"
    if (hint := hints.get(name.lower())) is not None:
        return f"{message}; {hint}"
    if near := nearest(name, known):
        return f"{message}; did you mean {near!r}?"
    return f"{message}; known are {', '.join(known)}" if known else message


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the most similar of the known names; None if all are less similar than `cutoff`."""
    names = {each.lower(): each for each in known}
    near = get_close_matches(name[:MAX_NAME_CHARS].lower(), names, n=1, cutoff=cutoff)
    return names[near[0]] if near else None


def _words_of(problem: Mapping[str, Any]) -> str:
    words = _WORDS.get(str(problem["type"]))
    if words is None:  # an error of our own validators
        return str(problem["msg"]).removeprefix("Value error, ")
    try:
        return words.format(**problem.get("ctx", {}))[:MAX_EXPECTED_CHARS]
    except KeyError:
        return str(problem["msg"])


def _owner(kind: Any, where: Location) -> type[BaseModel] | None:
    """Return the model that would have the field at this location; None if that is unclear."""
    for part in where[:-1]:
        kind = _inside(kind, part)
    return _model_in(kind)


def _inside(kind: Any, part: str | int) -> Any:
    """Return the type of a field, an item or a value in a type; None if there is no such part."""
    if (model := _model_in(kind)) is not None:
        field = model.model_fields.get(str(part))
        return None if field is None else field.annotation
    arguments = get_args(kind)
    if get_origin(kind) in (dict, list, tuple):
        return arguments[-1 if isinstance(part, str) else 0]
    return next((found for each in arguments if (found := _inside(each, part))), None)


def _model_in(kind: Any) -> type[BaseModel] | None:
    """Return a model, also of `Model | None` or Annotated[Model, ...]; None for anything else."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    if get_origin(kind) in (dict, list, tuple):
        return None
    return next((model for each in get_args(kind) if (model := _model_in(each))), None)
