"""Check Host and Origin headers: protection against attacks through a user's browser.

Two attacks need no access of their own, only a user whose browser can reach the service:

- DNS rebinding. An attacker's domain name resolves to the service's address, so the attacker's page
  may read replies. Its requests still carry the attacker's domain name as Host.
- Cross-site requests. They change state although the page cannot read the reply. The browser marks
  them with Sec-Fetch-Site and Origin.

Programs other than browsers send neither mark.
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
    """The accepted host names and origins of one service.

    Attributes:
        is_loopback: True if the service is bound to a loopback address.
        hosts: Further accepted host names. ".example.org" matches all names below it, "*" every
            name.
        origins: Sites whose pages may send requests that change state, such as
            "https://example.org".
    """

    is_loopback: bool
    hosts: tuple[str, ...] = ()
    origins: frozenset[str] = frozenset()

    def check(
        self, *, method: str, host: str | None, origin: str | None, fetch_site: str | None
    ) -> None:
        """Raise Forbidden for an unknown Host, or for a cross-site request that changes state."""
        if host is not None and not self._is_own(_name_of(host)):
            raise Forbidden(
                f"the host name {_shown(host)} is not allowed; add your own names to "
                "UNSPOKEN_ALLOWED_HOSTS"
            )
        if method not in _SAFE_METHODS and self._is_cross_site(host, origin, fetch_site):
            raise Forbidden(
                f"a page of another site ({_shown(origin or 'unknown')}) must not send this "
                "request; add your own origins to UNSPOKEN_ALLOWED_ORIGINS"
            )

    def _is_own(self, name: str) -> bool:
        if ANY_HOST in self.hosts or is_loopback_name(name):
            return True
        if any(name.endswith(own) if own.startswith(".") else name == own for own in self.hosts):
            return True
        # Not bound to loopback: without configured names, any name may be valid. An IP address is
        # always valid, because DNS rebinding needs a domain name.
        return not self.is_loopback and (not self.hosts or _is_address(name))

    def _is_cross_site(self, host: str | None, origin: str | None, fetch_site: str | None) -> bool:
        if fetch_site in ("same-origin", "none"):
            return False
        if fetch_site is None and (origin is None or _authority(origin) == (host or "").lower()):
            return False
        return origin is None or origin.lower() not in self.origins


def parse_rules(*, is_loopback: bool, hosts: str, origins: str) -> BrowserRules:
    """Parse UNSPOKEN_ALLOWED_HOSTS and UNSPOKEN_ALLOWED_ORIGINS. Raises InvalidConfig."""
    names = tuple(hosts.lower().replace(",", " ").split())
    for name in names:
        if "/" in name or (":" in name and not _is_address(name.strip("[]"))):
            raise InvalidConfig(
                f"UNSPOKEN_ALLOWED_HOSTS must have host names without scheme and port, got {name!r}"
            )
    sites = origins.lower().replace(",", " ").split()
    for site in sites:
        parts = urlsplit(site)
        if parts.scheme not in ("http", "https") or site != f"{parts.scheme}://{parts.netloc}":
            raise InvalidConfig(
                "UNSPOKEN_ALLOWED_ORIGINS must have origins such as https://example.org, "
                f"got {site!r}"
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
    """Return the host of a Host header in lower case, without port, brackets and final dot.

    Return "" if the header has another form.
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
