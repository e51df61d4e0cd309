"""Labelling from the command line: starts a stack for a workspace and shows a run's progress.

Runs are followed over HTTP, so that local and remote stacks are used in the same way.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import typer
from rich.console import Console

from cli.checking.paths import check_exists, check_folder
from cli.checking.stack import check_stack
from cli.local.launcher import Stack, StackConfig
from cli.progress import shown_progress
from cli.status_view import describe, finished
from unspoken.client import Client
from unspoken.config.profiles import load_profile
from unspoken.config.settings import ProcessSettings
from unspoken.errors import (
    Conflict,
    DeadlineExceeded,
    NotReady,
    ServiceUnavailable,
)
from unspoken.progress import Progress, Stage
from unspoken.safe_text import escape_controls, escape_json, redact
from unspoken.wire.runs import ENDED, RunStatus
from worker.sources.intake import check_source

POLL_S = 0.5
# Time after which a run counts as stalled; a restarting dispatcher is back earlier.
STALLED_S = 60.0


@contextmanager
def running_stack(
    config: StackConfig,
    console: Console,
    *,
    resume: str = "run the same command to resume",
    quiet: bool = False,
) -> Iterator[Stack]:
    """Start the stack, wait until it is ready, and show which services are still loading.

    resume: text that tells the user, after Ctrl-C, how to resume the work.
    """
    check_stack(profile=config.profile)
    models = _model_names(config.profile)
    progress = shown_progress(console, quiet=quiet)
    with Stack(config) as stack:
        try:
            with progress.stage("starting", total=len(stack.urls), unit="services") as stage:
                waiting = len(stack.urls)

                def show(names: list[str]) -> None:
                    nonlocal waiting
                    loading = (f"{name} {models.get(name, '')}".strip() for name in names)
                    stage.advance(waiting - len(names), note=f"loading {', '.join(loading)}")
                    waiting = len(names)

                stack.wait_ready(on_wait=show)
                stage.advance(waiting, note="")
            yield stack
        except KeyboardInterrupt:
            # Printed before the stack is stopped, because that takes some seconds.
            console.print(f"stopping after the current items; {resume}", soft_wrap=True)
            raise


def _model_names(profile: str | None) -> dict[str, str]:
    """Return kind -> name of the models of a profile; None stands for the user's profile."""
    settings = ProcessSettings()
    if profile is None:
        models = settings.read_profile().models
    else:
        models = load_profile(profile, models_file=settings.models_file).models
    return {model.kind: model.name for model in models}


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
    quiet: bool = False,
) -> RunStatus:
    """Show a run's progress and its new messages until it ends; return its last status.

    each_poll: called after each read, to restart dead processes of a local stack. With it, an
    unreachable gateway is waited for. Without it, a run without a dispatcher raises NotReady.
    """
    told, stalled = "", _StalledRun()
    with _ShownRun(shown_progress(console, quiet=quiet)) as shown:
        while True:
            try:
                status = read()
            except (DeadlineExceeded, NotReady, ServiceUnavailable):
                if each_poll is None:
                    raise
                reason = message = "waiting for the gateway to restart"
            else:
                shown.show(status)
                if status.state in ENDED:
                    return status
                message = status.message
                reason = message.partition("; retrying")[0]  # without the countdown
                if each_poll is None:
                    stalled.look(status)
            if reason and reason != told:
                console.print(escape_controls(message), markup=False)
            told = reason
            if each_poll is not None:
                each_poll()
            time.sleep(POLL_S)


_WORK = {"planned": "planning", "running": "labelling", "finishing": "writing the dataset"}
"""State of a run -> the work that is shown."""


class _ShownRun:
    """Shows the stages of a run, as a context manager; a picture counts as soon as it is done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._open = ExitStack()
        self._stage: Stage | None = None
        self._work = ""
        self._count = 0

    def __enter__(self) -> "_ShownRun":
        return self

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)  # type: ignore[arg-type]

    def show(self, status: RunStatus) -> None:
        """Show a status."""
        work = _WORK.get(status.state, "")
        if self._work == _WORK["running"] or status.state in ("running", "done"):
            self._show_pictures(status)
        if work and work != self._work:
            self._begin(work)

    def _show_pictures(self, status: RunStatus) -> None:
        if self._work != _WORK["running"]:
            if self._work == _WORK["finishing"]:
                return
            self._begin(_WORK["running"], total=status.total, done=finished(status))
        assert self._stage is not None, "begun before"
        self._stage.advance(finished(status) - self._count)
        self._count = finished(status)

    def _begin(self, work: str, *, total: int | None = None, done: int = 0) -> None:
        self._open.close()
        self._work, self._count = work, done
        self._stage = self._open.enter_context(self._progress.stage(work, total=total, done=done))


def describe_start(status: RunStatus) -> str:
    """Return a line about a run that is resumed."""
    return f"continuing {describe(status)}"


def follow_at_gateway(
    client: Client, run_id: str, url: str, console: Console, *, quiet: bool
) -> RunStatus:
    """Follow a run at a gateway, where it also continues without this command."""
    try:
        return follow(lambda: client.runs.read(run_id), console, quiet=quiet)
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
