"""Open connections of a process: limits on their number and on how long a caller may be slow.

Each open connection uses a file descriptor. A process without free descriptors can answer nobody,
not even a probe. Therefore the number of connections stays below the process's limit, a new
connection closes the one that has waited longest for its caller, and headers, bodies and unread
replies have deadlines.
"""

import asyncio
import resource
import time
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from unspoken.errors import DeadlineExceeded, NotReady, UnspokenError
from unspoken.http.error_replies import error_response

MAX_CONNECTIONS = 4096
_OTHER_FILES = 96
"""Files, pipes and outgoing connections of a process that runs every engine."""
_READ_BYTES = 8 * 1024
"""Maximum read of a header or of a chunked body, whose chunks may have one byte each."""
_READ_BODY_BYTES = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """Maximum number of open connections of a process, and timeouts for slow callers."""

    max_connections: int
    header_timeout_s: float = 10.0
    """Seconds from the connection or the last reply to the complete header of the next request."""
    body_timeout_s: float = 180.0
    """Seconds from the header to the complete body. A POST request also has a shorter deadline."""
    write_timeout_s: float = 60.0
    """Seconds that a caller may leave a reply unread."""


def default_limits(max_connections: int | None = None) -> ConnectionLimits:
    """Return the limits of this process; by default, derived from its limit on open files."""
    if max_connections is None:
        open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if open_files == resource.RLIM_INFINITY:
            open_files = 2 * MAX_CONNECTIONS + _OTHER_FILES
        # Half of the rest, because a proxied request uses two connections, and several connections
        # are accepted at a time.
        max_connections = min(MAX_CONNECTIONS, max(16, (open_files - _OTHER_FILES) // 2))
    return ConnectionLimits(max_connections=max_connections)


class Connections:
    """The open connections of a process, shared by all its servers. Not thread-safe.

    Use it on the event loop only.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open: set[BoundedProtocol] = set()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def backlog(self) -> int:
        """Connections accepted in one turn of the event loop; each uses a file descriptor."""
        return max(16, self.limits.max_connections // 4)

    def protocol(self) -> type["BoundedProtocol"]:
        """Return a protocol class for uvicorn whose connections are counted here."""
        return type("CountedProtocol", (BoundedProtocol,), {"all_connections": self})

    def add(self, protocol: "BoundedProtocol") -> bool:
        """Add a connection; return False if the limit is reached and none can be closed for it."""
        if len(self._open) >= self.limits.max_connections:
            waiting = [each for each in self._open if each.phase is not None]
            if not waiting:
                return False
            # Prefer to close connections that have not sent a complete header.
            eldest = min(waiting, key=lambda each: (each.phase is h11.SEND_BODY, each.since_s))
            eldest.evict()
        self._open.add(protocol)
        return True

    def discard(self, protocol: "BoundedProtocol") -> None:
        """Remove a closed connection."""
        self._open.discard(protocol)


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with deadlines for the caller."""

    all_connections: Connections

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.phase: Any = None
        """IDLE: waits for a header. SEND_BODY: waits for a body. None: the caller waits for us."""
        self.since_s = time.monotonic()
        self._limits = self.all_connections.limits
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        if not self.all_connections.add(self):
            self._refuse(NotReady("too many open connections: retry later", retry_after_s=1.0))
            return
        self._enter_phase()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.all_connections.discard(self)
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        super().data_received(data)
        self._enter_phase()

    def on_response_complete(self) -> None:
        """See H11Protocol: the next request may have been read already."""
        super().on_response_complete()
        self._enter_phase()

    def pause_writing(self) -> None:
        """See asyncio.Protocol: called when the caller does not read."""
        super().pause_writing()
        self._writing = self.loop.call_later(self._limits.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()

    def evict(self) -> None:
        """Close this connection at once, to make room for another one."""
        self.all_connections.discard(self)
        self._cancel_timers()
        self.transport.abort()

    def _enter_phase(self) -> None:
        """Start the deadline of the phase that has begun."""
        state = self.conn.their_state
        phase: Any = state if state in (h11.IDLE, h11.SEND_BODY) else None
        if phase is h11.SEND_BODY and self.cycle is not None and self.cycle.response_complete:
            phase = h11.IDLE  # already answered: the header timeout is enough for the rest
        if phase is self.phase or self.transport.is_closing():
            return
        self.phase, self.since_s = phase, time.monotonic()
        self._bound_reads()
        if self._reading is not None:
            self._reading.cancel()
        if phase is h11.IDLE:
            self._reading = self.loop.call_later(self._limits.header_timeout_s, self._no_header)
        elif phase is h11.SEND_BODY:
            self._reading = self.loop.call_later(self._limits.body_timeout_s, self.transport.abort)

    def _bound_reads(self) -> None:
        """Allow large reads for a body of known length, and small reads otherwise."""
        is_plain = self.phase is h11.SEND_BODY and not any(
            name == b"transfer-encoding" for name, _ in self.headers
        )
        # Only asyncio's own transports have `max_size`.
        if hasattr(self.transport, "max_size"):
            self.transport.max_size = _READ_BODY_BYTES if is_plain else _READ_BYTES

    def _no_header(self) -> None:
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:  # a partial header
            self._refuse(DeadlineExceeded("the request was not complete in time"), status=408)
        else:
            self.transport.abort()

    def _refuse(self, error: UnspokenError, *, status: int | None = None) -> None:
        """Send an error reply without having read a request, and close the connection."""
        reply = error_response(error, status=status)
        head = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        start = f"HTTP/1.1 {reply.status_code} \r\n{head}connection: close\r\n\r\n"
        self.transport.write(start.encode() + bytes(reply.body))
        self.transport.close()

    def _cancel_timers(self) -> None:
        for timer in (self._reading, self._writing):
            if timer is not None:
                timer.cancel()
