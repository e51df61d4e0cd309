"""A run that cannot be planned or finished, or has damaged files, does not affect others."""

import signal
import struct
import subprocess
import sys
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fakes import FakePrompter, FakeTextEncoder
from tests.worker.source_files import write_pictures
from tests.worker.stage import Stage
from unspoken.runs.store import create_run, read_status
from unspoken.wire.runs import RunRequest
from worker.dispatch.background_call import MAX_CRASHES, count_crashes, start_thread


def create(stage, run_id, *, source="in"):
    create_run(stage.data_dir, stage.runs_dir, RunRequest(source=source, run_id=run_id))


def state(stage, run_id):
    return read_status(stage.runs_dir, run_id).state


def write_latin1_table(folder):
    """Write a parquet table in which one caption is not UTF-8."""
    write_pictures(folder, 2)
    captions = pa.Array.from_buffers(
        pa.string(),
        2,
        [None, pa.py_buffer(struct.pack("<3i", 0, 5, 12)), pa.py_buffer(b"a dog\xe9 a caf")],
    )
    table = pa.table({"path": ["0.jpg", "1.jpg"], "caption": captions})
    pq.write_table(table, folder / "table.parquet")


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ValueError("a bug"), id="bug"),
        pytest.param(MemoryError("a table too large"), id="memory"),
        pytest.param(OSError("Couldn't deserialize thrift"), id="arrow"),
        pytest.param(UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid"), id="unicode"),
        pytest.param(SystemExit(3), id="exit"),
        pytest.param(RuntimeError("half \udce9 a name" * 1000), id="unprintable"),
    ],
)
@pytest.mark.parametrize("when", ["planning", "finishing"])
def test_an_error_of_one_run_fails_that_run_with_its_message_and_no_other(tmp_path, when, error):
    def fail(*_):
        if armed:
            raise error

    class Failing(FakeTextEncoder):
        def encode_texts(self, texts):
            if when == "finishing":
                fail()
            return super().encode_texts(texts)

    armed = [True]
    prompter = FakePrompter(before=fail if when == "planning" else lambda _: None)
    stage = Stage(tmp_path, prompter=prompter, text_encoder=Failing())
    create(stage, "bad")
    stage.tick(4, run_id="bad")
    status = read_status(stage.runs_dir, "bad")
    assert status.state == "failed"
    assert type(error).__name__ in status.message and len(status.message) <= 1100
    armed.clear()
    create(stage, "good")
    assert stage.tick(4, run_id="good").state == "done"


def test_runs_that_came_before_and_after_a_failing_one_are_finished(tmp_path):
    stage = Stage(tmp_path)
    write_latin1_table(stage.data_dir / "latin1")
    create(stage, "a")
    create(stage, "bad", source="latin1")
    create(stage, "z")
    stage.tick(5, run_id="a")
    assert [state(stage, run_id) for run_id in ("a", "z")] == ["done", "done"]
    assert state(stage, "bad") in ("failed", "done")


def spoil_with(content):
    def spoil(path):
        path.write_bytes(content)

    return spoil


def make_folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()


def make_loop(path):
    path.unlink(missing_ok=True)
    path.symlink_to(path)


SPOILERS = [
    pytest.param(spoil_with(b""), id="empty"),
    pytest.param(spoil_with(b"\0" * 4096), id="zeros"),
    pytest.param(spoil_with(b"\xff\xfe{garbage"), id="garbage"),
    pytest.param(spoil_with(b"[" * 100_000), id="deep"),
    pytest.param(spoil_with(b"{}"), id="other-json"),
    pytest.param(make_folder, id="folder"),
    pytest.param(make_loop, id="loop"),
]


@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize(
    "name", ["run.json", "status.json", "plan.json", "worker-error.json", "chunks"]
)
@pytest.mark.parametrize("restarted", [False, True])
def test_a_damaged_file_of_one_run_stops_no_other(tmp_path, name, spoil, restarted):
    stage = Stage(tmp_path)
    create(stage, "bad")
    stage.dispatcher.tick()
    folder = stage.runs_dir / "bad"
    (path,) = folder.glob("chunks-*") if name == "chunks" else [folder / name]
    # A new file: the dispatcher may have mapped the old one.
    draft = path.with_name("draft")
    spoil(draft)
    if path.exists():
        path.unlink()
    draft.rename(path)
    if restarted:
        stage.dispatcher = stage.new_dispatcher()
    create(stage, "good")
    assert stage.tick(4, run_id="good").state == "done"


def damage_in_place(path):
    """Change bytes of a file in place, like a failing disk, although others have it mapped."""
    with path.open("r+b") as file:
        file.write(b"\xff" * 40)


def test_chunks_that_workers_find_damaged_are_planned_again(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.dispatcher.tick()
    (chunks,) = (stage.runs_dir / "r").glob("chunks-*")
    whole = chunks.read_bytes()
    damage_in_place(chunks)
    status = stage.tick(5)
    assert (status.state, status.labelled) == ("done", 12)
    assert chunks.read_bytes() == whole


def test_a_run_whose_plan_is_lost_in_the_middle_fails_and_says_how_to_go_on(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.dispatcher.tick()
    (stage.runs_dir / "r/plan.json").write_bytes(b"garbage")
    status = stage.tick(3)
    assert status.state == "failed"
    assert "plan.json" in status.message and "unspoken fork r" in status.message


def test_a_run_that_waits_says_for_which_file(tmp_path):
    stage = Stage(tmp_path)
    create(stage, "r")
    stage.data_dir.rename(tmp_path / "away")
    status = stage.tick(1)
    assert status.state in ("planned", "failed")
    assert "data" in status.message


def test_a_run_that_kills_the_dispatcher_fails_after_some_crashes_and_no_other_does(tmp_path):
    stage = Stage(tmp_path)
    for run_id in ("a", "bad", "z"):
        create(stage, run_id)
    command = [sys.executable, "-m", "tests.worker.dispatch.crashing_dispatcher", str(tmp_path)]
    ends = [subprocess.run(command, check=False).returncode for _ in range(MAX_CRASHES + 1)]
    assert ends == [-signal.SIGKILL] * MAX_CRASHES + [0]
    status = read_status(stage.runs_dir, "bad")
    assert status.state == "failed"
    assert f"planning this run ended the dispatcher {MAX_CRASHES} times" in status.message
    assert [state(stage, run_id) for run_id in ("a", "z")] == ["done", "done"]
    assert not list(stage.runs_dir.glob("*/dispatcher-crashes"))


def test_a_dispatcher_that_is_stopped_while_it_plans_has_not_crashed(tmp_path):
    begun, end = threading.Event(), threading.Event()

    def wait(_captions):
        begun.set()
        end.wait(30)

    stage = Stage(tmp_path, prompter=FakePrompter(before=wait))
    create(stage, "r")
    dispatcher, stop = stage.new_dispatcher(patience_s=0.01), threading.Event()
    thread = threading.Thread(target=dispatcher.run, kwargs={"tick_s": 0.01, "stop": stop})
    thread.start()
    assert begun.wait(30)
    assert count_crashes(stage.runs_dir / "r") == 1
    stop.set()
    thread.join()
    assert count_crashes(stage.runs_dir / "r") == 0
    end.set()


def test_a_panic_of_a_native_library_is_an_error_of_its_call_alone():
    class Panic(BaseException):
        pass

    def panic():
        raise Panic("index out of bounds")

    with pytest.raises(RuntimeError, match="Panic: index out of bounds"):
        start_thread(panic).result(timeout=30)


def test_a_dispatcher_goes_on_after_an_error_that_nobody_foresaw(tmp_path, monkeypatch):
    stage = Stage(tmp_path)
    create(stage, "r")
    stop, ticks = threading.Event(), []
    tick = stage.dispatcher.tick

    def failing_tick():
        ticks.append(1)
        if len(ticks) == 1:
            raise KeyError("nobody foresaw this")
        stop.set()
        return tick()

    monkeypatch.setattr(stage.dispatcher, "tick", failing_tick)
    stage.dispatcher.run(tick_s=0.01, stop=stop)
    assert len(ticks) == 2 and state(stage, "r") == "running"
