"""HTTP requests as raw bytes, because client libraries normalise paths and refuse some headers."""

import socket
from collections.abc import Mapping
from contextlib import suppress

TIMEOUT_S = 20


def ask(
    port: int, target: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Send a request without a body; return status (0 if the server just closes) and reply."""
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
