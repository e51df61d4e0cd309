"""Attempts at server-side request forgery, and an internal canary server that must not be reached.

The resolver is a fake and returns the vector's addresses. The network is real except for one public
address, which leads to a small server that answers with pictures and redirects.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import httpcore

from tests.security.attacks.pictures import GOOD_PNG
from unspoken.errors import InvalidInput
from unspoken.http.url_fetch import FetchConfig, Fetcher

PUBLIC = "93.184.216.34"
NAME = "pictures.example"


class Vector(NamedTuple):
    """A URL, with {port} for the canary's port, and the addresses that its name resolves to."""

    url: str
    addresses: Sequence[str] = (PUBLIC,)


def _by_address(*addresses: str) -> Iterable[Vector]:
    return (Vector(f"http://{NAME}:{{port}}/", (address,)) for address in addresses)


def _by_url(*urls: str) -> Iterable[Vector]:
    return (Vector(url, ("127.0.0.1",)) for url in urls)


def _by_redirect(*locations: str) -> Iterable[Vector]:
    return (Vector(f"http://{NAME}/redirect?{location}") for location in locations)


VECTORS: tuple[Vector, ...] = (
    # addresses in the notations of people, C and Windows
    *_by_url(
        *("http://127.0.0.1:{port}/", "http://127.1:{port}/", "http://127.0.1:{port}/"),
        *("http://2130706433:{port}/", "http://0x7f000001:{port}/", "http://0x7f.1:{port}/"),
        *("http://0177.0.0.1:{port}/", "http://017700000001:{port}/", "http://0:{port}/"),
        *("http://0.0.0.0:{port}/", "http://127.000.000.001:{port}/", "http://127.0.0.1.:{port}/"),
        *("http://0x7f.0x0.0x0.0x1:{port}/", "http://4294967296:{port}/", "http://00000177.1/"),
        *("http://localhost:{port}/", "http://LOCALHOST:{port}/", "http://localhost.:{port}/"),
        *("http://[::1]:{port}/", "http://[::]:{port}/", "http://[0:0:0:0:0:0:0:1]:{port}/"),
        *("http://[::ffff:127.0.0.1]:{port}/", "http://[::ffff:7f00:1]:{port}/"),
        *("http://[::127.0.0.1]:{port}/", "http://[64:ff9b::7f00:1]:{port}/"),
        *("http://[::1%25lo]:{port}/", "http://[::1%lo]:{port}/", "http://[v1.x]:{port}/"),
        *("http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/latest/"),
    ),
    # users, other schemes, other ports, and URLs that parsers interpret differently
    *_by_url(
        "http://pictures.example@127.0.0.1:{port}/",
        "http://user:password@pictures.example:{port}/",
        "http://pictures.example%40127.0.0.1:{port}/",
        "http://127.0.0.1:{port}\\@pictures.example/",
        "http://pictures.example:80@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}#@pictures.example/",
        "http:///127.0.0.1:{port}/",
        "http:127.0.0.1:{port}/",
        "//127.0.0.1:{port}/",
        "http://\t127.0.0.1:{port}/",
        "http://127.0.0.1:{port}/\r\nX-Header: 1",
        "http://pictures.example /",
        "http://127.0.0.1:{port}",
        "http://①②⑦.⓪.⓪.①:{port}/",
        "http://127。0。0。1:{port}/",
        "http://ⓛocalhost:{port}/",
        "http://xn--bcher-kva.example:{port}/",
        "http://pictures.example:22/",
        "http://pictures.example:6379/",
        "http://pictures.example:99999/",
        "http://pictures.example:-1/",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "/etc/passwd",
        "ftp://127.0.0.1:{port}/",
        "gopher://127.0.0.1:{port}/_PING",
        "dict://127.0.0.1:{port}/info",
        "data:image/png;base64,iVBORw0KGgo=",
        "jar:http://127.0.0.1:{port}/!/",
        "unix:///var/run/docker.sock",
        "",
    ),
    # a harmless name with an internal address
    *_by_address(
        *("127.0.0.1", "127.0.0.53", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1"),
        *("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
        *("192.0.0.8", "192.88.99.1", "198.18.0.1", "224.0.0.1", "239.255.255.250", "240.0.0.1"),
        *("255.255.255.255", "::1", "::", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "2002:7f00:1::"),
        *("2002:a9fe:a9fe::", "2001:0:7f00:1::", "fc00::1", "fd00:ec2::254", "fe80::1"),
        *("fe80::1%lo", "fec0::1", "ff02::1", "2001:db8::1", "3fff::1", "100::1"),
        *("2a00:1450::5efe:7f00:1", "2a00:1450::200:5efe:7f00:1", "not an address", ""),
    ),
    # one public address among internal ones, in any order
    Vector(f"http://{NAME}:{{port}}/", (PUBLIC, "127.0.0.1")),
    Vector(f"http://{NAME}:{{port}}/", ("127.0.0.1", PUBLIC)),
    Vector(f"http://{NAME}:{{port}}/", ("2606:2800:220:1::1", "::1")),
    Vector(f"http://{NAME}:{{port}}/", ()),
    # a public server that redirects to internal addresses
    *_by_redirect(
        "http://127.0.0.1:{port}/",
        "http://[::1]:{port}/",
        "//127.0.0.1:{port}/",
        "http://2130706433:{port}/",
        "http://localhost:{port}/",
        "http://user@127.0.0.1:{port}/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:{port}/",
        "http://pictures.example:22/",
        "http://inside.example:{port}/",
        "/redirect?/redirect?http://127.0.0.1:{port}/",
        "/for-ever",
    ),
)
"""URLs that must not be fetched and must not reach the canary."""

_INSIDE: Mapping[str, Sequence[str]] = {"inside.example": ("127.0.0.1",), "localhost": ("::1",)}


class Network(httpcore.AsyncNetworkBackend):
    """The real network, with the test server at the public address; records connections."""

    def __init__(self, outside_port: int) -> None:
        self._real = httpcore.AnyIOBackend()
        self._outside_port = outside_port
        self.connected: list[str] = []

    async def connect_tcp(self, host, port, *rest, **more):
        self.connected.append(host)
        if host == PUBLIC:
            return await self._real.connect_tcp("127.0.0.1", self._outside_port, *rest, **more)
        return await self._real.connect_tcp(host, port, *rest, **more)


class Range:
    """The canary and the public server; use as `async with Range() as range_`."""

    def __init__(self, replies: Mapping[str, bytes] | None = None) -> None:
        self.canary_hits = 0
        self.requests: list[bytes] = []
        self._replies = {"/picture": ok(GOOD_PNG), **(replies or {})}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Range":
        canary = await asyncio.start_server(self._be_canary, "127.0.0.1", 0)
        self.canary_port = canary.sockets[0].getsockname()[1]
        servers = [canary, await asyncio.start_server(self._answer, "127.0.0.1", 0)]
        with contextlib.suppress(OSError):  # a machine without IPv6
            servers.append(await asyncio.start_server(self._be_canary, "::1", self.canary_port))
        for server in servers:
            self._stack.push_async_callback(_close, server)
        self.network = Network(servers[1].sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def fetcher(self, resolve: Any, **config: Any) -> Fetcher:
        """Return a fetcher on the test network that may use port 80, 443 and the canary's."""
        settings = {
            "schemes": ("https", "http"),
            "port_numbers": (443, 80, self.canary_port),
            "timeout_s": 5.0,
            **config,
        }
        return Fetcher(FetchConfig(**settings), resolve=resolve, network=self.network)

    async def _be_canary(self, _reader: Any, writer: asyncio.StreamWriter) -> None:
        self.canary_hits += 1
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(request)
            target = request.split(b" ")[1].decode()
            if target.startswith("/redirect?"):
                writer.write(moved(target.removeprefix("/redirect?")))
            elif target == "/for-ever":
                writer.write(moved("/for-ever"))
            else:
                writer.write(self._replies.get(target, b"HTTP/1.1 404 No\r\n\r\n"))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _close(server: asyncio.Server) -> None:
    server.close()


def ok(content: bytes, *headers: str) -> bytes:
    told = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 200 OK\r\n{told}Connection: close\r\n\r\n".encode() + content


def moved(location: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


async def judge() -> dict[str, Any]:
    """Fetch every vector; report fetched URLs and connections to internal addresses."""
    problems: list[str] = []
    async with Range() as range_:
        for vector in VECTORS:

            async def resolve(host: str, port: int, vector=vector) -> Sequence[str]:
                return _INSIDE.get(host, vector.addresses)

            url = vector.url.replace("{port}", str(range_.canary_port))
            try:
                await range_.fetcher(resolve).fetch(url)
                problems.append(f"fetched {url} {vector.addresses}")
            except InvalidInput as error:
                told = error.message
                if any(text in told for text in ("127.0.0.1", "::1", "passwd", "169.254")):
                    problems.append(f"{url}: the error tells {told}")
            if range_.canary_hits:
                problems.append(f"{url} {vector.addresses} reached the canary")
                range_.canary_hits = 0
        strangers = sorted(set(range_.network.connected) - {PUBLIC})
        # Check that the canary works: a connection must be counted.
        _, writer = await asyncio.open_connection("127.0.0.1", range_.canary_port)
        writer.close()
        await asyncio.sleep(0.05)
        if range_.canary_hits != 1:
            problems.append("the canary is deaf")
    return {
        "vectors": len(VECTORS),
        "connections_inside": len(strangers),
        "strangers": strangers,
        "problems": problems,
    }
