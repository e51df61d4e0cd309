"""The rule for proxy variables (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY).

Clients of Unspoken's own services never use proxies: they set `trust_env=False`. Clients of an
address that a user chose (the hub of weights, an OpenAI-compatible endpoint) set
`trust_env=uses_proxies(url)`. A test checks every httpx client of the repository.

A module of its own because the download of weights and the llm service share the rule.
"""

import ipaddress

import httpx


def uses_proxies(url: str) -> bool:
    """Return True for a host outside of the local network.

    Return False for loopback and private addresses, for `localhost`, and for names without a dot,
    which container networks use. A proxy outside of the network would resolve these to another
    machine, or to none.
    """
    try:
        host = httpx.URL(url).host.rstrip(".")
    except httpx.InvalidURL:
        return False
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith((".localhost", ".local", ".internal"))
