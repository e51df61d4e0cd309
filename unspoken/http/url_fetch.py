"""Fetch pictures from URLs, if the settings allow it, and only from public addresses.

- A host name is resolved once. If any of its addresses is not public, the fetch is refused. The
  connection uses one of the checked addresses, so that a second DNS lookup cannot replace it.
- Redirects are followed one by one, and each URL is checked like the first.
- Error messages reveal neither an address nor any content that was read.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin

import httpcore

from unspoken.config.settings import EngineSettings
from unspoken.errors import InvalidInput, NotFetchable, TooLarge
from unspoken.imaging.images import MAX_BYTES

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> addresses as text. Raises OSError."""

CONNECT_S = 5.0
MAX_ADDRESSES = 4
"""Maximum number of a host's addresses that are tried."""
FETCHES_AT_ONCE = 8
_REDIRECTS = (301, 302, 303, 307, 308)
_PORT_BY_SCHEME = {"https": 443, "http": 80}
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
# Stricter than RFC 3986: no user, only characters that a URL may have, no odd number as host.
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]{{2,45}}\]|{_LABEL}(?:\.{_LABEL})*)"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<target>[/?][!$-;=?-\[\]_a-z~]*)?(?:\#[!-~]*)?",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)

# Addresses that IANA's registry, or Python's copy of it, lists as global, but that reach internal
# services: Azure's wire server, IETF protocol assignments (Oracle's metadata), relays and tunnels
# of IPv6 over IPv4, documentation.
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            *("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "100.64.0.0/10"),
            *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
        ),
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Rules for URLs.

    `hosts`: names, or '.example.org' for all names below it; empty: any public host.
    """

    schemes: tuple[str, ...] = ("https",)
    hosts: tuple[str, ...] = ()
    port_numbers: tuple[int, ...] = (443, 80)
    max_bytes: int = MAX_BYTES
    max_redirects: int = 3
    timeout_s: float = 15.0
    """Timeout of a whole fetch, including redirects."""


@dataclass(frozen=True)
class _Target:
    scheme: str
    host: str
    port: int
    target: str

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.target}"


class Fetcher:
    """Fetches pictures for one service, at most FETCHES_AT_ONCE at a time.

    `resolve` and `network` replace the system's DNS and network, for example in tests.
    """

    def __init__(
        self,
        config: FetchConfig,
        *,
        resolve: Resolve | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._config = config
        self._resolve = resolve or _system_addresses
        self._network = network or httpcore.AnyIOBackend()
        self._places = asyncio.Semaphore(FETCHES_AT_ONCE)

    async def fetch(self, url: str) -> bytes:
        """Return the bytes at a URL. Raises NotFetchable, TooLarge."""
        try:
            async with asyncio.timeout(self._config.timeout_s), self._places:
                return await self._follow(url)
        except TimeoutError as error:
            raise NotFetchable(
                f"image.url was not read within {self._config.timeout_s:.0f} s"
            ) from error

    async def _follow(self, url: str) -> bytes:
        for _ in range(self._config.max_redirects + 1):
            target = self._checked(url)
            content, location = await self._get(target, await self._addresses(target))
            if location is None:
                return content
            url = urljoin(target.url, location)
        raise NotFetchable(f"image.url has more than {self._config.max_redirects} redirects")

    def _checked(self, url: str) -> _Target:
        """Parse a URL. Raises NotFetchable if the config does not allow it."""
        found = _URL.fullmatch(url)
        if found is None:
            raise NotFetchable("image.url must be an http(s) URL in ASCII, without a user name")
        scheme, host = found["scheme"].lower(), found["host"].lower().strip("[]")
        if scheme not in self._config.schemes:
            raise NotFetchable(f"image.url must be {' or '.join(self._config.schemes)}")
        port = int(found["port"] or _PORT_BY_SCHEME[scheme])
        if port not in self._config.port_numbers:
            raise NotFetchable("image.url must use the default port of its scheme")
        if not self._is_allowed(host):
            raise NotFetchable("the host of image.url is not allowed (UNSPOKEN_URL_HOSTS)")
        target = found["target"] or "/"
        return _Target(scheme, host, port, target if target.startswith("/") else f"/{target}")

    def _is_allowed(self, host: str) -> bool:
        if not self._config.hosts:
            return True
        return any(
            host.endswith(allowed) if allowed.startswith(".") else host == allowed
            for allowed in self._config.hosts
        )

    async def _addresses(self, target: _Target) -> Sequence[str]:
        """Return all addresses of a host. Raises NotFetchable unless all are public."""
        try:
            if ":" in target.host or _NUMBER.fullmatch(target.host.rpartition(".")[2]):
                addresses: Sequence[str] = [str(ipaddress.ip_address(target.host))]
            else:
                addresses = await self._resolve(target.host, target.port)
        except (OSError, ValueError):
            addresses = []
        # The same error for all cases, so that it does not reveal which internal names exist.
        if not addresses or not all(map(is_public, addresses)):
            raise NotFetchable("the host of image.url has no public address")
        return addresses

    async def _get(self, target: _Target, addresses: Iterable[str]) -> tuple[bytes, str | None]:
        """Return (content, None), or (empty, the redirect's location)."""
        for address in list(addresses)[:MAX_ADDRESSES]:
            pinned = _Pinned(self._network, address)
            async with httpcore.AsyncConnectionPool(network_backend=pinned) as pool:
                try:
                    return await self._read(pool, target)
                except (httpcore.ConnectError, httpcore.ConnectTimeout):
                    continue
                except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
                    raise NotFetchable("image.url: the connection was lost") from None
        raise NotFetchable("image.url could not be reached")

    async def _read(
        self, pool: httpcore.AsyncConnectionPool, target: _Target
    ) -> tuple[bytes, str | None]:
        limit = self._config.timeout_s
        timeouts = {"connect": CONNECT_S, "read": limit, "write": limit, "pool": limit}
        headers = (
            (b"Accept", b"image/*"),
            (b"Accept-Encoding", b"identity"),
            (b"User-Agent", b"unspoken"),
        )
        async with pool.stream(
            "GET", target.url, headers=headers, extensions={"timeout": timeouts}
        ) as reply:
            told = {name.lower(): value.decode("latin-1") for name, value in reply.headers}
            if reply.status in _REDIRECTS and b"location" in told:
                return b"", told[b"location"]
            if reply.status != 200:
                raise NotFetchable(f"image.url returned status {reply.status}")
            if told.get(b"content-encoding", "identity") != "identity":
                raise NotFetchable("image.url returned a compressed body, which is not accepted")
            return await self._body(reply, told.get(b"content-length", "")), None

    async def _body(self, reply: httpcore.Response, announced: str) -> bytes:
        most = self._config.max_bytes
        too_large = TooLarge(f"image.url has more than {most} bytes")
        if announced.isdecimal() and int(announced) > most:
            raise too_large
        content = bytearray()
        async for part in reply.aiter_stream():
            content += part
            if len(content) > most:
                raise too_large
        return bytes(content)


class _Pinned(httpcore.AsyncNetworkBackend):
    """A network backend that connects to one fixed address; TLS still checks the host's name."""

    def __init__(self, network: httpcore.AsyncNetworkBackend, address: str) -> None:
        self._network = network
        self._address = address

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore.AsyncNetworkBackend."""
        return await self._network.connect_tcp(
            self._address, port, timeout, local_address, socket_options
        )


def is_public(address: str) -> bool:
    """Return True for a public internet address, also for one that embeds an IPv4 address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv4Address):
        return _is_public_v4(found)
    if found.ipv4_mapped is not None:
        return _is_public_v4(found.ipv4_mapped)
    if found in _NAT64:
        return _is_public_v4(ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF))
    if found.scope_id or found not in _GLOBAL_UNICAST or (int(found) >> 32) % 2**32 in _ISATAP:
        return False
    return found.is_global and not any(found in network for network in _NOT_PUBLIC)


def _is_public_v4(address: ipaddress.IPv4Address) -> bool:
    is_open = address.is_global and not address.is_multicast and not address.is_reserved
    return is_open and not any(address in network for network in _NOT_PUBLIC)


async def _system_addresses(host: str, port: int) -> Sequence[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def build_fetcher(settings: EngineSettings) -> Fetcher | None:
    """Return a fetcher for the settings; None if URLs are disabled."""
    hosts = tuple(settings.url_hosts.lower().replace(",", " ").split())
    match settings.url_input:
        case "off":
            return None
        case "https":
            return Fetcher(FetchConfig(hosts=hosts))
        case "http":
            return Fetcher(FetchConfig(schemes=("https", "http"), hosts=hosts))


async def fetch_url(fetcher: Fetcher | None, url: str) -> bytes:
    """Return the bytes at a URL. Raises InvalidInput if URLs are disabled, NotFetchable."""
    if fetcher is None:
        raise InvalidInput(
            "image.url is not enabled on this service (UNSPOKEN_URL_INPUT): send the picture itself"
        )
    return await fetcher.fetch(url)
