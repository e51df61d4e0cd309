"""Server-sent events as they come in pieces, and a run followed over broken connections."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import httpx
from pydantic import TypeAdapter, ValidationError

from unspoken.clients.http_error import error_of
from unspoken.clients.retries import Retries, broken_off, may_pass
from unspoken.clients.steps import CONNECT_S, checked_path
from unspoken.errors import ServiceUnavailable, UnspokenError
from unspoken.logs import outgoing_headers
from unspoken.safe_text import reason_of, redact
from unspoken.schemas import RunStatus

# Streams say something every 15 s: four times that without a word, and the connection is dead.
SILENCE_S = 60.0
_STATUS = TypeAdapter(RunStatus)


class Event(NamedTuple):
    """One server-sent event."""

    name: str
    data: str
    id: str | None


class EventParser:
    """Events out of a body as it comes; comments are passed over, and so is an end torn off.

    After the HTML standard, 9.2.6, without lone CRs, which no gateway of ours writes.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._id: str | None = None
        self._name, self._data = "message", list[str]()

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that end in this piece."""
        # Not httpx's lines: those end at every character that Unicode calls a line's end.
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for raw in whole:
            line = raw.removesuffix(b"\r").decode()
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                if self._data:
                    yield Event(self._name, "\n".join(self._data), self._id)
                self._name, self._data = "message", []
            elif field == "event":
                self._name = value
            elif field == "data":
                self._data.append(value)
            elif field == "id":
                self._id = value


class Following:
    """Where one stands in a run's events, over all connections that it takes.

    Whoever holds it sends `request`, tells it what came of that, and waits `pause_s` before the
    next one, until `is_over`. patience_s: how long it may be without any gateway.
    """

    def __init__(self, run_id: str, *, base_url: str, retries: Retries, patience_s: float) -> None:
        self.is_over = False
        self.pause_s = 0.0
        self._path = checked_path("runs", run_id, "events")
        self._base_url = base_url
        self._retries = retries
        self._patience_s = patience_s
        self._last_id: str | None = None
        self._parser = EventParser()
        self._listen()

    def request(self) -> Mapping[str, Any]:
        """Arguments of httpx's `stream`."""
        seen = {} if self._last_id is None else {"Last-Event-ID": self._last_id}
        return {
            "method": "GET",
            "url": self._path,
            "headers": {**outgoing_headers(), **seen},
            "timeout": httpx.Timeout(SILENCE_S, connect=CONNECT_S),
        }

    def accepts(self, response: httpx.Response) -> bool:
        """Whether events follow; else its body is to be read and shown to `refused`.

        Raises ServiceUnavailable for a success that is no stream: it would never end.
        """
        self._parser = EventParser()
        kind = response.headers.get("Content-Type", "")
        if response.status_code == 204:  # the gateway has told everything that there is
            self.is_over = True
        elif response.is_success and not kind.startswith("text/event-stream"):
            raise ServiceUnavailable(f"{self._path} answered something else: {kind!r}")
        return response.is_success

    def refused(self, response: httpx.Response) -> None:
        """Raise, where asking again does not help."""
        self._failed(error_of(response))

    def broke(self, error: httpx.RequestError) -> None:
        """Raise, where no gateway has been there for too long."""
        # Silence is a connection that broke: the stream itself goes on for as long as the run does.
        if isinstance(error, httpx.ReadTimeout):
            self._failed(ServiceUnavailable(f"{redact(self._base_url)} fell silent"))
        else:
            self._failed(broken_off(error, url=self._base_url))

    def read(self, piece: bytes) -> Iterator[RunStatus]:
        """The statuses in a piece of the stream."""
        self._listen()
        for event in self._parser.feed(piece):
            self._last_id = event.id or self._last_id
            if event.name == "status":
                yield self._status(event.data)
            elif event.name == "end":
                self.is_over = True

    def _listen(self) -> None:
        self._num_failed, self._heard_s = 0, time.monotonic()
        self.pause_s = self._retries.first_pause_s

    def _failed(self, error: UnspokenError) -> None:
        if not may_pass(error, is_repeatable=True):
            raise error
        if time.monotonic() - self._heard_s > self._patience_s:
            raise error
        self._num_failed += 1
        self.pause_s = self._retries.pause_s(self._num_failed, error)

    def _status(self, text: str) -> RunStatus:
        try:
            return _STATUS.validate_json(text, extra="ignore")
        except ValidationError as error:
            raise ServiceUnavailable(
                f"{self._path} told something else: {reason_of(error)}"
            ) from error
