"""Errors as one line for people: what happened, to what, and what to do next.

The command line, the services and the worker print this line instead of a traceback.
"""

import errno
import sys
import traceback

from pydantic import ValidationError

from unspoken.errors import InvalidInput, Unauthorized, UnspokenError
from unspoken.problem_words import first_problem
from unspoken.safe_text import escape_controls, redact

EXIT_INVALID, EXIT_FAILED = 2, 1
_ADVICE = {
    errno.ENOSPC: "Free some space on this disk, then run the same command again",
    errno.EDQUOT: "Free some of your quota, then run the same command again",
    errno.EACCES: "Ask for permission, or choose another path",
    errno.EPERM: "Ask for permission, or choose another path",
    errno.EROFS: "Choose a path on a disk that can be written",
    errno.ENOENT: "Check the path",
    errno.EISDIR: "Name a file instead",
    errno.ENOTDIR: "Choose another path: one of its parts is a file, not a folder",
    errno.EEXIST: "Choose another path: this one is a file, not a folder",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.EMFILE: "Raise the limit of open files: ulimit -n 4096",
    errno.EADDRINUSE: "Stop the program that uses the port, or choose another port",
    errno.ECONNREFUSED: "Check that the program at this address runs",
}


def print_error(error: BaseException, *, debug: bool) -> int:
    """Print the line of an error to standard error; return the exit code of the process.

    debug: print the traceback, too.
    """
    if debug:
        traceback.print_exception(error)
    sys.stderr.write(f"error: {error_line(error)}\n")
    return EXIT_INVALID if isinstance(error, InvalidInput) else EXIT_FAILED


def error_line(error: BaseException) -> str:
    """Return the message of an error, without secrets and control characters."""
    match error:
        case Unauthorized():
            text = f"{error.message}. Set UNSPOKEN_CLIENT_KEY to a key that the service accepts"
        case UnspokenError():
            return escape_controls(error.message, keep="\n\t")
        case OSError() if error.errno is not None:
            text = _of_the_system(error)
        case _:
            text = _unexpected(error)
    return escape_controls(redact(text))


def _of_the_system(error: OSError) -> str:
    reason = (error.strerror or type(error).__name__).lower()
    path = f"{error.filename}: " if error.filename else ""
    advice = _ADVICE.get(error.errno or 0, "Check the disk and the path, then try again")
    return f"{path}{reason}. {advice}"


def _unexpected(error: BaseException) -> str:
    """Return a line that asks for a report: no mistake of a user is known to lead here."""
    reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
    first = reason.strip().partition("\n")[0].rstrip(".")
    named = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return (
        f"unexpected {named}. This is a fault of Unspoken: report it in the project's issue "
        "tracker, with the traceback that the same command prints with UNSPOKEN_DEBUG=1"
    )
