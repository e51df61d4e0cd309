"""`unspoken status`: a run in words, bars and JSON, from a folder and from a gateway."""

import io
import os
import time

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cli.main import app
from cli.status_view import RunFolder, duration, render, show_runs, stage_shares, watched
from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from tests.worker.service import serve
from unspoken.errors import InvalidInput, NotReady
from unspoken.runs.store import create_run, write_status
from unspoken.wire.runs import RunRequest, RunStatus


def status(**changes):
    fields = {
        "run_id": "r", "state": "running", "total": 5000, "done": 1204, "labelled": 1100,
        "dropped": {"language": 93, "duplicate": 3}, "failed": {"engine_failure": 8},
        "chunks_total": 625, "chunks_done": 150, "chunks_leased": 4, "attempts": 153,
        "rate_per_s": 3.4, "seconds_left": 1116, "updated_s": time.time(), "output": "",
        "timings_ms": {"read": 10, "prompt": 330, "detect": 600, "total": 1000},
        "bottleneck": "detect",
    }  # fmt: skip
    return RunStatus.model_validate({**fields, **changes})


def printed(status):
    console = Console(file=io.StringIO(), width=110)
    console.print(render(status))
    return console.file.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data/in").mkdir(parents=True)
    create_run(tmp_path / "data", tmp_path / "runs", RunRequest(source="in", run_id="r"))
    return tmp_path


def test_a_run_is_told_with_counts_pace_and_what_holds_it_back():
    text = printed(status())
    for told in (
        "1204 of 5000 pictures", "1100 labelled", "96 dropped (duplicate 3, language 93)",
        "8 failed (engine_failure 8)", "3.40 pictures/s", "19 min left", "150 of 625",
        "4 in progress", "153 attempts",
    ):  # fmt: skip
        assert told in text
    (held_back,) = [line for line in text.splitlines() if "limits the speed" in line]
    assert held_back.startswith("detect") and "60%" in held_back


def test_a_run_that_stands_says_why():
    assert "no worker takes" in printed(status(bottleneck="workers", timings_ms={}))
    assert "no dispatcher has worked on this run for 10 min" in printed(
        status(stalled_since_s=time.time() - 600)
    )
    assert "waiting: no broker" in printed(status(message="waiting: no broker"))


def test_a_run_that_has_done_nothing_yet_has_no_stages():
    text = printed(status(state="planned", total=0, done=0, timings_ms={}, rate_per_s=None))
    assert "0 of 0 pictures" in text and "holds" not in text
    assert stage_shares({}) == {}


def test_shares_of_stages_add_up_to_one():
    assert list(stage_shares({"detect_wait": 1, "write": 1, "detect": 1, "total": 4})) == [
        *("detect", "detect_wait", "write", "other"),
    ]
    shares = stage_shares({"new": 90, "detect": 600, "read": 10, "total": 1000})
    assert shares == {"read": 0.01, "detect": 0.6, "new": 0.09, "other": pytest.approx(0.3)}
    assert list(shares) == ["read", "detect", "new", "other"]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0 s"), (89, "89 s"), (1116, "19 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_a_duration_has_at_most_two_units(seconds, told):
    assert duration(seconds) == told


def test_a_folder_is_watched_until_the_run_ends_and_tells_nothing_twice(folder):
    write_status(folder / "runs", status(done=1))
    watched = RunFolder(folder / "runs").follow("r")
    assert next(watched).done == 1
    write_status(folder / "runs", status(done=1))  # the dispatcher looked again
    write_status(folder / "runs", status(done=2))
    assert next(watched).done == 2
    write_status(folder / "runs", status(done=4, state="done"))
    assert [each.done for each in watched] == [4]


def stop_the_dispatcher(folder, *, killed, ago_s=600):
    """Write a run as left by a dispatcher that shut down, or was killed, some time ago."""
    write_status(folder / "runs", status(updated_s=time.time() - ago_s))
    lease = folder / "runs/.dispatcher"
    if killed:
        lease.write_text("token")
        os.utime(lease, (time.time() - ago_s,) * 2)
    else:
        lease.unlink(missing_ok=True)


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "ended"])
def test_a_run_without_a_dispatcher_says_since_when_and_how_to_resume(folder, killed):
    stop_the_dispatcher(folder, killed=killed)
    shown = CliRunner().invoke(app, ["status", "r", "--workspace", str(folder)]).output
    shown = " ".join(shown.split())
    assert "no dispatcher has worked on this run for 10 min, since 20" in shown
    assert f"unspoken up --workspace {folder}" in shown
    assert "left" not in shown and "in progress" not in shown and "pictures/s" not in shown
    assert (
        "no dispatcher has worked on it"
        in CliRunner().invoke(app, ["status", "--workspace", str(folder)]).output
    )


@pytest.mark.parametrize("age_s", [0, 10, -3600], ids=["now", "a-while", "clock-set-back"])
def test_a_run_whose_dispatcher_lives_is_not_called_stopped(folder, age_s):
    write_status(folder / "runs", status(updated_s=time.time() - 120))
    lease = folder / "runs/.dispatcher"
    lease.write_text("token")
    os.utime(lease, (time.time() - age_s,) * 2)
    assert RunFolder(folder / "runs").read("r").stalled_since_s is None
    assert (
        "nothing" not in CliRunner().invoke(app, ["status", "r", "--workspace", str(folder)]).output
    )


@pytest.mark.parametrize("over_http", [False, True], ids=["folder", "gateway"])
@pytest.mark.parametrize("as_json", [False, True], ids=["lines", "json"])
def test_watching_a_run_without_a_dispatcher_ends_and_says_so(
    folder, monkeypatch, over_http, as_json
):
    monkeypatch.setattr("cli.status_view.PATIENCE_S", 0.2)
    stop_the_dispatcher(folder, killed=True)
    settings = GatewaySettings(data_dir=folder / "data", runs_dir=folder / "runs")
    with serve(create_app(settings)) as url:
        where = ["--url", url] if over_http else ["--workspace", str(folder)]
        options = ["--json"] if as_json else []
        result = CliRunner().invoke(app, ["status", "r", "--watch", *options, *where])
    assert isinstance(result.exception, NotReady) and len(result.output.splitlines()) == 1
    assert "no dispatcher has worked on this run for 10 min" in result.exception.message
    assert ("dispatcher" if over_http else "unspoken up") in result.exception.message


def test_watching_goes_on_when_a_dispatcher_is_back_in_time(folder):
    stop_the_dispatcher(folder, killed=False)
    seen = watched(RunFolder(folder / "runs"), "r", patience_s=60)
    assert next(seen).stalled_since_s is not None
    write_status(folder / "runs", status(done=4, state="done"))
    assert [each.done for each in seen] == [4]


@pytest.mark.parametrize("over_http", [False, True], ids=["folder", "gateway"])
def test_a_watched_run_is_lines_of_json_for_programs(folder, over_http):
    settings = GatewaySettings(data_dir=folder / "data", runs_dir=folder / "runs")
    write_status(folder / "runs", status(done=4, state="done"))
    with serve(create_app(settings)) as url:
        where = ["--url", url] if over_http else ["--workspace", str(folder)]
        result = CliRunner().invoke(app, ["status", "r", "--watch", "--json", *where])
    (line,) = result.output.splitlines()
    assert result.exit_code == 0 and RunStatus.model_validate_json(line).done == 4


def test_one_run_is_shown_in_full_and_all_runs_a_line_each(folder):
    write_status(folder / "runs", status())
    arguments = ["status", "--workspace", str(folder)]
    one = CliRunner().invoke(app, ["status", "r", "--workspace", str(folder)])
    assert "limits the speed" in one.output
    listed = CliRunner().invoke(app, arguments)
    assert listed.output.startswith("r: running, 1204 of 5000 pictures")
    (line,) = CliRunner().invoke(app, [*arguments, "--json"]).output.splitlines()
    assert RunStatus.model_validate_json(line).done == 1204


def test_a_run_on_a_terminal_is_shown_as_it_goes(folder, monkeypatch):
    write_status(folder / "runs", status(done=4, state="done"))
    screen = io.StringIO()
    monkeypatch.setattr(
        "cli.status_view.PlainConsole",
        lambda: Console(file=screen, force_terminal=True, width=100, color_system=None),
    )
    show_runs(RunFolder(folder / "runs"), "r", watch=True, as_json=False)
    assert "4 of 5000 pictures" in screen.getvalue()


def test_watching_needs_a_run(folder):
    result = CliRunner().invoke(app, ["status", "--watch", "--workspace", str(folder)])
    assert isinstance(result.exception, InvalidInput)
