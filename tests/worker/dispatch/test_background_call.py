"""Runs with slow planning or finishing do not delay other runs."""

import threading

import pytest

from tests.fakes import FakePrompter, FakeTextEncoder
from tests.worker.stage import Stage
from unspoken.errors import InvalidInput
from unspoken.runs.store import cancel_run, create_run, read_status
from unspoken.wire.runs import RunRequest
from worker.dispatch.background_call import start_thread

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
