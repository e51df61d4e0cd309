"""A run's background calls, with a starter that needs no thread."""

import json
import shutil
from concurrent.futures import Future

import pytest

from tests.worker.source_files import picture
from tests.worker.stage import Stage
from unspoken.runs.notice import MIN_ROWS
from unspoken.runs.store import cancel_run, create_run, read_status
from unspoken.wire.runs import RunRequest
from worker.sources.caption_tables import source_hints

NUM_PICTURES = MIN_ROWS + 10


class Starter:
    """Starts searches of a source that the test ends, and does all other calls at once."""

    def __init__(self):
        self.waiting = []

    def __call__(self, work):
        future = Future()
        if getattr(work, "func", None) is source_hints:
            self.waiting.append((work, future))
        else:
            _end(work, future)
        return future

    def end_all(self):
        while self.waiting:
            _end(*self.waiting.pop())


def _end(work, future):
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001 - the future raises it
        future.set_exception(error)


@pytest.fixture
def starter():
    return Starter()


@pytest.fixture
def stage(tmp_path, starter):
    stage = Stage(tmp_path)
    shutil.rmtree(stage.data_dir / "in")
    (stage.data_dir / "in").mkdir()
    for number in range(NUM_PICTURES):
        (stage.data_dir / f"in/{number:03d}.jpg").write_bytes(picture(number))
    table = [{"file_name": "000.jpg", "text": "A red car"}]
    (stage.data_dir / "in/captions.jsonl").write_text("\n".join(map(json.dumps, table)))
    stage.dispatcher = stage.new_dispatcher(start=starter, patience_s=0.0)
    stage.create()
    return stage


def tick_until(stage, holds):
    for _ in range(100):
        status = stage.tick()
        if holds(status):
            return status
    raise AssertionError(status)


def test_a_source_is_not_searched_for_captions_before_the_notice_needs_it(stage, starter):
    status = tick_until(stage, lambda status: starter.waiting)
    assert MIN_ROWS <= status.done <= NUM_PICTURES
    assert status.notice.startswith(f"all {status.done} rows dropped: caption_empty. Put each")


def test_a_tick_does_not_wait_for_the_search_and_the_card_has_its_result(stage, starter):
    status = tick_until(stage, lambda status: status.state == "finishing")
    assert stage.tick(3).state == "finishing" and len(starter.waiting) == 1
    starter.end_all()
    status = stage.tick()
    assert status.state == "done" and "captions.jsonl in this folder" in status.notice
    assert "captions.jsonl in this folder" in (stage.runs_dir / "r/dataset/README.md").read_text()


def test_a_search_that_fails_leaves_the_general_advice_and_the_run_ends(stage, starter):
    tick_until(stage, lambda status: starter.waiting)
    _, future = starter.waiting.pop()
    future.set_exception(RuntimeError("a table that crashes its reader"))
    status = tick_until(stage, lambda status: status.state == "done")
    assert "Put each caption in a .txt file" in status.notice and not starter.waiting


def test_a_run_that_is_cancelled_during_a_search_delays_no_other(stage, starter):
    tick_until(stage, lambda status: starter.waiting)
    cancel_run(stage.runs_dir, "r")
    assert stage.tick().state == "cancelled"
    assert not (stage.runs_dir / "r/dispatcher-crashes").exists()
    request = RunRequest(source="in/captions.jsonl", run_id="other")
    create_run(stage.data_dir, stage.runs_dir, request)
    stage.tick(3, run_id="other")
    assert read_status(stage.runs_dir, "other").state == "done"
