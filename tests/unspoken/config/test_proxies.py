"""Proxy settings of the environment apply only to hosts outside of the local network."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from unspoken.config.proxies import uses_proxies

ROOT = Path(__file__).parents[3]
ROOMS = (
    *("unspoken", "services", "worker", "training", "smallworld"),
    *("cli", "experiments", "bench"),
)
CALLS = {"Client", "AsyncClient", "get", "post", "put", "delete", "head", "request", "stream"}


@pytest.mark.parametrize(
    ("url", "outside"),
    [
        ("http://127.0.0.1:8000/v1", False),
        ("http://[::1]:8000/v1", False),
        ("http://localhost:8000", False),
        ("http://LOCALHOST.:8000", False),
        ("http://vllm:8000/v1", False),
        ("http://10.1.2.3/v1", False),
        ("http://192.168.0.7/v1", False),
        ("http://llm.svc.local", False),
        ("http://host.docker.internal:11434", False),
        ("http://[broken", False),
        ("https://api.example.com/v1", True),
        ("https://8.8.8.8/v1", True),
    ],
)
def test_only_a_host_outside_of_the_local_network_is_reached_by_a_proxy(url, outside):
    assert uses_proxies(url) is outside


def httpx_calls() -> Iterator[tuple[str, ast.Call]]:
    """Yield every call in the source tree that creates an httpx client, with its place."""
    for path in (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = node.func.value
            if (
                isinstance(owner, ast.Name)
                and owner.id in ("httpx", "httpx2")
                and node.func.attr in CALLS
            ):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_every_httpx_client_of_the_tree_says_whether_it_uses_proxies():
    calls = dict(httpx_calls())
    said = {
        place: ast.unparse(keyword.value)
        for place, call in calls.items()
        for keyword in call.keywords
        if keyword.arg == "trust_env"
    }
    silent = [
        place
        for place in calls
        if said.get(place) != "False" and not said.get(place, "").startswith("uses_proxies(")
    ]
    assert len(calls) > 5 and not silent
