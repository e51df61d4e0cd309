"""Retries of the client, with servers that refuse, disconnect or are down."""

import threading
import time

import pytest

from tests.contracts import picture_bytes
from tests.unspoken.client.scripted import RESET, SILENCE, Answer, scripted
from unspoken.client import Client, RetryPolicy, RunRequest
from unspoken.errors import (
    Conflict,
    DeadlineExceeded,
    EngineFailure,
    InvalidInput,
    NotFound,
    NotReady,
    Overloaded,
    ServiceUnavailable,
    TooLarge,
    Unreachable,
)
from unspoken.process import free_port

QUICK = RetryPolicy(first_pause_s=0.01, max_pause_s=0.05)
RUN = {
    "run_id": "r", "state": "planned", "total": 0, "done": 0, "labelled": 0, "dropped": {},
    "failed": {}, "chunks_total": 0, "chunks_done": 0, "attempts": 0, "output": "",
}  # fmt: skip


def test_a_full_gateway_is_asked_again_when_it_says(client_class):
    with scripted(Answer(429, "1")) as (url, asked), client_class(url, retries=QUICK) as client:
        assert client.runs.list() == []
    assert len(asked) == 2 and 1.0 <= asked[1].at_s - asked[0].at_s < 10


def test_a_picture_is_sent_whole_each_time(client_class):
    png = picture_bytes()
    with (
        scripted(Answer(503, "0"), RESET, Answer(413)) as (url, asked),
        client_class(url, retries=QUICK) as client,
        pytest.raises(TooLarge, match="told 413"),
    ):
        client.segment(png, "car")
    assert len(asked) == 3 and all(png in each.body for each in asked)


@pytest.mark.parametrize("fault", [RESET, Answer(502)], ids=["reset", "502"])
def test_what_broke_off_is_asked_again(client_class, fault):
    with scripted(fault, fault) as (url, asked), client_class(url, retries=QUICK) as client:
        assert client.runs.list() == []
    assert len(asked) == 3


def test_a_gateway_that_starts_late_is_waited_for(client_class):
    port = free_port()
    retries = RetryPolicy(attempts=200, first_pause_s=0.05, max_pause_s=0.05)
    with client_class(f"http://127.0.0.1:{port}", retries=retries) as client:
        told = []
        asking = threading.Thread(target=lambda: told.append(client.runs.list()))
        asking.start()
        time.sleep(0.2)
        with scripted(port=port):
            asking.join(timeout=30)
    assert told == [[]]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidInput),
        (404, NotFound),
        (409, Conflict),
        (422, InvalidInput),
        (500, EngineFailure),
        (504, DeadlineExceeded),
    ],
)
def test_what_is_final_is_asked_once(client_class, status, error):
    with (
        scripted(Answer(status, "0")) as (url, asked),
        client_class(url, retries=QUICK) as client,
        pytest.raises(error, match=f"told {status}"),
    ):
        client.runs.read("r")
    assert len(asked) == 1


@pytest.mark.parametrize("verb", ["fork", "retry_failed"])
def test_what_would_be_done_twice_is_asked_again_only_where_it_was_refused(client_class, verb):
    with (
        scripted(Answer(429, "0"), RESET) as (url, asked),
        client_class(url, retries=QUICK) as client,
        pytest.raises(ServiceUnavailable, match=r"connection .* was lost"),
    ):
        getattr(client.runs, verb)("r")
    assert len(asked) == 2


def test_a_run_that_is_sent_twice_has_one_id(client_class):
    with (
        scripted(RESET, reply=RUN) as (url, asked),
        client_class(url, retries=QUICK) as client,
    ):
        client.runs.create(RunRequest(source="shards"))
    first, second = asked
    assert first.body == second.body and b'"run_id"' in first.body


def test_tries_come_to_an_end(client_class):
    full = [Answer(429, "0")] * 9
    with (
        scripted(*full) as (url, asked),
        client_class(url, retries=RetryPolicy(attempts=3, first_pause_s=0.01)) as client,
        pytest.raises(Overloaded, match="told 429"),
    ):
        client.runs.list()
    assert len(asked) == 3


def test_no_pause_goes_over_the_time_of_the_call(client_class):
    started = time.monotonic()
    with (
        scripted(Answer(503, "60")) as (url, asked),
        client_class(url, timeout_s=30) as client,
        pytest.raises(NotReady) as raised,
    ):
        client.runs.list()
    assert raised.value.retry_after_s == 60 and len(asked) == 1
    assert time.monotonic() - started < 20, "it said at once that it would not come to anything"


def test_a_gateway_that_says_nothing_is_given_up_in_time(client_class):
    with (
        scripted(SILENCE) as (url, asked),
        client_class(url, timeout_s=0.3) as client,
        pytest.raises(DeadlineExceeded, match="in time"),
    ):
        client.runs.list()
    assert len(asked) == 1


def test_nobody_there_is_unreachable():
    with (
        Client(f"http://127.0.0.1:{free_port()}", retries=QUICK) as client,
        pytest.raises(Unreachable, match="unspoken up"),
    ):
        client.runs.list()
