"""Exit a process on a configuration mistake: one line on standard error, status 1."""

import sys
from collections.abc import Callable

from unspoken.errors import InvalidConfig
from unspoken.safe_text import escape_controls


def run_main(main: Callable[[], None]) -> None:
    """Run a process's main function. Invalid settings or weights end it without a traceback."""
    try:
        main()
    except InvalidConfig as error:
        sys.exit(escape_controls(f"{error.code}: {error.message}", keep="\n"))
