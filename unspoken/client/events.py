"""Parse server-sent events from a stream, and follow a run across broken connections."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import httpx
from pydantic import TypeAdapter, ValidationError

from unspoken.client.calls import CONNECT_S, checked_path
from unspoken.client.http_error import broken_off, error_of
from unspoken.errors import ServiceUnavailable, UnspokenError
from unspoken.logs import outgoing_headers
from unspoken.retries import Backoff, RetryPolicy, may_pass
from unspoken.safe_text import reason_of, redact
from unspoken.wire.runs import RunStatus

# Streams send something every 15 s. After four times that in silence, the connection is dead.
SILENCE_S = 60.0
_STATUS = TypeAdapter(RunStatus)
_LINE_END = re.compile(rb"\r\n|\r|\n")


class Event(NamedTuple):
    """One server-sent event."""

    name: str
    data: str
    id: str | None


class EventParser:
    """Parses events from pieces of a body by the HTML standard, 9.2.6.

    Comments, events without data, `retry` and a truncated last event are ignored. Why this is not
    httpx-sse: docs/decisions/0017.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._encoding = "utf-8-sig"  # the stream may begin with a byte order mark
        self._ended_by_cr = False
        self._id: str | None = None
        self._name, self._data = "", list[str]()

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Yield the events that end in this piece."""
        if self._ended_by_cr and piece.startswith(b"\n"):  # CRLF in two pieces
            piece = piece[1:]
        self._ended_by_cr = piece.endswith(b"\r")
        # Not httpx's iter_lines, which splits at every Unicode line break.
        *lines, self._rest = _LINE_END.split(self._rest + piece)
        for raw in lines:
            line = raw.decode(self._encoding, errors="replace")
            self._encoding = "utf-8"
            if line:
                self._take(line)
                continue
            if self._data:
                yield Event(self._name or "message", "\n".join(self._data), self._id)
            self._name, self._data = "", []

    def _take(self, line: str) -> None:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "event":
                self._name = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value


class Following:
    """Position in a run's event stream, kept across connections.

    The caller sends `request`, reports the outcome, and waits `pause_s` before the next request,
    until `is_over`. It fails after `patience_s` without an answering gateway.
    """

    def __init__(
        self, run_id: str, *, base_url: str, retries: RetryPolicy, patience_s: float
    ) -> None:
        self.is_over = False
        self.pause_s = 0.0
        self._path = checked_path("runs", run_id, "events")
        self._base_url = base_url
        self._retries = retries
        self._backoff = Backoff(replace(retries, attempts=None, total_s=patience_s))
        self._last_id: str | None = None
        self._parser = EventParser()
        self._listen()

    def request(self) -> Mapping[str, Any]:
        """Return the arguments for httpx's `stream`."""
        seen = {} if self._last_id is None else {"Last-Event-ID": self._last_id}
        return {
            "method": "GET",
            "url": self._path,
            "headers": {**outgoing_headers(), **seen},
            "timeout": httpx.Timeout(SILENCE_S, connect=CONNECT_S),
        }

    def accepts(self, response: httpx.Response) -> bool:
        """Return True if events follow; otherwise read the body and call `refused`.

        Raises ServiceUnavailable for a success that is not an event stream, because it would never
        end.
        """
        self._parser = EventParser()
        kind = response.headers.get("Content-Type", "")
        if response.status_code == 204:  # the gateway has sent all events
            self.is_over = True
        elif response.is_success and not kind.startswith("text/event-stream"):
            raise ServiceUnavailable(
                f"{self._path} did not answer with an event stream but with {kind!r}"
            )
        return response.is_success

    def refused(self, response: httpx.Response) -> None:
        """Raise the reply's error unless a retry may succeed."""
        self._failed(error_of(response))

    def broke(self, error: httpx.RequestError) -> None:
        """Raise an error if no gateway has answered for `patience_s`."""
        # A read timeout means a broken connection, because the stream lasts as long as the run.
        if isinstance(error, httpx.ReadTimeout):
            self._failed(
                ServiceUnavailable(f"{redact(self._base_url)} sent no data for {SILENCE_S:.0f} s")
            )
        else:
            self._failed(broken_off(error, url=self._base_url))

    def read(self, piece: bytes) -> Iterator[RunStatus]:
        """Yield the statuses in a piece of the stream."""
        self._listen()
        for event in self._parser.feed(piece):
            self._last_id = event.id or self._last_id
            if event.name == "status":
                yield self._status(event.data)
            elif event.name == "end":
                self.is_over = True

    def _listen(self) -> None:
        self._backoff.reset()
        self.pause_s = self._retries.first_pause_s

    def _failed(self, error: UnspokenError) -> None:
        pause_s = self._backoff.pause_s(error)
        if pause_s is None or not may_pass(error, is_repeatable=True):
            raise error
        self.pause_s = pause_s

    def _status(self, text: str) -> RunStatus:
        try:
            return _STATUS.validate_json(text)
        except ValidationError as error:
            raise ServiceUnavailable(
                f"{self._path} sent an event that is not a run's status: {reason_of(error)}"
            ) from error
