"""Shows progress of long work on standard error: a bar on a terminal, else a line every 10 s.

Nothing is written to standard output. rich is imported when the first bar is shown.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from unspoken.progress import NO_PROGRESS, Rate, Stage
from unspoken.progress import Progress as ProgressPort
from unspoken.safe_text import escape_controls

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LINE_EVERY_S = 10.0
DRAW_EVERY_S = 0.1
RATE_WINDOW_S = 60.0
"""The time left follows from the rate of the last minute."""
MIN_SEEN_S, MIN_ITEMS = 3.0, 5
"""No time left is shown before this, because the rate of the first items says little."""


def shown_progress(console: "Console | None" = None, *, quiet: bool = False) -> ProgressPort:
    """Return progress on a console: a bar, lines if it is not a terminal, or nothing.

    console: the console of messages that may be printed meanwhile; by default standard error. The
    progress without a console can be sent to another process.
    """
    if quiet:
        return NO_PROGRESS
    return Bars(console) if _shows_bars(console) else Lines(console)


def _shows_bars(console: "Console | None") -> bool:
    if console is None:
        if not sys.stderr.isatty():
            return False
        console = _standard_error()
    return console.is_terminal and not console.is_dumb_terminal


def _standard_error() -> "Console":
    from cli.console import PlainConsole

    return PlainConsole(stderr=True)


class Counter:
    """Counts the items of a stage and describes their number, rate and time left."""

    def __init__(
        self,
        what: str,
        *,
        total: int | None,
        unit: str,
        done: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.total = what, total
        self.done: float = done
        self._before = done
        self.note = ""
        self._unit = unit
        self._clock = clock
        self._started_s = clock()
        self._rate = Rate(clock, window_s=RATE_WINDOW_S)
        self._rate.note(done)

    def add(self, count: float, note: str | None) -> None:
        """Count items."""
        self.done += count
        self.note = self.note if note is None else note

    def look(self) -> None:
        """Note the count for the rate. Call it a few times per second at most."""
        self._rate.note(self.done)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the stage began."""
        return self._clock() - self._started_s

    def count(self) -> str:
        """Describe the count, such as '12 of 48 pictures'."""
        if self._unit == "s":
            done, unit = duration(self.done), ""
            total = None if self.total is None else duration(self.total)
        elif self._unit == "bytes":
            done, unit = f"{self.done / 1e6:.1f}", " MB"
            total = None if self.total is None else f"{self.total / 1e6:.1f}"
        else:
            done, unit = str(self.done), f" {self._unit}"
            total = None if self.total is None else str(self.total)
        if total is None:
            return f"{done}{unit}" if self.done else ""
        return f"{done} of {total}{unit}"

    def pace(self) -> str:
        """Describe the rate of the last minute and the time left; empty at the beginning."""
        rate = self._rate.per_s()
        if not rate or self.elapsed_s < MIN_SEEN_S or self.done - self._before < MIN_ITEMS:
            return ""
        shown = []
        if self._unit == "bytes":
            shown.append(f"{rate / 1e6:.1f} MB/s")
        elif self._unit != "s":
            shown.append(f"{rate:.{1 if rate >= 1 else 2}f} {self._unit}/s")
        if self.total is not None and self.done < self.total:
            shown.append(f"{duration((self.total - self.done) / rate)} left")
        return ", ".join(shown)

    def line(self) -> str:
        """Describe everything in one line."""
        count = self.count()
        if self.total:
            count += f" ({self.done / self.total:.0%})"
        shown = (count, self.pace(), self.note)
        return f"{self.what}: " + (", ".join(filter(None, shown)) or "started")

    def last_line(self) -> str:
        """Describe the stage after its end, with the time that it took."""
        shown = (self.count(), duration(self.elapsed_s), self.note)
        return f"{self.what}: " + ", ".join(filter(None, shown))


class Lines:
    """Prints a line every ten seconds, and one at the end of each stage."""

    def __init__(
        self, console: "Console | None" = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._clock = console, clock

    @contextmanager
    def stage(
        self, what: str, *, total: int | None = None, unit: str = "pictures", done: int = 0
    ) -> Iterator[Stage]:
        """See unspoken.progress.Progress."""
        counter = Counter(what, total=total, unit=unit, done=done, clock=self._clock)
        yield _StageOfLines(counter, self._clock, self._print)
        self._print(counter.last_line())

    def _print(self, text: str) -> None:
        if self._console is not None:
            self._console.print(text, soft_wrap=True, markup=False, highlight=False)
            return
        sys.stderr.write(escape_controls(text) + "\n")
        sys.stderr.flush()


class _StageOfLines:
    def __init__(
        self, counter: Counter, clock: Callable[[], float], tell: Callable[[str], None]
    ) -> None:
        self._counter, self._clock, self._tell = counter, clock, tell
        self._told_s = clock()

    def advance(self, count: float = 1, *, note: str | None = None) -> None:
        """See Stage."""
        self._counter.add(count, note)
        if self._clock() - self._told_s >= LINE_EVERY_S:
            self._told_s = self._clock()
            self._counter.look()
            self._tell(self._counter.line())


class Bars:
    """Shows a bar for the stage in progress; it stays on the screen when the stage has ended."""

    def __init__(self, console: "Console | None" = None) -> None:
        self._console = console

    @contextmanager
    def stage(
        self, what: str, *, total: int | None = None, unit: str = "pictures", done: int = 0
    ) -> Iterator[Stage]:
        """See unspoken.progress.Progress."""
        counter = Counter(what, total=total, unit=unit, done=done)
        with _new_bar(self._console or _standard_error()) as bar:
            stage = _StageOfBar(counter, bar)
            yield stage
            stage.end()


class _StageOfBar:
    def __init__(self, counter: Counter, bar: "Progress") -> None:
        self._counter, self._bar = counter, bar
        self._drawn_s = 0.0
        self._task: TaskID = bar.add_task("", total=None, count="", pace="")
        self.draw()

    def advance(self, count: float = 1, *, note: str | None = None) -> None:
        """See Stage."""
        self._counter.add(count, note)
        if time.monotonic() - self._drawn_s >= DRAW_EVERY_S:
            self.draw()

    def end(self) -> None:
        """Show the last count. A bar without a total is shown as full, because all is done."""
        self.draw(total=max(self._counter.done, 1) if self._counter.total is None else None)

    def draw(self, *, total: float | None = None) -> None:
        """Show the present count."""
        counter = self._counter
        self._drawn_s = time.monotonic()
        counter.look()
        shown = filter(None, (counter.count(), counter.note))
        self._bar.update(
            self._task,
            description=escape_controls(counter.what),
            total=counter.total if total is None else total,
            completed=counter.done if total is None else total,
            count=escape_controls(", ".join(shown)),
            pace=counter.pace(),
        )


def _new_bar(console: "Console") -> "Progress":
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.fields[pace]}", markup=False, style="dim"),
        TimeElapsedColumn(),
        console=console,
        # Results on standard output must not become part of the bar.
        redirect_stdout=False,
    )


def duration(seconds: float) -> str:
    """Format a duration with at most two units: `40 s`, `18 min`, `3 h 20 min`, `2 d 4 h`."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"
