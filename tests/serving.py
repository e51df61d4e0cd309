"""Test clients for apps in this process, which wait until the app is ready."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from fastapi import FastAPI
from fastapi.testclient import TestClient


@contextmanager
def ready_client(app: FastAPI) -> Iterator[TestClient]:
    """Yield a client of a ready app; an exception in the app gives a 500, as over the network."""
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def wait_until_ready(client) -> None:
    """Poll /readyz until the service is ready; an app without this route counts as ready."""
    deadline = time.monotonic() + 60
    while True:
        try:
            reply = client.get("/readyz")
            if reply.status_code != 503:
                return
            assert "failed" not in reply.text, reply.text
        except httpx.TransportError:  # it does not listen yet
            pass
        assert time.monotonic() < deadline
        time.sleep(0.005)
