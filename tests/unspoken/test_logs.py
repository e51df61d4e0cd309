"""Log lines: their fields, as text and as JSON, and for HTTP requests."""

import io
import json
import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from services.detector.app import create_app as detector_app
from services.gateway.app import create_app as gateway_app
from services.gateway.settings import GatewaySettings
from services.segmenter.app import create_app as segmenter_app
from tests.contracts import picture_bytes
from tests.fakes import FakeDetector, FakeSegmenter, FakeTextEncoder
from tests.worker.service import serve
from unspoken.client.port_clients import DetectorClient, connect
from unspoken.errors import EngineFailure
from unspoken.http.app import create_service
from unspoken.http.batching import InferenceThread
from unspoken.imaging.images import decode_picture
from unspoken.logs import (
    JsonFormatter,
    TextFormatter,
    bind_context,
    configure_logging,
    fields,
    incoming_ids,
    log_ids,
    outgoing_headers,
)

logger = logging.getLogger("tests.logs")


@pytest.fixture
def written():
    """Return all lines at INFO level, parsed from JSON."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(level)


def formatted(formatter, message="it happened", **extra):
    record = logging.LogRecord("a.b", logging.INFO, "f.py", 1, message, (), None)
    record.__dict__.update(extra)
    return formatter.format(record)


def test_a_line_without_ids_is_just_its_message():
    assert formatted(TextFormatter()).endswith("INFO a.b it happened")
    line = json.loads(formatted(JsonFormatter()))
    assert set(line) == {"time", "level", "logger", "pid", "message"}


def test_fields_and_ids_follow_the_message_and_end_with_their_block():
    with log_ids(run="r", chunk=7), log_ids(run=None, request="q"):
        text = formatted(TextFormatter(), **fields(rows=8))
        line = json.loads(formatted(JsonFormatter(), **fields(rows=8)))
    assert text.endswith("it happened rows=8 run=r chunk=7 request=q")
    assert (line["rows"], line["run"], line["chunk"], line["request"]) == (8, "r", "7", "q")
    assert formatted(TextFormatter()).endswith("it happened")


def test_a_line_of_json_is_one_line_whatever_is_in_it():
    try:
        raise KeyError("first\nsecond")
    except KeyError as error:
        raised = (KeyError, error, error.__traceback__)
    text = formatted(JsonFormatter(), "two\nlines", exc_info=raised)
    assert "\n" not in text and "KeyError" in json.loads(text)["exception"]


def test_ids_belong_to_their_thread_and_are_carried_into_another(written):
    with ThreadPoolExecutor(1) as pool, log_ids(run="r"):
        pool.submit(logger.info, "plain").result()
        pool.submit(bind_context(logger.info, "carried")).result()
        other = threading.Thread(target=logger.info, args=("thread",))
        other.start()
        other.join()
    assert [line.get("run") for line in written()] == [None, "r", None]


def test_headers_bring_ids_over_and_nothing_that_would_write_into_the_log():
    with log_ids(run="r", chunk=7, attempt=2):
        headers = outgoing_headers()
        assert headers == {**headers, "X-Run-Id": "r", "X-Chunk-Id": "7"} and len(headers) == 3
    ids = incoming_ids(headers)
    assert (ids["run"], ids["chunk"], ids["request"]) == ("r", "7", headers["X-Request-Id"])
    bad = {"X-Run-Id": "r\nERROR all is lost", "X-Chunk-Id": "7; x", "X-Request-Id": "a" * 65}
    assert set(incoming_ids(bad)) == {"request"} and incoming_ids(bad)["request"].isalnum()


def test_a_service_logs_the_run_and_chunk_of_who_asks(written):
    fake = FakeDetector()
    picture = decode_picture(picture_bytes())
    with serve(detector_app(fake)) as url, connect(url) as http, log_ids(run="labels", chunk=12):
        DetectorClient(http).detect(picture, ["a secret phrase"])
    (line,) = [line for line in written() if line.get("route") == "/detect"]
    assert (line["run"], line["chunk"], line["status"]) == ("labels", "12", 200)
    assert line["message"] == "answered" and line["took_ms"] > 0 and line["request"]
    assert "secret phrase" not in json.dumps(written())


def test_one_request_has_one_id_in_all_services_that_it_passes(written, tmp_path):
    segmenter = segmenter_app(FakeTextEncoder(), segmenter=FakeSegmenter())
    with serve(segmenter) as segmenter_url:
        settings = GatewaySettings(
            data_dir=tmp_path, runs_dir=tmp_path / "runs", segmenter_url=segmenter_url
        )
        with serve(gateway_app(settings)) as url:
            reply = httpx.post(
                f"{url}/segment",
                files={"image": picture_bytes()},
                data={"queries": "[]"},
                headers={"X-Request-Id": "mine-1"},
            )
    assert reply.is_success and reply.headers["X-Request-Id"] == "mine-1"
    answered = [line for line in written() if line["message"] == "answered"]
    assert [(line["service"], line["request"]) for line in answered] == [
        ("segmenter", "mine-1"),
        ("gateway", "mine-1"),
    ]


def test_the_gateway_says_which_run_a_request_is_about(written, tmp_path):
    (tmp_path / "data/in").mkdir(parents=True)
    settings = GatewaySettings(data_dir=tmp_path / "data", runs_dir=tmp_path / "runs")
    with serve(gateway_app(settings)) as url:
        httpx.post(f"{url}/runs", json={"source": "in", "run_id": "r"})
        httpx.get(f"{url}/runs/r")
    queued, posted, read = [line for line in written() if line["message"] in ("queued", "answered")]
    assert (queued["message"], queued["run"]) == ("queued", "r")
    assert queued["request"] == posted["request"]
    assert (read["route"], read["run"]) == ("/runs/{run_id}", "r")


def test_what_fails_is_logged_with_the_ids_of_who_asked(written):
    def fail(picture, phrases):
        if phrases == ["car"]:
            raise ValueError("a bug")

    picture, app = decode_picture(picture_bytes()), detector_app(FakeDetector(before=fail))
    with serve(app) as url, connect(url) as http, log_ids(run="labels"):
        with_ids = DetectorClient(http)
        with pytest.raises(EngineFailure):
            with_ids.detect(picture, ["car"])
    (line,) = [line for line in written() if line["message"] == "item failed"]
    assert line["run"] == "labels" and "ValueError: a bug" in line["exception"]


def test_a_bug_of_a_route_has_its_request_id_in_reply_log_and_count(written):
    app = create_service(
        "test", description="", models=lambda: [], batchers=[],
        thread=InferenceThread(name="test"), warm_up=lambda: None,
    )  # fmt: skip

    @app.get("/bug")
    async def bug() -> None:
        raise RuntimeError("never seen")

    with serve(app) as url:
        reply = httpx.get(f"{url}/bug", headers={"X-Request-Id": "q1"})
        counted = httpx.get(f"{url}/metrics").text
    assert (reply.status_code, reply.headers["X-Request-Id"]) == (500, "q1")
    assert 'unspoken_requests_total{route="/bug",service="test",status="500"} 1.0' in counted
    (line,) = [line for line in written() if "unexpected error" in line["message"]]
    assert line["request"] == "q1" and "never seen" in line["exception"]


PROGRAM = """
import logging
from unspoken.logs import PROGRESS_LAYOUT, configure_logging
configure_logging("WARNING", "text", layout="first %(message)s")
configure_logging("INFO", "text", layout=PROGRESS_LAYOUT)
logging.getLogger("training").info("step\\x1b[2J 1, key=%s", "Bearer abcdefghijklmnop")
"""


def test_the_lines_of_training_are_escaped_and_redacted_after_the_command_line_set_up_its_own():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert "first" not in line and line[:2] == "20"
    assert "\x1b" not in line and "abcdefghijklmnop" not in line and "step" in line


def test_handlers_of_other_code_stay_as_they_are(monkeypatch):
    root, foreign = logging.getLogger(), logging.NullHandler()
    monkeypatch.setattr(root, "handlers", [foreign])
    configure_logging("WARNING", "text")
    assert root.handlers == [foreign]
