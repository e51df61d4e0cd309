"""Signals as a terminal gives them, for the commands that tests start."""

import signal

import pytest


@pytest.fixture(autouse=True, scope="session")
def signals_are_not_ignored():
    """Reset SIGINT and SIGHUP: `&` and nohup ignore them, and child processes inherit that."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
