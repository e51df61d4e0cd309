"""Parses `unspoken` command lines with the real command line, without running anything."""

import shlex
from collections.abc import Iterator
from typing import NamedTuple

import typer
from typer.core import TyperGroup

from cli.main import app
from scripts.reference_pages import loaded
from tests.docs.pages import NOT_RUN

STOPS = {"|", ">", "&&", ";", "&"}


class Line(NamedTuple):
    """A command line of a shell block: variables set in front of it, and its words."""

    variables: tuple[str, ...]
    words: tuple[str, ...]


def command_lines(text: str) -> Iterator[Line]:
    """Yield the commands of a shell block, without comments, pipes and redirections."""
    for words in _lines_of_words(text):
        start = 0
        for index in (*(i for i, word in enumerate(words) if word in STOPS), len(words)):
            command = words[start:index]
            start = index + 1
            variables = []
            while command and "=" in command[0] and not command[0].startswith("-"):
                variables.append(command.pop(0).partition("=")[0])
            if command:
                yield Line(tuple(variables), tuple(command))


def _lines_of_words(text: str) -> Iterator[list[str]]:
    """Split a block into lines of words; a quoted text may span several lines."""
    pending = ""
    for line in text.replace("\\\n", " ").splitlines():
        if not pending and NOT_RUN in line and line.startswith("curl"):
            continue
        pending = f"{pending}\n{line}" if pending else line
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quotation is open
            continue
        pending = ""
        yield words
    assert not pending, f"no closing quotation: {pending}"


def problem_of(words: tuple[str, ...], *, whole: bool = True) -> str | None:
    """Return what the command line would reject in `unspoken WORDS`; None if it is accepted.

    Files need not exist. whole: required arguments and options must be there.
    """
    command = typer.main.get_command(app)
    context = command.context_class(command, info_name="unspoken")
    rest = list(words)
    while isinstance(command, TyperGroup):
        if not rest:
            return None
        name = rest.pop(0)
        inner = command.get_command(context, name)
        if inner is None:
            return f"no command {name}"
        command = loaded(inner)
        context = command.context_class(command, info_name=name, parent=context)
    try:
        values, extra, _ = command.make_parser(context).parse_args(args=rest)
    except Exception as error:  # noqa: BLE001 - typer's own copy of click has no public errors
        if whole or "Missing" not in str(error):
            return str(error)
        return None
    if extra:
        return f"unexpected {extra}"
    missing = [each.name for each in command.params if each.required and not values.get(each.name)]
    return f"missing {missing}" if whole and missing else None
