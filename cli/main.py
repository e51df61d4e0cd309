"""The command line: `unspoken COMMAND`. An error prints one line with advice."""

import signal
import sys
from typing import Annotated

import typer

from cli.console import PlainConsole, print_error
from cli.lazy import LazyGroup
from unspoken import __version__
from unspoken.errors import InvalidInput, UnspokenError
from unspoken.logs import configure_logging

app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


console = PlainConsole(stderr=True)


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
        app(prog_name="unspoken")
    except KeyboardInterrupt:
        console.print("stopped")
        sys.exit(130)
    except UnspokenError as error:
        print_error(console, error)
        sys.exit(2 if isinstance(error, InvalidInput) else 1)
    except OSError as error:
        # A full disk or a folder without permission is not a bug: the user can repair it.
        print_error(
            console, InvalidInput(f"{error.filename or 'a file'}: {error.strerror or error}")
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
