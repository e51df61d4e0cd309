"""Redaction and escaping: secrets and untrusted control characters are removed."""

import io
import json
import logging
import time

import httpx
import pytest
from pydantic import SecretStr

from services.gateway.settings import GatewaySettings
from services.llm.settings import LlmSettings
from services.segmenter.settings import SegmenterSettings
from unspoken.client import Client, RetryPolicy
from unspoken.client.http_error import error_of
from unspoken.client.port_clients import DetectorClient, connect
from unspoken.config.weights import WeightsSettings
from unspoken.errors import InvalidConfig, InvalidInput, ServiceUnavailable, Unreachable
from unspoken.logs import JsonFormatter, TextFormatter, fields, log_ids
from unspoken.safe_text import escape_controls, reason_of, redact, without_userinfo
from worker.process.settings import WorkerSettings

SECRET = "hunter2-of-the-tests"


@pytest.mark.parametrize(
    "text",
    [
        f"redis://:{SECRET}@redis:6379/0",
        f"redis://user:{SECRET}@redis:6379/0 does not answer",
        f"redis://:a#b/c?{SECRET}@redis:6379/0",
        f"GET https://me:x@{SECRET}@host/path answered 500",
        f"Illegal header value b'Bearer {SECRET}\\r'",
        f"Illegal header value b'Bearer with blanks {SECRET}\\r'",
        f"headers: {{'Authorization': 'Bearer {SECRET}'}}",
        f"authorization: basic {SECRET}",
        "key unspoken_" + SECRET.ljust(43, "x"),
    ],
)
def test_a_secret_is_redacted_wherever_a_message_repeats_it(text):
    assert SECRET not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "an API key is needed: send Authorization: Bearer KEY",
        "http://127.0.0.1:8003/images/a@b could not be reached",
        "https://host/@user/picture.jpg",
        "mail me@example.org about unspoken_requests_total",
    ],
)
def test_what_is_no_secret_stays_readable(text):
    assert redact(text) == text


def test_redaction_of_a_long_hostile_text_takes_no_time():
    for piece in ("://", "://a:", "Bearer ", "illegal header value b'", "unspoken_", "a:b@"):
        started = time.perf_counter()
        redact(piece * 20_000)
        assert time.perf_counter() - started < 2


def test_control_characters_are_escaped_and_letters_of_all_scripts_are_not():
    assert escape_controls("a\nb\x1b[2J\x9b\u2028\u202e\ud800") == (
        "a\\nb\\x1b[2J\\x9b\\u2028\\u202e\\ud800"
    )
    assert escape_controls("Hündchen 犬 🐕") == "Hündchen 犬 🐕"
    assert escape_controls("a\nb\r", keep="\n") == "a\nb\\r"


def test_an_exception_without_text_is_named_by_its_type():
    assert reason_of(httpx.ConnectError("")) == "ConnectError"
    assert reason_of(httpx.ConnectError("no\nroute")) == "no\\nroute"


def test_no_client_repeats_a_password_of_an_address():
    address = f"http://user:{SECRET}@127.0.0.1:9"
    with (
        Client(address, retries=RetryPolicy(attempts=1)) as client,
        pytest.raises(Unreachable) as failed,
    ):
        client.runs.list()
    assert SECRET not in str(failed.value) and "127.0.0.1:9" in str(failed.value)
    with connect(address) as http, pytest.raises(Unreachable) as failed:
        DetectorClient(http).check_ready()
    assert SECRET not in str(failed.value) and "127.0.0.1:9" in str(failed.value)
    with pytest.raises(InvalidInput) as refused:
        Client(f"ftp://user:{SECRET}@host")
    assert SECRET not in str(refused.value)


def test_a_library_that_quotes_our_header_does_not_bring_the_key_into_an_error():
    def quote(request: httpx.Request) -> httpx.Response:
        raise httpx.LocalProtocolError(f"Illegal header value b'Bearer {SECRET}\\r'")

    with connect("http://llm", key=SecretStr(SECRET)) as http:
        http._transport = httpx.MockTransport(quote)
        http._mounts = {}
        with pytest.raises(ServiceUnavailable) as failed:
            DetectorClient(http).check_ready()
    assert SECRET not in str(failed.value)


def test_a_reply_that_quotes_our_header_does_not_bring_the_key_into_an_error():
    request = httpx.Request("GET", "http://llm/readyz")
    for reply in (
        httpx.Response(502, text=f"upstream: Authorization: Bearer {SECRET}", request=request),
        httpx.Response(
            500, json={"message": f"redis://:{SECRET}@redis", "error": "x"}, request=request
        ),
    ):
        assert SECRET not in str(error_of(reply))


@pytest.mark.parametrize(
    ("settings", "field", "variable"),
    [
        (WorkerSettings, "broker_url", "WORKER_BROKER_URL"),
        (WorkerSettings, "llm_url", "WORKER_LLM_URL"),
        (WorkerSettings, "detector_url", "WORKER_DETECTOR_URL"),
        (WorkerSettings, "segmenter_url", "WORKER_SEGMENTER_URL"),
        (GatewaySettings, "segmenter_url", "GATEWAY_SEGMENTER_URL"),
        (SegmenterSettings, "detector_url", "SEGMENTER_DETECTOR_URL"),
        (LlmSettings, "openai_base_url", "LLM_OPENAI_BASE_URL"),
        (WeightsSettings, "hub_url", "UNSPOKEN_HUB_URL"),
    ],
)
def test_a_wrong_address_in_a_setting_is_named_and_never_repeated(settings, field, variable):
    for wrong in (f"localhost/{SECRET}", f"gopher://a:{SECRET}@b", f"redis://:{SECRET}#1@host:x/0"):
        with pytest.raises(InvalidConfig, match=variable) as refused:
            settings(**{field: wrong})
        assert SECRET not in str(refused.value)


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_neither_a_message_nor_a_traceback_nor_a_field_of_a_log_line_holds_a_secret(formatter):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.Logger("tests.secrets")
    logger.addHandler(handler)
    try:
        raise ValueError(f"Illegal header value b'Bearer {SECRET}\\r'")
    except ValueError:
        logger.exception("redis://:%s@host", SECRET, extra=fields(url=f"http://a:{SECRET}@b"))
    assert stream.getvalue().count("***") >= 3 and SECRET not in stream.getvalue()


FORGED = "r\n2026-01-01 00:00:00 ERROR unspoken all is lost\r\x1b[2J\x9b1m\u2028x=y"


@pytest.mark.parametrize("where", ["message", "field", "id", "exception"])
def test_no_text_of_somebody_else_begins_a_log_line_or_reaches_the_terminal_as_controls(where):
    written = {}
    for name, formatter in (("text", TextFormatter()), ("json", JsonFormatter())):
        record = logging.LogRecord("a.b", logging.INFO, "f.py", 1, "it happened", (), None)
        ids = {}
        match where:
            case "message":
                record.msg = FORGED
            case "field":
                record.__dict__.update(fields(key=FORGED))
            case "id":
                ids = {"run": FORGED}
            case "exception":
                error = ValueError(FORGED)
                record.exc_info = (ValueError, error, None)
        with log_ids(**ids):
            written[name] = formatter.format(record)
    first, *rest = written["text"].split("\n")
    assert all(line.startswith("    ") for line in rest)
    assert bool(rest) == (where == "exception")
    for text in written.values():
        assert not set(text.replace("\n", "")) & set("\r\x1b\x9b\u2028")
    assert "\n" not in written["json"]
    assert "all is lost" in json.dumps(json.loads(written["json"]))
    if where in ("field", "id"):
        assert first.count("=") == 2, "x=y stays within the quotes of its value"


def test_a_value_with_blanks_is_quoted_in_a_text_line_so_that_keys_can_be_told_apart():
    record = logging.LogRecord("a.b", logging.INFO, "f.py", 1, "done", (), None)
    record.__dict__.update(fields(rows=8, name="a b", note='say "x"'))
    assert TextFormatter().format(record).endswith(r'done rows=8 name="a b" note="say \"x\""')


def test_the_address_of_a_picture_is_kept_without_its_password():
    assert without_userinfo(f"https://me:{SECRET}@host/a.jpg?x=1") == "https://host/a.jpg?x=1"
    assert without_userinfo("https://host/@a/b.jpg") == "https://host/@a/b.jpg"
