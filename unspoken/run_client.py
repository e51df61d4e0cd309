"""The gateway's run routes for Python: queue, follow, retry and cancel labelling runs.

    with RunsClient("http://127.0.0.1:8000") as runs:
        run = runs.create(RunRequest(source="shards"))
        for status in runs.events(run.run_id):
            print(status.done, status.total)

Raises the errors of unspoken.errors that the gateway answers; ServiceUnavailable where none does.
"""

import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from unspoken.clients import NO_KEY, connect, error_of
from unspoken.errors import NotReady, Overloaded, ServiceUnavailable
from unspoken.schemas import RunRequest, RunStatus

# Streams say something every 15 s: four times that without a word, and the connection is dead.
SILENCE_S = 60.0
MAX_PAUSE_S = 10.0


class RunsClient:
    """One gateway. `pause_s`: before a stream that broke is asked for again; doubles each time.

    key: the API key, where the gateway asks for one.
    """

    def __init__(self, url: str, *, pause_s: float = 0.5, key: SecretStr = NO_KEY) -> None:
        self._http = connect(url, timeout_s=60, key=key)
        self._pause_s = pause_s

    def __enter__(self) -> "RunsClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def create(self, request: RunRequest) -> RunStatus:
        """Queue a run."""
        return self._status("POST", "/runs", json=request.model_dump(exclude_none=True))

    def read(self, run_id: str) -> RunStatus:
        """How far a run is."""
        return self._status("GET", f"/runs/{quote(run_id)}")

    def list(self) -> list[RunStatus]:
        """All runs, the newest first."""
        return [RunStatus.model_validate(each) for each in self._request("GET", "/runs").json()]

    def retry_failed(self, run_id: str) -> RunStatus:
        """Queue a new run of just the failures."""
        return self._status("POST", f"/runs/{quote(run_id)}/retry-failed")

    def fork(self, run_id: str) -> RunStatus:
        """Queue a new run that asks the same, with the models that are served now."""
        return self._status("POST", f"/runs/{quote(run_id)}/fork")

    def cancel(self, run_id: str) -> RunStatus:
        """Start no further chunk of a run."""
        return self._status("DELETE", f"/runs/{quote(run_id)}")

    def events(self, run_id: str, *, patience_s: float = 300.0) -> Iterator[RunStatus]:
        """Each change of a run's status until it has ended, whatever happens to the connection.

        Raises NotFound; ServiceUnavailable after `patience_s` without any gateway.
        """
        last_id: str | None = None
        pause_s, heard_s = self._pause_s, time.monotonic()
        while True:
            try:
                for event in self._stream(run_id, last_id):
                    pause_s, heard_s = self._pause_s, time.monotonic()
                    last_id = event.id or last_id
                    if event.name == "status":
                        yield RunStatus.model_validate_json(event.data)
                    elif event.name == "end":
                        return
            except (Overloaded, NotReady, ServiceUnavailable) as error:
                if time.monotonic() - heard_s > patience_s:
                    raise
                pause_s = max(pause_s, getattr(error, "retry_after_s", 0.0))
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    def _stream(self, run_id: str, last_id: str | None) -> "Iterator[_Event]":
        """Events of one connection; an `end` of our own where the gateway has no more to tell."""
        path = f"/runs/{quote(run_id)}/events"
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        timeout = httpx.Timeout(SILENCE_S, connect=5.0)
        try:
            with self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
                if response.status_code == 204:
                    yield _Event("end", "", None)
                    return
                if not response.is_success:
                    response.read()
                    raise error_of(response)
                yield from parse_events(response.iter_bytes())
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _status(self, method: str, path: str, **arguments: object) -> RunStatus:
        return RunStatus.model_validate_json(self._request(method, path, **arguments).content)

    def _request(self, method: str, path: str, **arguments: object) -> httpx.Response:
        try:
            response = self._http.request(method, path, **arguments)  # type: ignore[arg-type]
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if not response.is_success:
            raise error_of(response)
        return response

    def _unreachable(self, error: httpx.TransportError) -> ServiceUnavailable:
        return ServiceUnavailable(
            f"no gateway answers at {self._http.base_url}: {error}; start one with "
            "`unspoken up` or name another with --url"
        )


class _Event(NamedTuple):
    """One server-sent event."""

    name: str
    data: str
    id: str | None


def parse_events(pieces: Iterable[bytes]) -> Iterator[_Event]:
    """Server-sent events out of a body as it comes; comments are passed over.

    After the HTML standard, 9.2.6, without lone CRs, which no gateway of ours writes.
    """
    name, data = "message", list[str]()
    event_id: str | None = None
    for line in _lines(pieces):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield _Event(name, "\n".join(data), event_id)
            name, data = "message", []
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            event_id = value


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Not httpx's lines: those end at every character that Unicode calls a line's end."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode()
