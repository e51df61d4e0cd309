"""Callers who disconnect in the middle of a body: `python -m tests.security.attacks.cut_bodies`.

Sends every service bodies that end early, by close and by reset. None may count as a server error.
"""

import json
import re
import socket
import struct
import sys
import time
from typing import Any

from bench.event_loop import HOST, send, served

ROUTES = {
    "gateway": ("/runs", "/segment", "/images", "/runs/a/fork"),
    "segmenter": ("/segment", "/images", "/text-embeddings", "/rank-crops"),
    "detector": ("/detect",),
    "llm": ("/propose",),
}
JSON_HEAD = "Content-Type: application/json\r\nContent-Length: 90000\r\n"
HEADS = {
    "json": JSON_HEAD,
    "form": "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 90000\r\n",
    "chunks": "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n",
}
STARTS = {
    "json": (b"", b"{", b'{"image":{"base64":"' + b"A" * 70_000),
    "form": (b"", b"--b\r\n", b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx'),
    "chunks": (b"", b"5\r\n{", b'2\r\n{"\r\n'),
}
RESET = struct.pack("ii", 1, 0)
WAIT_S = 20.0


def judge() -> dict[str, Any]:
    problems = []
    num_cut = 0
    with served() as port_by_service:
        for service, paths in ROUTES.items():
            num_here = 0
            for path in paths:
                for kind, head in HEADS.items():
                    for start in STARTS[kind]:
                        for resets in (False, True):
                            cut(port_by_service[service], path, head, start, resets=resets)
                            num_here += 1
            problems += judge_metrics(service, port_by_service[service], num_here)
            num_cut += num_here
    return {"cut": num_cut, "problems": problems}


def cut(port: int, path: str, head: str, start: bytes, *, resets: bool) -> None:
    """Send the start of a request and disconnect."""
    with socket.create_connection((HOST, port), timeout=10) as connection:
        request = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\n{head}\r\n"
        connection.sendall(request.encode() + start)
        time.sleep(0.002)
        if resets:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def judge_metrics(service: str, port: int, num_cut: int) -> list[str]:
    """Wait until all requests are counted; report those that count as server errors."""
    deadline = time.monotonic() + WAIT_S
    while True:
        statuses = count_posts(port)
        if sum(statuses.values()) >= num_cut or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    problems = [
        f"{service}: {number} cut bodies were answered {status}"
        for status, number in statuses.items()
        if status >= "500"
    ]
    if not statuses.get("499"):
        problems.append(f"{service}: no caller was counted as gone: {statuses}")
    if not send(port, "GET", "/livez", b"", {}).startswith(b'{"status"'):
        problems.append(f"{service}: does not answer any more")
    return problems


def count_posts(port: int) -> dict[str, int]:
    """Return status -> number of requests, without probes."""
    text = send(port, "GET", "/metrics", b"", {}).decode()
    statuses: dict[str, int] = {}
    pattern = r'unspoken_requests_total\{route="([^"]*)".*status="(\d+)"\} (\S+)'
    for route, status, number in re.findall(pattern, text):
        if route not in ("/livez", "/readyz", "/metrics", "/longest-block"):
            statuses[status] = statuses.get(status, 0) + int(float(number))
    return statuses


def main() -> None:
    sys.stdout.write(json.dumps(judge()) + "\n")


if __name__ == "__main__":
    main()
