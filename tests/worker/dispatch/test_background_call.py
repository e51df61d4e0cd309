"""Runs with slow planning or finishing do not delay other runs."""

import threading
from concurrent.futures import Future

import pytest

from tests.fakes import FakePrompter, FakeTextEncoder
from tests.worker.stage import Stage
from unspoken.errors import InvalidInput, UnspokenError
from unspoken.runs.store import cancel_run, create_run, read_status
from unspoken.wire.runs import RunRequest
from worker.dispatch.background_call import (
    MAX_CRASHES,
    BackgroundCalls,
    count_crashes,
    start_thread,
)

SOON_S = 0.05


class Gate:
    """A callable that blocks its first caller until it is opened."""

    def __init__(self):
        self._opened = threading.Event()
        self._is_first = True

    def __call__(self, *_):
        if self._is_first:
            self._is_first = False
            assert self._opened.wait(30), "nobody opened"

    def open(self):
        self._opened.set()


class GatedEncoder(FakeTextEncoder):
    def __init__(self, gate):
        self._gate = gate

    def encode_texts(self, texts):
        self._gate()
        return super().encode_texts(texts)


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open()


def impatient(folder, **ports):
    stage = Stage(folder, **ports)
    stage.dispatcher = stage.new_dispatcher(patience_s=SOON_S)
    return stage


def tick_until(stage, state, *, run_id="r", most=200):
    for _ in range(most):
        status = stage.tick(run_id=run_id)
        if status.state == state:
            return status
    raise AssertionError(f"{status} after {most} ticks")


def create_other(stage):
    create_run(
        stage.data_dir, stage.runs_dir, RunRequest(source="in", run_id="other", chunk_size=4)
    )


def test_a_run_that_plans_for_long_says_so_and_stops_no_other(tmp_path, gate):
    stage = impatient(tmp_path, prompter=FakePrompter(before=gate))
    stage.create()
    status = stage.tick()
    assert (status.state, status.message) == ("planned", "reading the source to plan the run")
    create_other(stage)
    assert tick_until(stage, "done", run_id="other").done == 12
    assert read_status(stage.runs_dir, "r").state == "planned"
    gate.open()
    assert tick_until(stage, "done").done == 12


def test_a_run_that_finishes_for_long_stops_no_other(tmp_path, gate):
    stage = impatient(tmp_path, text_encoder=GatedEncoder(gate))
    stage.create()
    tick_until(stage, "finishing")
    create_other(stage)
    tick_until(stage, "done", run_id="other")
    assert read_status(stage.runs_dir, "r").state == "finishing"
    gate.open()
    assert tick_until(stage, "done").done == 12


def test_a_run_that_plans_for_long_can_be_cancelled(tmp_path, gate):
    stage = impatient(tmp_path, prompter=FakePrompter(before=gate))
    stage.create()
    stage.tick()
    cancel_run(stage.runs_dir, "r")
    assert stage.tick().state == "cancelled"


def test_an_error_of_a_background_call_is_raised_by_its_result():
    def fail():
        raise InvalidInput("no such thing")

    with pytest.raises(InvalidInput, match="no such thing"):
        start_thread(fail).result(timeout=30)


class Starter:
    """Starts calls without a thread: they end when the test sets their futures' results."""

    def __init__(self):
        self.futures = []

    def __call__(self, work):
        self.futures.append(Future())
        return self.futures[-1]


@pytest.fixture
def run_dirs(tmp_path):
    folders = [tmp_path / name for name in ("one", "other", "third")]
    for folder in folders:
        folder.mkdir()
    return folders


def crash(run_dir, times):
    """Leave the trace of a dispatcher that crashed during a call for the run."""
    for _ in range(times):
        BackgroundCalls(Starter()).begin(run_dir, "planning", dict)


def test_a_run_whose_call_crashed_the_dispatcher_is_worked_on_alone(run_dirs):
    one, crashed, third = run_dirs
    crash(crashed, 1)
    calls = BackgroundCalls(Starter())
    call = calls.begin(one, "planning", dict)
    assert calls.begin(crashed, "planning", dict) is None
    calls.end(one)
    assert call is not None and calls.begin(crashed, "planning", dict) is not None
    assert count_crashes(crashed) == 2
    assert calls.begin(third, "planning", dict) is None


def test_a_call_that_ends_is_no_crash_whatever_its_result(run_dirs):
    starter = Starter()
    calls = BackgroundCalls(starter)
    good, bad, slow = (calls.begin(run_dir, "finishing", dict) for run_dir in run_dirs)
    starter.futures[0].set_result(True)
    starter.futures[1].set_exception(InvalidInput("no rows"))
    assert [call.is_done(timeout_s=0) for call in (good, bad, slow)] == [True, True, False]
    assert good.result() is True
    with pytest.raises(InvalidInput, match="no rows"):
        bad.result()
    assert [count_crashes(run_dir) for run_dir in run_dirs] == [0, 0, 1]


def test_calls_under_way_when_the_dispatcher_stops_are_no_crashes(run_dirs):
    calls = BackgroundCalls(Starter())
    for run_dir in run_dirs:
        calls.begin(run_dir, "planning", dict)
    calls.end_all()
    assert [count_crashes(run_dir) for run_dir in run_dirs] == [0, 0, 0]


def test_after_too_many_crashes_the_run_is_refused_once_and_its_count_starts_again(run_dirs):
    crash(run_dirs[0], MAX_CRASHES)
    calls = BackgroundCalls(Starter())
    with pytest.raises(UnspokenError, match=f"ended the dispatcher {MAX_CRASHES} times"):
        calls.begin(run_dirs[0], "planning", dict)
    assert count_crashes(run_dirs[0]) == 0
