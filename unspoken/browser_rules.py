"""Which Host and Origin headers a service accepts: its protection against pages in a browser.

Two attacks need no access of their own, only a visitor whose browser reaches the service. DNS
rebinding points the name of a page at the service's address, so that the page may read answers; its
requests still carry the foreign name as Host. Cross-site requests change state although the page
reads no answer; the browser marks them by Sec-Fetch-Site and Origin. Programs send neither mark.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from unspoken.errors import Forbidden, InvalidConfig
from unspoken.safe_text import escape_controls

ANY_HOST = "*"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_SHOWN = 100
_HOST = re.compile(r"(?:\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[^\s:@/\[\]]+))(?::[0-9]{1,5})?")


@dataclass(frozen=True, kw_only=True)
class BrowserRules:
    """The names and origins of one service.

    is_loopback: the service is bound to a loopback address. hosts: further names that it is
    reached by; ".example.org" stands for all names below it, "*" for every name. origins: sites
    whose pages may send requests that change state, as "https://example.org".
    """

    is_loopback: bool
    hosts: tuple[str, ...] = ()
    origins: frozenset[str] = frozenset()

    def check(
        self, *, method: str, host: str | None, origin: str | None, fetch_site: str | None
    ) -> None:
        """Raise Forbidden for a foreign Host, or a cross-site request that changes state."""
        if host is not None and not self._is_own(_name_of(host)):
            raise Forbidden(
                f"this service is not reached by the name {_shown(host)}; a name of yours goes "
                "into UNSPOKEN_ALLOWED_HOSTS"
            )
        if method not in _SAFE_METHODS and self._is_cross_site(host, origin, fetch_site):
            raise Forbidden(
                f"a page of another site ({_shown(origin or 'unknown')}) must not send this "
                "request; an origin of yours goes into UNSPOKEN_ALLOWED_ORIGINS"
            )

    def _is_own(self, name: str) -> bool:
        if ANY_HOST in self.hosts or is_loopback_name(name):
            return True
        if any(name.endswith(own) if own.startswith(".") else name == own for own in self.hosts):
            return True
        # Beyond the loopback nobody knows the names of a service that lists none. An address is
        # never the name of a page that was pointed elsewhere.
        return not self.is_loopback and (not self.hosts or _is_address(name))

    def _is_cross_site(self, host: str | None, origin: str | None, fetch_site: str | None) -> bool:
        if fetch_site in ("same-origin", "none"):
            return False
        if fetch_site is None and (origin is None or _authority(origin) == (host or "").lower()):
            return False
        return origin is None or origin.lower() not in self.origins


def parse_rules(*, is_loopback: bool, hosts: str, origins: str) -> BrowserRules:
    """Read UNSPOKEN_ALLOWED_HOSTS and UNSPOKEN_ALLOWED_ORIGINS. Raises InvalidConfig."""
    names = tuple(hosts.lower().replace(",", " ").split())
    for name in names:
        if "/" in name or (":" in name and not _is_address(name.strip("[]"))):
            raise InvalidConfig(
                f"UNSPOKEN_ALLOWED_HOSTS holds names without scheme and port, got {name!r}"
            )
    sites = origins.lower().replace(",", " ").split()
    for site in sites:
        parts = urlsplit(site)
        if parts.scheme not in ("http", "https") or site != f"{parts.scheme}://{parts.netloc}":
            raise InvalidConfig(
                f"UNSPOKEN_ALLOWED_ORIGINS holds origins such as https://example.org, got {site!r}"
            )
    own = tuple(name.strip("[]") for name in names)
    return BrowserRules(is_loopback=is_loopback, hosts=own, origins=frozenset(sites))


def is_loopback_name(host: str) -> bool:
    """Return True for localhost, names below it, and loopback addresses."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str:
    """The host of a Host header, without its port, brackets and final dot, in lower case.

    Empty for what has another form.
    """
    found = _HOST.fullmatch(host.strip().lower())
    return "" if found is None else found["address"] or found["name"].rstrip(".")


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _shown(text: str) -> str:
    return repr(escape_controls(text[:_MAX_SHOWN]))
