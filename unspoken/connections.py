"""Open connections of a process: bounded in number, and in the time that a caller may take.

A connection that waits for its caller costs a file descriptor, and no descriptor left means that
nobody is answered, not even a probe. So their number stays below the limit of the process, a new
one closes the one that has waited longest, and headers, bodies and unread replies have deadlines.
"""

import asyncio
import json
import resource
import time
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 4096
_OTHER_FILES = 96
"""Files, pipes and outgoing connections of a process that serves every engine."""
_READ_BYTES = 8 * 1024
"""A read of a header or of a chunked body, which may consist of chunks of one byte."""
_READ_BODY_BYTES = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """How many connections a process has open, and how long one may wait for its caller."""

    max_connections: int
    header_timeout_s: float = 10.0
    """From the connection, or the last reply, to the whole header of the next request."""
    body_timeout_s: float = 180.0
    """From the header to the whole body. A POST request has a shorter deadline of its own."""
    write_timeout_s: float = 60.0
    """For a caller who does not read what he asked for."""


def default_limits(max_connections: int | None = None) -> ConnectionLimits:
    """Limits of this process: by its limit of open files where no number is given."""
    if max_connections is None:
        open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if open_files == resource.RLIM_INFINITY:
            open_files = 2 * MAX_CONNECTIONS + _OTHER_FILES
        # Half of what is left: a proxied request has two, and some are accepted at a time.
        max_connections = min(MAX_CONNECTIONS, max(16, (open_files - _OTHER_FILES) // 2))
    return ConnectionLimits(max_connections=max_connections)


class Connections:
    """The open connections of a process, shared by all its servers. Event loop only."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open: set[BoundedProtocol] = set()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def backlog(self) -> int:
        """Connections that are accepted in one turn of the event loop; each takes a descriptor."""
        return max(16, self.limits.max_connections // 4)

    def protocol(self) -> type["BoundedProtocol"]:
        """A protocol class for uvicorn whose connections are counted here."""
        return type("CountedProtocol", (BoundedProtocol,), {"all_connections": self})

    def add(self, protocol: "BoundedProtocol") -> bool:
        """Add a connection; False where there is no room and none can be closed for it."""
        if len(self._open) >= self.limits.max_connections:
            waiting = [each for each in self._open if each.phase is not None]
            if not waiting:
                return False
            # Who has sent a header has done more than who has sent none.
            eldest = min(waiting, key=lambda each: (each.phase is h11.SEND_BODY, each.since_s))
            eldest.evict()
        self._open.add(protocol)
        return True

    def discard(self, protocol: "BoundedProtocol") -> None:
        """Forget a connection that is closed."""
        self._open.discard(protocol)


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with deadlines for the caller."""

    all_connections: Connections

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.phase: Any = None
        """IDLE: waits for a header; SEND_BODY: for a body; None: waits for us."""
        self.since_s = time.monotonic()
        self._limits = self.all_connections.limits
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        if not self.all_connections.add(self):
            self._refuse(503, "not_ready", "too many open connections: come back later")
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
        """See asyncio.Protocol: the caller does not read."""
        super().pause_writing()
        self._writing = self.loop.call_later(self._limits.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()

    def evict(self) -> None:
        """Close at once, for another connection's sake."""
        self.all_connections.discard(self)
        self._cancel_timers()
        self.transport.abort()

    def _enter_phase(self) -> None:
        """Start the deadline of the phase that has begun."""
        state = self.conn.their_state
        phase: Any = state if state in (h11.IDLE, h11.SEND_BODY) else None
        if phase is h11.SEND_BODY and self.cycle is not None and self.cycle.response_complete:
            phase = h11.IDLE  # answered already: what still comes is not waited for much longer
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
        """Read a body of known length in large pieces, and nothing else."""
        is_plain = self.phase is h11.SEND_BODY and not any(
            name == b"transfer-encoding" for name, _ in self.headers
        )
        # Of asyncio's own transports; others choose for themselves.
        if hasattr(self.transport, "max_size"):
            self.transport.max_size = _READ_BODY_BYTES if is_plain else _READ_BYTES

    def _no_header(self) -> None:
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:  # a part of a header
            self._refuse(408, "deadline_exceeded", "no whole request within the time for it")
        else:
            self.transport.abort()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer without a request, and close."""
        body = json.dumps({"error": code, "message": message, "details": {}}).encode()
        head = (
            f"HTTP/1.1 {status} \r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _cancel_timers(self) -> None:
        for timer in (self._reading, self._writing):
            if timer is not None:
                timer.cancel()
