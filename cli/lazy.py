"""The table of commands. A command's module is imported when the command runs.

`unspoken --help` therefore imports none of them: it reads the first line of each docstring from the
source. A command is the function of its name in its module; a group of commands is the Typer
application `NAME_app`, and the function of its name is the callback.
"""

import ast
import inspect
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

VERBS = {
    "Label pictures": {
        "demo": "cli.verbs.stack",
        "label": "cli.verbs.label",
        "status": "cli.verbs.runs",
        "report": "cli.verbs.datasets",
        "export": "cli.verbs.datasets",
        "verify": "cli.verbs.datasets",
        "retry": "cli.verbs.label",
        "cancel": "cli.verbs.runs",
        "fork": "cli.verbs.runs",
    },
    "Serve models": {
        "up": "cli.verbs.stack",
        "segment": "cli.verbs.pictures",
        "embed": "cli.verbs.pictures",
    },
    "Train models": {
        "train": "cli.verbs.training",
        "evaluate": "cli.verbs.training",
    },
    "Set up and experiment": {
        "weights": "cli.verbs.setup",
        "key": "cli.verbs.setup",
        "settings": "cli.verbs.setup",
        "world": "cli.verbs.experiments",
        "reproduce": "cli.verbs.experiments",
    },
}
"""Heading -> command -> module, in the order in which a user needs them."""


class LazyGroup(TyperGroup):
    """A group of the commands of VERBS."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.help = _flowing(self.help or "")
        for heading, modules in VERBS.items():
            for name, module in modules.items():
                self.add_command(LazyCommand(name, module, heading=heading))


class LazyCommand(TyperCommand):
    """Stands for a command in the list of commands, and imports it when it runs."""

    def __init__(self, name: str, module: str, *, heading: str) -> None:
        summary = _docstrings(module)[name].partition("\n")[0]
        super().__init__(name, help=summary, rich_help_panel=heading)
        self._module = module

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Return the context of the imported command."""
        return self.load().make_context(info_name, args, parent, **extra)

    def load(self) -> Any:
        """Import the command's module; return the command with its options."""
        assert self.name is not None
        module = import_module(self._module)
        app = getattr(module, f"{self.name}_app", None)
        if app is None:
            app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            app.command(self.name)(getattr(module, self.name))
        command = get_command(app)
        command.help = _flowing(command.help or "")
        return command


@cache
def _docstrings(module: str) -> dict[str, str]:
    """Return function -> docstring of a module that is not imported."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, f"{module} is one of ours"
    tree = ast.parse(Path(spec.origin).read_bytes())
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return {each.name: ast.get_docstring(each) or "" for each in functions}


def _flowing(text: str) -> str:
    """Join the lines of each paragraph; those with indented lines, as examples have, stay."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(each if "\n " in each else each.replace("\n", " ") for each in paragraphs)
