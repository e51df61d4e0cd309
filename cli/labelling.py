"""Labelling from the command line: starts a stack for a workspace and shows a run's progress.

Runs are followed over HTTP, so that local and remote stacks are used in the same way.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from cli.checking.paths import check_exists, check_folder
from cli.checking.stack import check_stack
from cli.local.launcher import Stack, StackConfig
from cli.status_view import describe
from unspoken.client import Client
from unspoken.errors import (
    Conflict,
    DeadlineExceeded,
    NotReady,
    ServiceUnavailable,
)
from unspoken.safe_text import escape_controls, escape_json, redact
from unspoken.wire.runs import ENDED, RunStatus
from worker.sources.intake import check_source

POLL_S = 0.5
# Time after which a run counts as stalled; a restarting dispatcher is back earlier.
STALLED_S = 60.0


@contextmanager
def running_stack(
    config: StackConfig, console: Console, *, resume: str = "run the same command to resume"
) -> Iterator[Stack]:
    """Start the stack, wait until it is ready, and show which services are still loading.

    resume: text that tells the user, after Ctrl-C, how to resume the work.
    """
    check_stack(profile=config.profile)
    with Stack(config) as stack:
        try:
            with console.status("starting Redis, services, dispatcher and worker") as line:
                stack.wait_ready(on_wait=lambda names: line.update(f"loading: {', '.join(names)}"))
            yield stack
        except KeyboardInterrupt:
            # Printed before the stack is stopped, because that takes some seconds.
            console.print(f"stopping after the current items; {resume}", soft_wrap=True)
            raise


class _StalledRun:
    """Detects that no dispatcher works on a run that is followed."""

    def __init__(self) -> None:
        self._since_s: float | None = None

    def look(self, status: RunStatus) -> None:
        """Raise NotReady if the run has been stalled for `STALLED_S`, by this machine's clock."""
        if status.stalled_since_s is None:
            self._since_s = None
            return
        now_s = time.monotonic()
        self._since_s = now_s if self._since_s is None else self._since_s
        if now_s - self._since_s >= STALLED_S:
            raise NotReady(
                f"no dispatcher is working on run {status.run_id!r}: start one at the gateway. "
                "The run is kept and then resumes; to follow it, run "
                f"`unspoken status {status.run_id} --watch --url URL`"
            )


def follow(
    read: Callable[[], RunStatus],
    console: Console,
    *,
    each_poll: Callable[[], None] | None = None,
) -> RunStatus:
    """Show a run's progress and its new messages until it ends; return its last status.

    each_poll: called after each read, to restart dead processes of a local stack. With it, an
    unreachable gateway is waited for. Without it, a run without a dispatcher raises NotReady.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pictures"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar, told, stalled = progress.add_task("planning", total=None), "", _StalledRun()
        while True:
            try:
                status = read()
            except (DeadlineExceeded, NotReady, ServiceUnavailable):
                if each_poll is None:
                    raise
                progress.update(bar, description="waiting for the gateway to restart")
            else:
                progress.update(
                    bar,
                    description=status.state,
                    total=status.total or None,
                    completed=status.done,
                )
                if status.state in ENDED:
                    return status
                reason = status.message.partition("; retrying")[0]  # without the countdown
                if reason and reason != told:
                    progress.console.print(escape_controls(status.message), markup=False)
                told = reason
                if each_poll is None:
                    stalled.look(status)
            if each_poll is not None:
                each_poll()
            time.sleep(POLL_S)


def describe_start(status: RunStatus) -> str:
    """Return a line about a run that is resumed."""
    return f"continuing {describe(status)}"


def follow_at_gateway(client: Client, run_id: str, url: str, console: Console) -> RunStatus:
    """Follow a run at a gateway, where it also continues without this command."""
    try:
        return follow(lambda: client.runs.read(run_id), console)
    except KeyboardInterrupt:
        console.print(
            "the run continues at the gateway; to follow it, run "
            f"`unspoken status {run_id} --url {redact(url)} --watch`",
            markup=False,
            soft_wrap=True,
        )
        raise


def finish(ended: RunStatus, *, as_json: bool, advice: str | None = None) -> None:
    """Print a run's result. Raises Conflict with advice unless the run is done."""
    if as_json:
        typer.echo(escape_json(ended.model_dump_json()))
    else:
        typer.echo(describe(ended))
        typer.echo(f"dataset: {ended.output}")
    if ended.state != "done":
        why = ended.message or ("see the dispatcher log" if ended.state == "failed" else "")
        told = f"the run is {ended.state}" + (f": {why}" if why else "")
        raise Conflict(f"{told}; {advice}" if advice else told)


class LocalSource(NamedTuple):
    """A source on this machine: its data folder, and paths relative to that folder."""

    data_dir: Path
    source: str
    pictures: str | None = None

    def check(self) -> None:
        """Raise InvalidInput if no picture of the source can be labelled; reads its first rows."""
        pictures = None if self.pictures is None else self.data_dir / self.pictures
        check_source(self.data_dir / self.source, root=self.data_dir, pictures=pictures)


def local_source(source: Path, *, pictures: Path | None = None) -> LocalSource:
    """Return the data folder and relative paths of a source. Raises InvalidInput.

    A folder is its own data folder. A table's pictures are below the table's folder or in
    `pictures`. In the second case the data folder is the nearest folder that contains both.
    """
    path = source.expanduser().resolve()
    check_exists(source.expanduser(), what="the source")
    data_dir = path if path.is_dir() else path.parent
    if pictures is None:
        return LocalSource(data_dir, path.relative_to(data_dir).as_posix())
    folder = pictures.expanduser().resolve()
    check_folder(pictures.expanduser(), what="--pictures")
    data_dir = Path(os.path.commonpath([data_dir, folder]))
    below = [each.relative_to(data_dir).as_posix() for each in (path, folder)]
    return LocalSource(data_dir, *below)
