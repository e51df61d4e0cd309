"""The command line: `unspoken COMMAND`. An error prints one line with advice and exits with 1 or 2.

Exit code 2 stands for invalid input. Known mistakes are explained where they are detected; this
module turns all others into a line, too.
"""

import signal
import sys
from typing import Annotated

import typer

from cli.console import PlainConsole
from cli.lazy import LazyGroup
from unspoken import __version__
from unspoken.logs import configure_logging

app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


console = PlainConsole(stderr=True)

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def print_version(*, wanted: bool) -> None:
    """Print the version and exit, if `--version` was given."""
    if wanted:
        typer.echo(f"unspoken {__version__}")
        raise typer.Exit


@app.callback()
def unspoken(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=print_version, help="Print the version."),
    ] = False,
) -> None:
    """Build object-detection datasets from captioned pictures, and find masks for words.

    Runs are stored in a workspace, by default ./unspoken-work. Exit codes: 0 done, 1 failed, 2 the
    command is wrong, 130 interrupted.
    """


def main() -> None:
    """Run the command line."""
    configure_logging("WARNING", "text", layout="%(levelname)s %(message)s")
    # Graceful shutdown at SIGTERM as at Ctrl-C: the stack's processes are stopped in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        code = app(prog_name="unspoken", standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:  # noqa: BLE001
        code = _print(error)
    if code == INTERRUPTED:
        console.print("stopped")
    sys.exit(code)


def _print(error: Exception) -> int:
    """Print the line of an error; return the exit code."""
    # Imported here, because they need pydantic, and commands without a mistake start faster.
    from cli.checking.usage_lines import usage_line
    from unspoken.config.settings import wants_traceback
    from unspoken.error_lines import EXIT_INVALID, print_error

    if not isinstance(error, typer.TyperException):
        return print_error(error, debug=wants_traceback())
    if line := usage_line(error):
        sys.stderr.write(f"error: {line}\n")
    return EXIT_INVALID


if __name__ == "__main__":
    main()
