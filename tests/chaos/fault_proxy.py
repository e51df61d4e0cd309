"""A TCP proxy that injects faults: it delays, cuts, resets or refuses connections.

It runs in its own thread and listens on a loopback port, which stays the same when the server
behind it dies and is restarted. Upstream is (host, port), or the path of a unix socket.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from pathlib import Path

Upstream = tuple[str, int] | Path

_NO_LINGER = struct.pack("ii", 1, 0)  # closing then sends RST and discards unsent data
_CHUNK = 65536


class FaultProxy:
    """A context manager; the proxy listens on `port`."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.num_connections = 0
        self._delay_s = 0.0
        self._bytes_left: int | None = None
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def delay(self, seconds: float) -> None:
        """Delay all data in both directions from now on."""
        self._delay_s = seconds

    def cut(self, *, after_bytes: int) -> None:
        """Close every link, open or new, after `after_bytes` more bytes from upstream."""
        self._bytes_left = after_bytes
        self._loop.call_soon_threadsafe(lambda: [link.allow(after_bytes) for link in self._links])

    def reset(self) -> None:
        """Break every open link with RST; new ones are accepted."""
        self._loop.call_soon_threadsafe(lambda: [link.reset() for link in list(self._links)])

    def heal(self) -> None:
        """Stop injecting faults."""
        self._delay_s, self._bytes_left = 0.0, None
        self._loop.call_soon_threadsafe(lambda: [link.allow(None) for link in self._links])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            if isinstance(self.upstream, Path):
                behind = await asyncio.open_unix_connection(str(self.upstream))
            else:
                behind = await asyncio.open_connection(*self.upstream)
        except OSError:
            _reset(writer)  # no server: behave like a closed port
            return
        link = _Link(writer, behind[1], self._bytes_left)
        self._links.add(link)
        pumps = [
            asyncio.create_task(self._pump(reader, behind[1], link, back=False)),
            asyncio.create_task(self._pump(behind[0], writer, link, back=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._links.discard(link)
            for pump in pumps:
                pump.cancel()
            link.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        link: "_Link",
        *,
        back: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_CHUNK):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                if back and link.bytes_left is not None:
                    piece = piece[: link.bytes_left]
                    link.bytes_left -= len(piece)
                writer.write(piece)
                await writer.drain()
                if link.bytes_left == 0:
                    return

    async def _close(self) -> None:
        self._server.close()
        for link in list(self._links):
            link.reset()
        # Pumps end by themselves when there is no more data.
        await asyncio.gather(
            *(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True
        )

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=10)


class _Link:
    """One client's connection and its upstream connection."""

    def __init__(
        self, front: asyncio.StreamWriter, behind: asyncio.StreamWriter, bytes_left: int | None
    ) -> None:
        self._front, self._behind = front, behind
        self.bytes_left = bytes_left

    def allow(self, bytes_left: int | None) -> None:
        self.bytes_left = bytes_left

    def reset(self) -> None:
        _reset(self._front)
        _reset(self._behind)

    def close(self) -> None:
        self._front.close()
        self._behind.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    plug = writer.get_extra_info("socket")
    if plug is not None and plug.family == socket.AF_INET:
        with contextlib.suppress(OSError):
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()
