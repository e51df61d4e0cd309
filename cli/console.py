"""Prints to the terminal without interpreting text as markup or escape sequences.

A module of its own because every command prints through it.
"""

from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from unspoken.safe_text import escape_controls


class PlainConsole(Console):
    """A console that ignores markup and emoji codes, and escapes control characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """See Console."""
        return super().render_str(escape_controls(text, keep="\n\t"), **options)


def say(text: str) -> None:
    """Print text to standard output with its control characters escaped."""
    typer.echo(escape_controls(text, keep="\n\t"))
