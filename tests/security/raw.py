"""Requests as raw bytes: no client library resolves a path or refuses a header first."""

import socket
from collections.abc import Mapping
from contextlib import suppress

TIMEOUT_S = 20


def ask(
    port: int, target: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and whole reply of one request without a body; 0 where the server just closes."""
    sent = {"Host": f"127.0.0.1:{port}", "Connection": "close", **(headers or {})}
    if method != "GET":
        sent.setdefault("Content-Length", "0")
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
    reply = b""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        with suppress(ConnectionError):
            connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        with suppress(ConnectionError):
            while part := connection.recv(65536):
                reply += part
    return int(reply[9:12]) if reply.startswith(b"HTTP/1.1 ") else 0, reply
