"""Counts crashes of the dispatcher at one run, so that a bad source cannot crash it forever.

Reading a damaged source may kill the whole process without an exception: out of memory, or a fault
in a native library. RUN_DIR/dispatcher-crashes holds the number of steps that were started and did
not end. The file is removed when a step ends, with or without an error, and when the dispatcher is
stopped.
"""

from pathlib import Path

from unspoken.errors import UnspokenError
from unspoken.runs import storage

MAX_CRASHES = 5
"""Higher than the number of times an operator may kill one step. SIGTERM does not count."""
_FILE = "dispatcher-crashes"


def begin_step(run_dir: Path, what: str) -> None:
    """Record that a step begins. Raises UnspokenError after too many crashes, and OSError."""
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
    """Record that the step has ended or was stopped."""
    storage.remove(run_dir / _FILE)


def count_unended(run_dir: Path) -> int:
    """Return the number of steps that were started and did not end, including the current one."""
    content = storage.read(run_dir / _FILE) or b""
    return int(content) if content.isdigit() and len(content) < 4 else 0
