"""Counts crashes of the dispatcher at one run, so that a bad source cannot crash it for ever.

Reading a damaged source may kill the whole process: out of memory, or a fault in a native library.
No exception says so. RUN_DIR/dispatcher-crashes holds the number of steps that were begun and never
ended; it is removed where a step ends well or badly, and where the dispatcher is stopped.
"""

from pathlib import Path

from unspoken.errors import UnspokenError
from unspoken.runs import storage

MAX_CRASHES = 5
"""More than an operator's kills at one step; a restart by SIGTERM does not count."""
_FILE = "dispatcher-crashes"


def begin_step(run_dir: Path, what: str) -> None:
    """Note that a step begins. Raises UnspokenError after too many crashes, and OSError."""
    path = run_dir / _FILE
    crashes = count_unended(run_dir)
    if crashes >= MAX_CRASHES:
        storage.remove(path)
        raise UnspokenError(
            f"{what} this run ended the dispatcher {crashes} times without an error: out of memory,"
            " or a damaged file that crashes a library; see the system's log and the source, then "
            f"`unspoken fork {run_dir.name}`"
        )
    storage.replace(path, str(crashes + 1).encode())


def end_step(run_dir: Path) -> None:
    """Note that the step has ended, or was stopped."""
    storage.remove(run_dir / _FILE)


def count_unended(run_dir: Path) -> int:
    """Return how many steps of the run were begun and not ended, the present one included."""
    content = storage.read(run_dir / _FILE) or b""
    return int(content) if content.isdigit() and len(content) < 4 else 0
