"""`unspoken train` and `unspoken evaluate`: pass their arguments to training's command lines.

The training modules are imported here only when needed, because they need torch and more.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import typer

from unspoken.errors import InvalidConfig

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of a command that passes its arguments to another command."""


def run_train(arguments: Sequence[str]) -> None:
    """Train the small detector if the first argument is `detector`, else Semantic-SAM."""
    _check_installed()
    if arguments[:1] == ["detector"]:
        from training.detector.train import main as train_detector

        _hand_on(train_detector, arguments[1:], name="unspoken train detector")
        return
    from training.train import main as train

    _hand_on(train, arguments, name="unspoken train")


def run_evaluate(arguments: Sequence[str]) -> None:
    """Run training.evaluate with the arguments."""
    _check_installed()
    from training.evaluate import main as evaluate

    _hand_on(evaluate, arguments, name="unspoken evaluate")


def _hand_on(command: Callable[..., None], arguments: Sequence[str], *, name: str) -> None:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    app(list(arguments), prog_name=name, standalone_mode=False)


def _check_installed() -> None:
    missing = [name for name in ("scipy", "segment_anything", "torch") if find_spec(name) is None]
    if missing:
        raise InvalidConfig(f"training needs {', '.join(missing)}: pip install unspoken-stack")
