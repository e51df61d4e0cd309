"""Output of `unspoken status`: counts, rate and time by stage; printed once, or updated live."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.console import PlainConsole
from cli.progress import duration
from cli.workspace import in_workspace
from unspoken.errors import NotReady
from unspoken.runs.store import cancel_run, list_runs, read_status
from unspoken.safe_text import escape_controls, escape_json
from unspoken.timings import is_wait
from unspoken.wire.runs import ENDED, RunStatus

POLL_S = 0.5
# Watching a stalled run ends after this time. It is not zero, because the stack may be restarting.
PATIENCE_S = 60.0
RESUME = "start a dispatcher and a worker with this runs folder"
BAR_WIDTH = 40


class RunControl(Protocol):
    """Reads, follows and cancels runs: at a gateway (unspoken.client.Runs), or in a folder."""

    def read(self, run_id: str) -> RunStatus:
        """Return the status of a run."""

    def list(self) -> list[RunStatus]:
        """Return all runs, newest first."""

    def cancel(self, run_id: str) -> RunStatus:
        """Cancel a run: no further chunk is started."""

    def follow(self, run_id: str) -> Iterator[RunStatus]:
        """Yield each change of the status until the run has ended."""


@dataclass(frozen=True)
class RunFolder:
    """The runs of a folder on this machine."""

    runs_dir: Path

    def read(self, run_id: str) -> RunStatus:
        """See RunControl."""
        return read_status(self.runs_dir, run_id)

    def list(self) -> list[RunStatus]:
        """See RunControl."""
        return list_runs(self.runs_dir)

    def cancel(self, run_id: str) -> RunStatus:
        """See RunControl."""
        return cancel_run(self.runs_dir, run_id)

    def follow(self, run_id: str) -> Iterator[RunStatus]:
        """See RunControl; the folder is read twice a second."""
        told: RunStatus | None = None
        while True:
            status = self.read(run_id)
            if told is None or not _says_the_same(status, told):
                yield status
                told = status
            if status.state in ENDED:
                return
            time.sleep(POLL_S)


@contextmanager
def opened_runs(url: str | None, runs_dir: Path) -> Iterator[RunControl]:
    """Provide the runs of a gateway if `url` is given, else of a folder."""
    if url is None:
        yield RunFolder(runs_dir)
        return
    # Imported here, because only a gateway needs httpx.
    from cli.gateway import gateway_client

    # A single attempt, because a user at a terminal wants to see the error at once.
    with gateway_client(url, max_attempts=1) as client:
        yield client.runs


def how_to_resume(url: str | None, workspace: Path) -> str:
    """Return advice on how to resume a stalled run of a gateway or a workspace."""
    if url is not None:
        return f"start the dispatcher and a worker of {url}"
    return (
        f"to resume, run `unspoken up{in_workspace(workspace)}`, or the same `unspoken label` again"
    )


def show_runs(
    runs: RunControl, run_id: str | None, *, watch: bool, as_json: bool, resume: str = RESUME
) -> None:
    """Print all runs, one line each, or one run; with `watch`, follow one run.

    resume: advice on how to resume a stalled run. Raises NotReady if a watched run stays stalled.
    """
    if run_id is None:
        for each in (found := runs.list()):
            typer.echo(_as_json(each) if as_json else describe(each))
        if not found and not as_json:
            typer.echo("no runs: `unspoken label SOURCE` starts one", err=True)
        return
    statuses = watched(runs, run_id, resume=resume) if watch else iter([runs.read(run_id)])
    console = PlainConsole()
    if as_json or (watch and not console.is_terminal):
        for status in statuses:
            typer.echo(_as_json(status) if as_json else describe(status))
    elif watch:
        _show_live(statuses, console, resume=resume)
    else:
        console.print(render(next(statuses), resume=resume))


def _as_json(status: RunStatus) -> str:
    return escape_json(status.model_dump_json())


def watched(
    runs: RunControl, run_id: str, *, resume: str = RESUME, patience_s: float | None = None
) -> Iterator[RunStatus]:
    """Yield each change until the run has ended. Raises NotReady if it is stalled for long."""
    patience_s = PATIENCE_S if patience_s is None else patience_s
    while True:
        status = None
        for status in runs.follow(run_id):
            yield status
            if status.stalled_since_s is not None:
                break
        if status is None or status.stalled_since_s is None:
            return
        _wait_for_a_dispatcher(runs, run_id, resume=resume, patience_s=patience_s)


def _wait_for_a_dispatcher(
    runs: RunControl, run_id: str, *, resume: str, patience_s: float
) -> None:
    until_s = time.monotonic() + patience_s
    while (status := runs.read(run_id)).stalled_since_s is not None:
        if time.monotonic() >= until_s:
            raise NotReady(f"run {run_id}: {_stalled(status)}; {resume}")
        time.sleep(POLL_S)


def _show_live(statuses: Iterator[RunStatus], console: Console, *, resume: str) -> None:
    shown = next(statuses)
    # Rendered regularly even without changes, because a stalled run sends none.
    with Live(
        console=console, get_renderable=lambda: render(shown, resume=resume), refresh_per_second=2
    ):
        for status in statuses:
            shown = status


def describe(status: RunStatus) -> str:
    """Return a line that describes a run."""
    counts = f"{status.done} of {status.total} pictures, {status.labelled} labelled"
    for word, reasons in (("dropped", status.dropped), ("failed", status.failed)):
        if reasons:
            told = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
            counts += f", {sum(reasons.values())} {word} ({told})"
    notice = f"{status.notice} " if status.notice else ""
    tail = f"; {status.message}" if status.message else ""
    if status.stalled_since_s is not None:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.stalled_since_s))
        tail += f"; no dispatcher has worked on it since {since}"
    return escape_controls(f"{status.run_id}: {status.state}, {notice}{counts}{tail}")


def finished(status: RunStatus) -> int:
    """Return the number of pictures that are done, committed or not."""
    return status.done + status.done_in_open_chunks


def render(status: RunStatus, *, resume: str = RESUME) -> RenderableType:
    """Return a few lines about a run, with a bar for each stage."""
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(escape_controls(status.run_id), style="bold"),
        Text(status.state, style=_STYLE.get(status.state, "")),
        ProgressBar(total=max(status.total, 1), completed=finished(status), width=BAR_WIDTH),
        Text(f"{finished(status)} of {status.total} pictures"),
    )
    lines: list[RenderableType] = [head]
    if status.notice:
        lines.append(Text(escape_controls(status.notice), style="bold yellow"))
    lines.append(Text(escape_controls(", ".join(_counts(status)))))
    if pace := ", ".join(_pace(status)):
        lines.append(Text(pace))
    if status.timings_ms.get("total"):
        lines.append(_stages(status))
    lines += [Text(escape_controls(note), style="yellow") for note in _notes(status, resume)]
    return Group(*lines)


_STAGES = (
    *("read", "filter", "prompt", "prompt_wait", "detect", "detect_wait", "merge"),
    *("rank", "rank_wait", "write"),
)
_STYLE = {"running": "cyan", "done": "green", "failed": "red", "cancelled": "red"}


def _says_the_same(one: RunStatus, other: RunStatus) -> bool:
    when = {"updated_s"}
    return one.model_dump(exclude=when) == other.model_dump(exclude=when)


def _counts(status: RunStatus) -> Iterator[str]:
    yield f"{status.labelled} labelled"
    for word, reasons in (("dropped", status.dropped), ("failed", status.failed)):
        told = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        yield f"{sum(reasons.values())} {word}" + (f" ({told})" if told else "")


def _pace(status: RunStatus) -> Iterator[str]:
    if status.state == "running" and status.rate_per_s is not None:
        yield f"{status.rate_per_s:.2f} pictures/s"
    if status.state == "running" and status.seconds_left is not None:
        yield f"{duration(status.seconds_left)} left"
    if status.chunks_total:
        in_work = f", {status.chunks_leased} in progress" if status.chunks_leased else ""
        yield f"chunks {status.chunks_done} of {status.chunks_total}{in_work}"
        yield f"{status.attempts} attempt" + ("" if status.attempts == 1 else "s")


def _stages(status: RunStatus) -> Table:
    table = Table.grid(padding=(0, 2))
    for stage, share in stage_shares(status.timings_ms).items():
        mark = "limits the speed" if stage == status.bottleneck else ""
        bar = ProgressBar(total=1, completed=share, width=BAR_WIDTH)
        name = f"waiting for {stage.removesuffix('_wait')}" if is_wait(stage) else stage
        table.add_row(Text(escape_controls(name)), Text(f"{share:.0%}", justify="right"), bar, mark)
    return table


def stage_shares(timings_ms: Mapping[str, float]) -> dict[str, float]:
    """Return each stage's share of the workers' time, in the pipeline's order, and `other`."""
    total = timings_ms.get("total", 0.0)
    if total <= 0:
        return {}
    known = [stage for stage in _STAGES if stage in timings_ms]
    stages = [*known, *(stage for stage in timings_ms if stage not in (*known, "total"))]
    shares = {stage: timings_ms[stage] / total for stage in stages}
    return {**shares, "other": max(0.0, 1 - sum(shares.values()))}


def _notes(status: RunStatus, resume: str) -> Iterator[str]:
    if status.message:
        yield status.message
    if status.bottleneck == "workers":
        yield "no worker takes the waiting chunks: check that a worker runs and reaches Redis"
    if status.stalled_since_s is not None:
        yield f"{_stalled(status)}; {resume}"


def _stalled(status: RunStatus) -> str:
    silent_s = max(0.0, time.time() - (status.stalled_since_s or 0.0))
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.stalled_since_s))
    return f"no dispatcher has worked on this run for {duration(silent_s)}, since {when}"
