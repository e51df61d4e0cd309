"""Workspaces: folders that contain runs/, data/, redis/ and logs/. Runs are given by name."""

import re
from pathlib import Path

from unspoken.errors import NotFound
from unspoken.problem_words import nearest

DEFAULT_WORKSPACE = Path("unspoken-work")
MAX_NAME_CHARS = 64
MAX_LISTED = 10
_ENDINGS = re.compile(r"\.(tar|tgz|csv|tsv|json|jsonl|parquet|gz|bz2|xz|zst)$", re.IGNORECASE)


def runs_dir(workspace: Path) -> Path:
    """Return the folder of a workspace's runs."""
    return workspace / "runs"


def run_folder(workspace: Path, run: str) -> Path:
    """Return a run's folder. Raises NotFound with the names of the runs that exist."""
    folder = runs_dir(workspace) / run
    if run in ("", ".", "..") or Path(run).name != run or not folder.is_dir():
        names = _run_names(workspace)
        near = nearest(run, names)
        there = f"It has {', '.join(names)}" if names else "It has no runs"
        raise NotFound(
            f"there is no run {run!r} in the workspace {workspace}. "
            + (f"Did you mean {near!r}? {there}" if near else there)
        )
    return folder


def in_workspace(workspace: Path) -> str:
    """Return the option that names a workspace in a command, with a space before it.

    Empty for the default workspace.
    """
    return "" if workspace == DEFAULT_WORKSPACE else f" --workspace {workspace}"


def name_of_source(source: Path) -> str:
    """Return the name of a run of this source: `My pictures/` -> `my-pictures`."""
    name = source.name
    while (shorter := _ENDINGS.sub("", name)) != name:
        name = shorter
    words = re.sub(r"[^a-z0-9]+", "-", name.lower())[:MAX_NAME_CHARS].strip("-")
    return words or "labels"


def _run_names(workspace: Path) -> list[str]:
    if not runs_dir(workspace).is_dir():
        return []
    found = sorted(path.parent.name for path in runs_dir(workspace).glob("[!.]*/run.json"))
    return found[:MAX_LISTED] + (["..."] if len(found) > MAX_LISTED else [])
