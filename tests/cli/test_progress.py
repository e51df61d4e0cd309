"""Progress on a terminal, on a pipe and on neither, and the stages that each command reports."""

import io
import os
import pickle
import pty
import subprocess
import sys
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from cli.console import PlainConsole
from cli.labelling import follow
from cli.main import app
from cli.progress import Bars, Counter, Lines, shown_progress
from smallworld.shards import write_world
from tests.unspoken.runs.pictured import write_run
from tests.worker.stage import Stage as WorkerStage
from unspoken.progress import NO_PROGRESS
from unspoken.runs.dataset.verify import verify_run
from unspoken.wire.runs import RunStatus

THREE_STEPS = """
import sys
from cli.progress import shown_progress
with shown_progress().stage("writing pictures", total=3) as stage:
    for loss in (3, 2, 1):
        stage.advance(note=f"loss {loss}")
print("the result")
"""


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


class Recorder:
    """Progress that records (work, total, number done) of each stage."""

    def __init__(self):
        self.stages = []

    @contextmanager
    def stage(self, what, *, total=None, unit="pictures", done=0):
        entry = [what, total, done]
        self.stages.append(entry)

        class Stage:
            def advance(self, count=1, *, note=None):
                entry[2] += count

        yield Stage()

    @property
    def counts(self):
        return [tuple(each) for each in self.stages]


def run_three_steps(stderr):
    command = [sys.executable, "-c", THREE_STEPS]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)


def test_a_terminal_shows_a_bar_that_ends_full_and_standard_output_has_only_the_result():
    ours, theirs = pty.openpty()
    process = run_three_steps(theirs)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # the end of a terminal whose programs have ended
        pass
    os.close(ours)
    assert process.communicate()[0] == "the result\n"
    assert process.returncode == 0
    last = shown.decode().rsplit("writing pictures", 1)[1]
    assert "3 of 3 pictures, loss 1" in last and "━" in last


def test_a_pipe_shows_plain_lines_and_no_escape_sequence():
    process = run_three_steps(subprocess.PIPE)
    result, lines = process.communicate()
    assert result == "the result\n"
    assert lines == "writing pictures: 3 of 3 pictures, 0 s, loss 1\n"


def test_lines_come_every_ten_seconds_and_at_the_end():
    clock, console = Clock(), PlainConsole(file=io.StringIO())
    with Lines(console, clock=clock).stage("labelling", total=40) as stage:
        for _ in range(40):
            clock.now_s += 1.0
            stage.advance()
    assert console.file.getvalue().splitlines() == [
        "labelling: 10 of 40 pictures (25%), 1.0 pictures/s, 30 s left",
        "labelling: 20 of 40 pictures (50%), 1.0 pictures/s, 20 s left",
        "labelling: 30 of 40 pictures (75%), 1.0 pictures/s, 10 s left",
        "labelling: 40 of 40 pictures (100%), 1.0 pictures/s",
        "labelling: 40 of 40 pictures, 40 s",
    ]


def test_the_time_left_is_absent_at_first_and_then_follows_from_the_last_minute():
    clock = Clock()
    counter = Counter("labelling", total=1000, unit="pictures", done=0, clock=clock)
    assert counter.pace() == ""
    clock.now_s = 1.0
    counter.add(50, None)
    counter.look()
    assert counter.pace() == "", "the first items say little"
    for _ in range(120):
        clock.now_s += 1.0
        counter.add(1, None)
        counter.look()
    assert counter.pace() == "1.0 pictures/s, 14 min left"


def test_a_failed_stage_is_not_shown_as_done():
    console = PlainConsole(file=io.StringIO())
    with pytest.raises(KeyboardInterrupt), Lines(console).stage("labelling", total=2):
        raise KeyboardInterrupt
    assert console.file.getvalue() == ""


def test_quiet_shows_nothing_and_progress_of_training_can_be_sent_to_its_processes():
    assert shown_progress(quiet=True) is NO_PROGRESS
    for each in (NO_PROGRESS, Lines(), Bars()):
        assert type(pickle.loads(pickle.dumps(each))) is type(each)


VERBS = {
    "export coco": ([("reading the dataset", 6, 6)], ["--out", "OUT.json"]),
    "export webdataset": ([("writing pictures", 6, 6)], ["--out", "OUT"]),
    "export hugging-face": ([("writing pictures", 6, 6)], ["--out", "OUT"]),
    "export label-studio": ([("writing pictures", 6, 6)], ["--out", "OUT"]),
    "report": ([("drawing the report", 6, 6)], ["--out", "OUT"]),
}


def arguments_of(verb, folder, *more):
    run_dir = write_run(folder, chunks=2)
    options = [each.replace("OUT", str(folder / "out")) for each in VERBS[verb][1]]
    return [*verb.split(), run_dir.name, "--workspace", str(run_dir.parent.parent), *options, *more]


@pytest.mark.parametrize("verb", VERBS)
def test_a_command_on_a_dataset_counts_its_pictures_to_the_last(verb, tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr("cli.verbs.datasets.shown_progress", lambda *_, **__: recorder)
    result = CliRunner().invoke(app, arguments_of(verb, tmp_path))
    assert result.exit_code == 0, result.output
    assert recorder.counts == VERBS[verb][0]


@pytest.mark.parametrize("option", ["--json", "--quiet", None])
def test_json_and_quiet_show_no_progress(option, tmp_path):
    more = [option] if option else []
    result = CliRunner().invoke(app, arguments_of("report", tmp_path, *more))
    assert result.exit_code == 0, result.output
    assert ("drawing the report: 6 of 6" in result.stderr) is (option is None)
    assert "drawing" not in result.stdout


def test_verify_counts_the_rows_of_the_source_and_of_the_shards(tmp_path):
    stage, recorder = WorkerStage(tmp_path), Recorder()
    stage.create()
    assert stage.tick(4).state == "done"
    verify_run(stage.runs_dir, "r", check_source=lambda chunk: None, progress=recorder)
    assert recorder.counts == [("checking the source", 12, 12), ("checking dataset", 12, 12)]


def test_a_small_world_counts_its_scenes(tmp_path):
    recorder = Recorder()
    write_world(tmp_path, num_scenes=3, num_sa1b=2, seed=0, progress=recorder)
    assert recorder.counts == [
        ("composing captioned pictures", 3, 3),
        ("composing pictures without labels", 2, 2),
    ]


def test_labelling_counts_the_pictures_of_open_chunks_and_ends_full(monkeypatch):
    monkeypatch.setattr("cli.labelling.POLL_S", 0)
    recorder = Recorder()
    monkeypatch.setattr("cli.labelling.shown_progress", lambda *_, **__: recorder)
    counts = [("planned", 0, 0, 0), ("running", 16, 0, 3), ("running", 16, 8, 0)]
    counts += [("finishing", 16, 16, 0), ("done", 16, 16, 0)]
    seen = []

    def read():
        seen.append(recorder.counts[-1:])
        state, total, done, in_open_chunks = counts.pop(0)
        return RunStatus(
            run_id="r", state=state, total=total, done=done, done_in_open_chunks=in_open_chunks,
            labelled=done, dropped={}, failed={}, chunks_total=2, chunks_done=done // 8,
            attempts=1, output="",
        )  # fmt: skip

    assert follow(read, PlainConsole(file=io.StringIO())).state == "done"
    assert seen[2:4] == [[("labelling", 16, 3)], [("labelling", 16, 8)]]
    assert recorder.counts == [
        ("planning", None, 0),
        ("labelling", 16, 16),
        ("writing the dataset", None, 0),
    ]
