"""Paths of local sources in their runs, and the progress of a run."""

import io

import pytest
from rich.console import Console

from cli.labelling import follow, local_source
from tests.worker.source_files import write_coco, write_pictures
from unspoken.errors import DeadlineExceeded, InvalidInput, NotReady, Unreachable
from unspoken.runs.location import locate_source
from unspoken.runs.store import create_run, read_run
from unspoken.wire.runs import RunRequest, RunStatus


def test_a_folder_is_its_own_data_folder_and_a_table_lies_in_its(tmp_path):
    (tmp_path / "table.csv").write_text("path,text\n")
    assert local_source(tmp_path) == (tmp_path, ".", None)
    assert local_source(tmp_path / "table.csv") == (tmp_path, "table.csv", None)


def test_pictures_elsewhere_make_the_nearest_common_folder_the_data_folder(tmp_path):
    write_coco(tmp_path / "coco/annotations/captions.json", [["A dog"]])
    write_pictures(tmp_path / "coco/val", 1)
    found = local_source(
        tmp_path / "coco/annotations/captions.json", pictures=tmp_path / "coco/val"
    )
    assert found == (tmp_path / "coco", "annotations/captions.json", "val")
    request = RunRequest(source=found.source, pictures=found.pictures, run_id="r")
    create_run(found.data_dir, tmp_path / "runs", request)
    run = read_run(tmp_path / "runs", "r")
    assert locate_source(run, runs_dir=tmp_path / "runs").pictures == tmp_path / "coco/val"


@pytest.mark.parametrize("pictures", ["nowhere", "table.csv"])
def test_what_is_not_there_is_said_before_anything_starts(tmp_path, pictures):
    (tmp_path / "table.csv").write_text("path,text\n")
    with pytest.raises(InvalidInput):
        local_source(tmp_path / "nothing.csv")
    with pytest.raises(InvalidInput, match=r"does not exist|is a file"):
        local_source(tmp_path / "table.csv", pictures=tmp_path / pictures)


@pytest.mark.parametrize("pictures", ["..", "in/table.csv"])
def test_a_request_for_pictures_outside_the_data_folder_is_refused(tmp_path, pictures):
    (tmp_path / "data/in").mkdir(parents=True)
    (tmp_path / "data/in/table.csv").write_text("path,text\n")
    request = RunRequest(source="in/table.csv", pictures=pictures)
    with pytest.raises(InvalidInput):
        create_run(tmp_path / "data", tmp_path / "runs", request)


def status_of(state, message=""):
    counts = {"total": 4, "done": 0, "labelled": 0, "dropped": {}, "failed": {}}
    chunks = {"chunks_total": 1, "chunks_done": 0, "attempts": 0}
    return RunStatus(run_id="r", state=state, message=message, output="", **counts, **chunks)


class Gateway:
    """Gives predefined answers in turn; an answer that is an exception is raised."""

    def __init__(self, *answers):
        self._answers = list(answers)

    def read(self):
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def console(monkeypatch):
    monkeypatch.setattr("cli.labelling.POLL_S", 0)
    return Console(file=io.StringIO(), width=200)


def test_a_message_of_a_run_is_shown_once_however_its_seconds_count_down(console):
    gateway = Gateway(
        status_of("planned", "reading the source to plan the run"),
        status_of("running", "paused: detector service [x]; retrying one chunk in 9 s"),
        status_of("running", "paused: detector service [x]; retrying one chunk in 8 s"),
        status_of("done", "over"),
    )
    assert follow(gateway.read, console).state == "done"
    shown = console.file.getvalue()
    assert shown.count("reading the source to plan the run") == 1
    assert shown.count("paused: detector service [x]; retrying one chunk in 9 s") == 1
    assert "in 8 s" not in shown


def test_a_gateway_of_ones_own_stack_that_is_away_is_waited_for_while_it_is_restarted(console):
    gateway = Gateway(Unreachable("x"), NotReady("x"), DeadlineExceeded("x"), status_of("done"))
    polls = []
    assert follow(gateway.read, console, each_poll=lambda: polls.append(1)).state == "done"
    assert len(polls) == 3


def test_a_gateway_elsewhere_that_is_away_ends_the_following(console):
    with pytest.raises(Unreachable):
        follow(Gateway(Unreachable("x"), status_of("done")).read, console)


def test_a_run_elsewhere_on_which_nothing_works_ends_the_following(console, monkeypatch):
    monkeypatch.setattr("cli.labelling.STALLED_S", 0.0)
    stalled = status_of("planned").model_copy(update={"stalled_since_s": 1.0})
    with pytest.raises(NotReady, match="no dispatcher is working on run 'r'"):
        follow(Gateway(status_of("planned"), stalled, status_of("done")).read, console)
    own = Gateway(stalled, status_of("done"))  # its dispatcher is restarted
    assert follow(own.read, console, each_poll=lambda: None).state == "done"
