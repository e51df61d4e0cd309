"""`python scripts/check_words.py`: find relapses into unclear English in docstrings and messages.

It looks for a short list of constructions in the docstrings and strings of all tracked Python
files, except for tests. It cannot tell good prose from bad; it only keeps the worst from coming
back.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BANNED_OPENINGS = ("What", "Whether", "Who", "Whom", "Whose", "Where")
"""First words of a docstring that make it a riddle instead of a statement."""
BANNED_PHRASES = (
    "in vain",
    "is none of",
    "knows not",
    "knows no ",
    "of one's own",
    "doorbell",
    "rings for",
    "rung for",
    "put down",
    "lets go of",
    "nor kin",
    "broke off",
    "fell silent",
)
LEFT_OUT = ("scripts/check_words.py", "tests/")
_BANNED = re.compile("|".join(map(re.escape, BANNED_PHRASES)), re.IGNORECASE)


class Problem(NamedTuple):
    """A construction that is not allowed, and its place."""

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


def find_problems(path: str, source: str) -> Iterator[Problem]:
    """Yield the problems of one Python file."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            words = (ast.get_docstring(node) or "").split(maxsplit=1)
            if words and words[0].rstrip(",:") in BANNED_OPENINGS:
                line = getattr(node, "lineno", 1)
                yield Problem(path, line, f"the docstring begins with {words[0]!r}")
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = _BANNED.search(" ".join(node.value.split()))
            if found is not None:
                yield Problem(path, node.lineno, f"the text has {found.group()!r}")


def main() -> None:
    """Print the problems of the tracked files; exit with 1 if there are any."""
    listed = subprocess.run(["git", "ls-files", "*.py"], capture_output=True, text=True, check=True)
    problems = [
        problem
        for path in listed.stdout.splitlines()
        if not path.startswith(LEFT_OUT)
        for problem in find_problems(path, Path(path).read_text(encoding="utf-8"))
    ]
    sys.stdout.writelines(f"{problem}\n" for problem in problems)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
