"""Unavailable services, disks and models: a run waits, reports the reason, and continues."""

import base64
import errno
import threading
import time

import pytest

from tests.fakes import FakeDetector, FakePrompter
from tests.worker.source_files import CAPTIONS, write_shard
from tests.worker.stage import Stage
from unspoken.errors import ServiceUnavailable, Unreachable
from unspoken.imaging.images import ONE_WHITE_PIXEL
from unspoken.retries import RetryPolicy
from unspoken.runs.plan import read_plan
from unspoken.runs.store import create_run, fork_run, read_run, read_status
from unspoken.wire.base import ModelInfo
from unspoken.wire.pictures import ImageInput
from unspoken.wire.runs import InlineItem, RunRequest


def rest():
    """Wait for one lease time, during which failed chunks are not retried."""
    time.sleep(0.25)


def test_a_run_whose_service_is_away_pauses_and_a_probe_ends_the_pause(tmp_path):
    stage = Stage(tmp_path)
    create_run(stage.data_dir, stage.runs_dir, RunRequest(source="in", run_id="r", chunk_size=1))
    stage.dispatcher.tick()
    stage.ready = False
    while not read_status(stage.runs_dir, "r").message:
        stage.work()
        rest()
        stage.time_s += 11.0
        stage.dispatcher.tick()
    message = read_status(stage.runs_dir, "r").message
    assert message.startswith("paused: loading; retrying one chunk")
    stage.publisher.messages.clear()
    stage.time_s += 120.0
    stage.dispatcher.tick()
    assert [len(chunks) for _, chunks, _ in stage.publisher.messages] == [1]
    stage.ready = True
    for _ in range(9):
        rest()
        stage.tick()
    status = read_status(stage.runs_dir, "r")
    assert (status.state, status.attempts) == ("done", 12)


def test_an_outage_in_the_middle_of_chunks_burns_no_attempts(tmp_path, monkeypatch):
    monkeypatch.setattr("worker.label.pipeline.SERVICE_RETRIES", RetryPolicy(total_s=0.0))
    gone = threading.Event()

    def refuse(picture, phrases):
        if gone.is_set():
            raise Unreachable("connection refused")

    stage = Stage(tmp_path, detector=FakeDetector(before=refuse))
    stage.create()
    gone.set()
    for _ in range(6):
        stage.tick()
        rest()
    assert not list((stage.ledger.run_dir / "attempts").iterdir())
    gone.clear()
    for _ in range(12):
        stage.tick()
        rest()
    assert read_status(stage.runs_dir, "r").state == "done"
    assert {row.status for row in stage.rows()} == {"labelled"}


def test_a_picture_that_breaks_the_service_is_a_row_after_three_tries(tmp_path):
    asked = []

    def crash(picture, phrases):
        if "kitten" in phrases:
            asked.append(phrases)
            raise ServiceUnavailable("/detect: the connection was lost")

    stage = Stage(tmp_path, detector=FakeDetector(before=crash))
    stage.create()
    for _ in range(20):
        stage.tick()
        rest()
    status = read_status(stage.runs_dir, "r")
    assert (status.state, status.failed, status.labelled) == ("done", {"poison": 1}, 11)
    assert len(asked) == 3


def test_a_full_disk_is_waited_for_and_burns_no_attempts(tmp_path, monkeypatch):
    stage = Stage(tmp_path)
    stage.create()
    stage.dispatcher.tick()

    def full(path, rows):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("unspoken.runs.ledger.write_shard", full)
        for _ in range(4):
            stage.tick()
            rest()
        assert "no space left" in read_status(stage.runs_dir, "r").message
    assert not list((stage.ledger.run_dir / "attempts").iterdir())
    assert list((stage.runs_dir / "r/dataset").iterdir()) == []
    for _ in range(12):
        stage.time_s += 60.0
        stage.tick()
        rest()
    assert read_status(stage.runs_dir, "r").state == "done"


def test_a_dispatcher_whose_disk_is_full_lives_on(tmp_path, monkeypatch):
    stage = Stage(tmp_path)
    stage.create()

    def full(*_arguments):
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("unspoken.runs.storage.replace", full)
        assert stage.dispatcher.tick()
    assert stage.tick(4).state == "done"


@pytest.mark.parametrize("kind", ["llm", "detector"])
def test_another_model_in_the_middle_of_a_run_is_refused_and_named(tmp_path, kind):
    stage = Stage(tmp_path, prompter=FakePrompter(), detector=FakeDetector())
    stage.create()
    stage.dispatcher.tick()
    port = stage.ports.prompter if kind == "llm" else stage.ports.detector
    planned = port.model
    port.model = ModelInfo(name="other", kind=kind, revision="2")
    for _ in range(4):
        stage.tick()
        rest()
    status = read_status(stage.runs_dir, "r")
    assert f"the {kind} is now other@2" in status.message
    assert f"planned with {planned.name}@{planned.revision}" in status.message
    assert (status.done, status.attempts) == (0, 0)
    forked = fork_run(stage.runs_dir, "r").run_id
    port.model = planned
    for _ in range(12):
        stage.time_s += 60.0
        stage.tick()
        rest()
    assert read_status(stage.runs_dir, "r").state == "done"
    assert read_status(stage.runs_dir, forked).state in ("running", "done")


def test_a_fork_asks_the_same_of_the_models_that_are_there_now(tmp_path):
    stage = Stage(tmp_path, detector=FakeDetector())
    stage.create(num_decoys=2)
    stage.dispatcher.tick()
    stage.publisher.messages.clear()
    stage.ports.detector.model = ModelInfo(name="other", kind="detector", revision="2")
    forked = fork_run(stage.runs_dir, "r").run_id
    assert read_run(stage.runs_dir, forked).options.num_decoys == 2
    for _ in range(6):
        stage.tick()
        rest()
    assert read_status(stage.runs_dir, forked).state == "done"
    assert read_plan(stage.runs_dir / forked).models["detector"].name == "other"


def test_other_prompts_in_the_middle_of_a_run_are_refused(tmp_path):
    class Prompter(FakePrompter):
        digest = "fake-prompts"

        def propose(self, captions, *, templates=None):
            proposals = super().propose(captions, templates=templates)
            return [each.model_copy(update={"prompt_sha256": self.digest}) for each in proposals]

    stage = Stage(tmp_path, prompter=Prompter())
    stage.create()
    stage.dispatcher.tick()
    stage.ports.prompter.digest = "another"
    for _ in range(3):
        stage.tick()
        rest()
    status = read_status(stage.runs_dir, "r")
    assert status.done == 0 and "other templates" in status.message


def test_of_two_dispatchers_one_works_and_the_other_takes_over(tmp_path):
    stage = Stage(tmp_path)
    ticks = {"first": 0, "second": 0}
    stops = {name: threading.Event() for name in ticks}
    threads = {}
    for name, stop in stops.items():
        dispatcher = stage.new_dispatcher()

        def tick(name=name):
            ticks[name] += 1

        dispatcher.tick = tick
        threads[name] = threading.Thread(
            target=dispatcher.run, kwargs={"tick_s": 0.02, "stop": stop}
        )
    stage.runs_dir.mkdir()
    threads["first"].start()
    wait_for(lambda: ticks["first"] > 3)
    threads["second"].start()
    before = ticks["first"]
    wait_for(lambda: ticks["first"] > before + 20)
    assert ticks["second"] == 0
    stops["first"].set()
    wait_for(lambda: ticks["second"] > 3)
    stops["second"].set()
    for thread in threads.values():
        thread.join()
    assert list(stage.runs_dir.iterdir()) == []


def wait_for(holds, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_messages_carry_more_chunks_once_their_time_is_known_and_fewer_at_the_end(tmp_path):
    stage = Stage(tmp_path)
    write_shard(stage.data_dir / "in/00001.tar", CAPTIONS * 5, first_seed=100)
    create_run(stage.data_dir, stage.runs_dir, RunRequest(source="in", run_id="r", chunk_size=1))
    stage.dispatcher.tick()
    sizes = [[len(chunks) for _, chunks, _ in stage.publisher.messages]]
    while read_status(stage.runs_dir, "r").state != "done":
        stage.tick()
        stage.dispatcher.tick()
        sizes.append([len(chunks) for _, chunks, _ in stage.publisher.messages])
    assert sizes[0] == [1, 1, 1, 1]
    assert max(map(max, filter(None, sizes))) > 4
    assert all(len(messages) <= 4 for messages in sizes)
    assert sorted(stage.publisher.published) == list(range(72))


def test_a_small_inline_run_goes_past_the_queue_of_the_large_ones(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    image = ImageInput(base64=base64.b64encode(ONE_WHITE_PIXEL).decode())
    item = InlineItem(caption=CAPTIONS[0], image=image)
    create_run(stage.data_dir, stage.runs_dir, RunRequest(items=[item], run_id="small"))
    stage.dispatcher.tick()
    queues = {run_id: queue for run_id, _, queue in stage.publisher.messages}
    assert queues == {"r": "bulk", "small": "interactive"}
