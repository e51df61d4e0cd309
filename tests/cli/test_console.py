"""Untrusted text on the command line: markup and escape sequences have no effect."""

import io
import subprocess
import sys

import pytest
from rich.table import Table

from cli.console import PlainConsole
from cli.status_view import describe, render
from unspoken.error_lines import print_error
from unspoken.errors import InvalidInput, NotFound
from unspoken.wire.runs import RunStatus

HOSTILE = "a[/b]c[red]d:smile:\x1b[2J\x9b1m\re"
SHOWN = r"a[/b]c[red]d:smile:\x1b[2J\x9b1m\re"


def printed(*renderables, **options):
    file = io.StringIO()
    console = PlainConsole(file=file, width=300, **options)
    for each in renderables:
        console.print(each, soft_wrap=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("status", "a[/b]c"),
        ("status", "a\x1b[2Jb"),
        ("status", "\udcff"),
        ("cancel", "a[/b]c"),
        ("verify", "a[/b]c"),
        ("fork", "a[/b]c"),
    ],
)
def test_a_run_of_any_name_is_told_to_be_unknown_without_a_traceback(tmp_path, verb, name):
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", verb, name, "--workspace", str(tmp_path / "[bold]w")],
        capture_output=True,
    )
    shown = done.stderr.decode()
    assert done.returncode in (1, 2) and "Traceback" not in shown, shown
    assert "\x1b[2J" not in shown
    if name == "a[/b]c":
        assert "a[/b]c" in shown


def test_text_in_a_line_or_a_table_is_shown_as_it_is():
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    text = printed(HOSTILE, table)
    assert text.count(SHOWN) == 4
    assert not set(text) & set("\x1b\x9b\r")


def test_an_error_shows_its_message_as_it_is_on_one_line(capsys):
    assert print_error(NotFound(f"no {HOSTILE}"), debug=False) == 1
    assert print_error(InvalidInput("wrong"), debug=False) == 2
    assert capsys.readouterr().err == f"error: no {SHOWN}\nerror: wrong\n"


def test_a_status_shows_the_text_of_a_gateway_as_it_is():
    status = RunStatus(
        run_id=HOSTILE, state="running", total=2, done=1, labelled=0, dropped={HOSTILE: 1},
        failed={HOSTILE: 1}, chunks_total=1, chunks_done=0, attempts=1, message=HOSTILE, output="",
        timings_ms={HOSTILE: 1.0, "total": 2.0},
    )  # fmt: skip
    for text in (printed(render(status)), describe(status)):
        assert SHOWN in text
        assert not set(text) & set("\x1b\x9b\r")
