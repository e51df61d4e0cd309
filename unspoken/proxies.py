"""The rule for proxies of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY).

Traffic among Unspoken's own parts never uses them: those clients set `trust_env=False`. Clients of
an address that a user chose (the hub of weights, an OpenAI-compatible endpoint) set
`trust_env=uses_proxies(url)`. A test holds every httpx client of the tree to this.
"""

import ipaddress

import httpx


def uses_proxies(url: str) -> bool:
    """Return True for a host outside of the local network.

    False for loopback and private addresses, `localhost` and names without a dot, which a container
    network gives its members: a proxy elsewhere reaches another machine by them, or none.
    """
    try:
        host = httpx.URL(url).host.rstrip(".")
    except httpx.InvalidURL:
        return False
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith((".localhost", ".local", ".internal"))
