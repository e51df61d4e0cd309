"""Mistakes in a command's arguments as one line: unknown options, wrong values, missing arguments.

Typer would print a usage, a hint and a frame of several lines, with pydantic's words in it. A
module of its own because only mistakes need pydantic.
"""

import re

import typer
from pydantic import ValidationError

from unspoken.problem_words import plain_problem
from unspoken.safe_text import escape_controls

_CHOICES = re.compile(r"'.*' is (not one of .+?)\.?", re.DOTALL)


def usage_line(error: typer.TyperException) -> str:
    """Return the line of an error that Typer raised; empty if Typer has shown the help instead."""
    text = _wrong_value(error) or error.format_message().strip().rstrip(".")
    if not text:
        return ""
    near = getattr(error, "possibilities", None)
    if near:  # format_message would list all of them in brackets
        text = f"{error.message}. Did you mean {near[0]}?"
    elif "did you mean" not in text.lower():
        text += _advice(error)
    return escape_controls(text[0].lower() + text[1:])


def _wrong_value(error: typer.TyperException) -> str:
    """Return the message of a value that pydantic refused, with the value; empty for others."""
    cause, param = error.__cause__, getattr(error, "param", None)
    if not isinstance(cause, ValidationError) or param is None:
        return ""
    problem = cause.errors(include_url=False)[0]
    words = plain_problem({**problem, "loc": ()}).problem
    if found := _CHOICES.fullmatch(words):
        words = found[1].replace("not one of", "must be one of")
    return f"{param.get_error_hint().strip(chr(39))} {words}, got {problem['input']!r}"


def _advice(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return "" if context is None else f". Run `{context.command_path} --help` to see what it takes"
