"""Workspaces with an earlier run: the same command resumes it, and a different one is refused."""

from collections.abc import Iterator
from pathlib import Path

from cli.label_options import flag_of
from cli.labelling import LocalSource
from cli.workspace import in_workspace
from unspoken.errors import Conflict
from unspoken.runs.location import locate_source
from unspoken.runs.store import find_run, read_run, read_status
from unspoken.wire.runs import RunRequest, RunStatus
from worker.sources.source_changes import SourceChanges, compare_source


def earlier_run(workspace: Path, there: LocalSource, request: RunRequest) -> RunStatus | None:
    """Return the run of a workspace that the same command started; None if there is none.

    Raises Conflict with the differences if the workspace's run has another request.
    """
    try:
        return find_run(there.data_dir, workspace / "runs", request)
    except Conflict as error:
        differences = error.details.get("differences")
        if not isinstance(differences, dict):
            raise
        status = read_status(workspace / "runs", request.run_id or "")
        told = "; ".join(
            words.replace(f"its {field} ", f"its {flag_of(field)} ", 1)
            for field, words in differences.items()
        )
        raise Conflict(
            f"{workspace} contains the run {status.run_id!r} ({status.state}, {status.done} of "
            f"{status.total} pictures): {told}. Choose another name with --name, or another "
            "workspace with --workspace"
        ) from error


def describe_ended(status: RunStatus, workspace: Path) -> str | None:
    """Return advice on a run that was cancelled or has failed; None for any other run."""
    if status.state == "cancelled":
        return f"`unspoken fork {status.run_id}{in_workspace(workspace)}` starts the same run again"
    if status.state == "failed":
        return "fix the cause, then label under another name with --name"
    return None


def describe_changes(workspace: Path, run_id: str, *, source: str) -> Iterator[str]:
    """Yield lines that say how a run's source has changed since planning, with advice."""
    runs_dir = workspace / "runs"
    run = read_run(runs_dir, run_id)
    if run.retry_of is not None:
        return
    changes = compare_source(runs_dir / run_id, locate_source(run, runs_dir=runs_dir))
    if not changes:
        return
    yield f"{source} has changed since this run: {_counts(changes)} since it was planned."
    name = _free_name(runs_dir, run_id)
    yield (
        "The dataset does not contain these changes. To label the source as it is now: "
        f"`unspoken label {source}{in_workspace(workspace)} --name {name}`"
    )


def _counts(changes: SourceChanges) -> str:
    numbers = (("new", changes.new), ("changed", changes.changed), ("gone", changes.gone))
    first, *others = [f"{number} {word}" for word, number in numbers if number]
    kind = "pictures are" if first.split()[0] != "1" else "picture is"
    number, word = first.split()
    return ", ".join([f"{number} {kind} {word}", *others])


def _free_name(runs_dir: Path, run_id: str) -> str:
    number = 2
    while (runs_dir / f"{run_id}-{number}").exists():
        number += 1
    return f"{run_id}-{number}"
