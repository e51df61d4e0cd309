"""Following a run with the client while its connection is cut, reset or refused."""

import threading
import time

import pytest

from tests.chaos.fault_proxy import FaultProxy
from tests.unspoken.client.scripted import Answer, scripted
from unspoken.client import RetryPolicy, RunRequest
from unspoken.errors import NotFound, ServiceUnavailable, Unreachable
from unspoken.process import free_port
from unspoken.runs.liveness import DISPATCHER_LEASE
from unspoken.runs.store import create_run, write_status
from unspoken.wire.runs import RunStatus

QUICK = RetryPolicy(first_pause_s=0.01, max_pause_s=0.05)
ROWS = 6


@pytest.fixture
def run(stack):
    (stack.data_dir / "in").mkdir(parents=True)
    created = create_run(stack.data_dir, stack.runs_dir, RunRequest(source="in", run_id="r"))
    (stack.runs_dir / DISPATCHER_LEASE).touch()  # one works
    return created


def tell(stack, run, done, **changes) -> RunStatus:
    """Write a run's status as a dispatcher does."""
    told = {"state": "running", "total": ROWS, "done": done, "updated_s": time.time(), **changes}
    status = run.model_copy(update=told)
    write_status(stack.runs_dir, status)
    return status


def test_each_change_is_told_once_over_streams_that_are_cut_and_reset(client_class, stack, run):
    with FaultProxy(("127.0.0.1", stack.port)) as proxy:
        with client_class(f"http://127.0.0.1:{proxy.port}", retries=QUICK) as client:
            told = client.runs.follow("r")
            assert next(told).state == "planned"
            for done in range(1, ROWS):
                if done % 2:
                    proxy.reset()
                else:
                    proxy.cut(after_bytes=100)  # in the midst of the next event
                    threading.Timer(0.1, proxy.heal).start()
                tell(stack, run, done)
                assert next(told).done == done
            tell(stack, run, ROWS, state="done")
            assert [status.done for status in told] == [ROWS]
        assert proxy.num_connections >= ROWS - 1


def test_a_run_that_has_ended_is_told_once_and_ends(client, stack, run):
    tell(stack, run, ROWS, state="cancelled")
    assert [status.state for status in client.runs.follow("r")] == ["cancelled"]


def test_a_run_that_nobody_knows_is_said_to_be_so(client):
    with pytest.raises(NotFound):
        next(client.runs.follow("nobody"))


def test_a_run_whose_folder_is_removed_is_said_to_be_so(client_class, stack, run):
    with client_class(stack.url, retries=QUICK) as client:
        told = client.runs.follow("r")
        next(told)
        (stack.runs_dir / "r").rename(stack.runs_dir / ".gone")
        with pytest.raises(NotFound):
            next(told)


def test_a_gateway_that_stays_away_is_given_up_at_last(client_class):
    with (
        client_class(f"http://127.0.0.1:{free_port()}", retries=QUICK) as client,
        pytest.raises(Unreachable, match="no gateway answers"),
    ):
        next(client.runs.follow("r", patience_s=0.1))


def test_a_refused_stream_is_asked_for_again_until_it_is_final(client_class):
    with (
        scripted(Answer(429, "0"), Answer(502), Answer(404)) as (url, asked),
        client_class(url, retries=QUICK) as client,
        pytest.raises(NotFound, match="told 404"),
    ):
        next(client.runs.follow("r"))
    assert len(asked) == 3


def test_what_is_no_stream_of_events_is_not_listened_to(client_class):
    with (
        scripted(Answer(200)) as (url, _asked),
        client_class(url, retries=QUICK) as client,
        pytest.raises(ServiceUnavailable, match="not answer with an event stream"),
    ):
        next(client.runs.follow("r"))
