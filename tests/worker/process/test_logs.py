"""A worker's log lines, and the ids that it sends to the services."""

import io
import json
import logging

import pytest

from tests.fakes import FakeCropRanker, FakeDetector, FakePrompter
from tests.unspoken.test_logs import written as written  # the fixture
from tests.worker.service import create_app, serve
from tests.worker.source_files import CAPTIONS
from tests.worker.stage import CLASSIFIERS, Stage
from unspoken.client.port_clients import DetectorClient, PrompterClient, connect
from unspoken.errors import EngineFailure
from unspoken.logs import TextFormatter
from worker.label.pipeline import Ports
from worker.process.attempt import WorkerContext
from worker.process.message import Message
from worker.process.tasks import label_message


@pytest.fixture
def asked():
    """Return the list for (path, run, chunk, request) of every request to the services."""
    return []


@pytest.fixture
def context(tmp_path, asked):
    def refuse(picture, phrases):
        if "horse" in phrases:
            raise EngineFailure("not this one")

    app = create_app(FakePrompter(), FakeDetector(before=refuse))

    @app.middleware("http")
    async def note(request, call_next):
        names = ("X-Run-Id", "X-Chunk-Id", "X-Request-Id")
        if request.url.path != "/readyz":
            asked.append((request.url.path, *(request.headers.get(name) for name in names)))
        return await call_next(request)

    with serve(app) as url, connect(url) as http:
        ports = Ports(PrompterClient(http), DetectorClient(http), CLASSIFIERS, FakeCropRanker())
        yield WorkerContext(tmp_path / "runs", tmp_path / "data", 5.0, ports, lambda config: None)


def test_a_workers_requests_and_lines_carry_run_and_chunk_and_no_caption(
    tmp_path, context, asked, written
):
    stage = Stage(tmp_path)
    stage.create()
    stage.dispatcher.tick()
    label_message(Message(run_id="r", chunk_ids=[0, 2]), context)
    told = {(path, run, chunk) for path, run, chunk, _ in asked}
    assert {("/propose", "r", "0"), ("/detect", "r", "0"), ("/detect", "r", "2")} <= told
    requests = [request for *_, request in asked]
    assert None not in requests and len(set(requests)) == len(requests)
    committed = [line for line in written() if line["message"] == "committed"]
    assert [(line["run"], line["chunk"], line["rows"]) for line in committed] == [
        ("r", "0", 4),
        ("r", "2", 4),
    ]
    text = json.dumps(written())
    assert not [caption for caption in CAPTIONS if caption in text]


def test_what_fails_at_a_chunk_is_logged_with_its_ids(tmp_path, context, written):
    stage = Stage(tmp_path)
    stage.create()
    stage.dispatcher.tick()
    label_message(Message(run_id="r", chunk_ids=[0]), context)
    (failed,) = [line for line in written() if line["level"] == "WARNING"]
    assert (failed["run"], failed["chunk"]) == ("r", "0") and "engine_failure" in failed["message"]
    label_message(Message(run_id="nobody", chunk_ids=[7]), context)
    assert written()[-1] == {**written()[-1], "run": "nobody", "chunk": "7"}


def test_the_dispatchers_lines_name_their_run(tmp_path):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter())
    logger = logging.getLogger("worker.dispatch")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        stage = Stage(tmp_path)
        stage.create()
        assert stage.tick(3).state == "done"
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    lines = stream.getvalue().splitlines()
    assert [line.split("worker.dispatch.")[1] for line in lines] == [
        "planning planning run=r",
        "loop run is done run=r",
    ]
