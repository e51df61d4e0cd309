"""`make reference`: write the pages of the command line and of the settings from the code."""

from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from cli.lazy import LazyCommand
from cli.main import app
from cli.settings_table import settings_table

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
PAGE = REFERENCE / "cli.md"
_HEAD = """# Command line

This page is written by `make reference` from the commands themselves. `unspoken COMMAND --help`
prints the same.
"""


def cli_page() -> str:
    """Return the page as markdown."""
    root = typer.main.get_command(app)
    context = root.context_class(root, info_name="unspoken")
    sections = [_section(command, each) for command, each in commands(root, context)]
    return "\n".join([_HEAD, *sections])


def commands(
    command: TyperCommand | TyperGroup, context: Any
) -> Iterator[tuple[TyperCommand, Any]]:
    """Yield every command that does something, with its context, in the order of the help."""
    if not isinstance(command, TyperGroup):
        yield command, context
        return
    for name in command.list_commands(context):
        inner = loaded(command.get_command(context, name))
        yield from commands(inner, inner.context_class(inner, info_name=name, parent=context))


def loaded(command: Any) -> TyperCommand | TyperGroup:
    """Return a command with its options; import its module if it was not imported yet."""
    return command.load() if isinstance(command, LazyCommand) else command


def _section(command: TyperCommand, context: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    usage = " ".join((context.command_path, "[OPTIONS]", *map(_metavar, arguments)))
    lines = [f"## `{context.command_path}`", "", _plain(command.help or ""), ""]
    lines += ["```text", usage, "```", ""]
    rows = [row for each in command.params if (row := _row(each)) is not None]
    if rows:
        lines += ["| argument or option | default | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _row(parameter: Any) -> str | None:
    if parameter.hidden:
        return None
    default = "" if parameter.required else _default(parameter)
    lines = (parameter.help or "").lstrip("\b").strip().splitlines()
    joined = "<br>".join(lines) if (parameter.help or "").startswith("\b") else " ".join(lines)
    about = " ".join(joined.split()).replace("|", "\\|")
    return f"| `{_name(parameter)}` | {default} | {about} |"


def _metavar(argument: Any) -> str:
    name = _name(argument) + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    return ", ".join((*parameter.opts, *parameter.secondary_opts))


def _default(parameter: Any) -> str:
    value = parameter.default
    if value is None or value is False or value == () or callable(value):
        return ""
    return f"`{value}`"


def _plain(text: str) -> str:
    """Return help text as markdown; examples and preformatted paragraphs become fenced ones."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        head, _, indented = paragraph.partition("\n ")
        if paragraph.startswith("\b"):
            paragraphs.append(_fenced(paragraph.lstrip("\b\n")))
        elif indented:
            paragraphs += [head, _fenced(dedent(f" {indented}"))]
        else:
            paragraphs.append(" ".join(paragraph.split()))
    return "\n\n".join(paragraphs)


def _fenced(text: str) -> str:
    return f"```sh\n{text.strip()}\n```"


def main() -> None:
    """Write both pages."""
    PAGE.write_text(cli_page(), encoding="utf-8")
    (REFERENCE / "settings.md").write_text(settings_table(), encoding="utf-8")


if __name__ == "__main__":
    main()
