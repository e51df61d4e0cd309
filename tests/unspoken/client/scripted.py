"""A server on a real port with scripted answers, one per request, then 200."""

import json
import socket
import struct
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

RESET = "reset"
SILENCE = "silence"


class Answer(NamedTuple):
    """An error answer: a status with an error's body, and Retry-After in seconds, if any."""

    status: int
    retry_after: str | None = None


class Asked(NamedTuple):
    method: str
    path: str
    at_s: float
    body: bytes


@contextmanager
def scripted(*answers, reply=(), port=0):
    """Yield (url, recorded requests) of a server that gives `answers` in turn, then `reply`."""
    left, asked = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            asked.append(Asked(self.command, self.path, time.monotonic(), body))
            answer = left.pop(0) if left else Answer(200)
            if answer == RESET:
                no_linger = struct.pack("ii", 1, 0)  # closing then sends RST
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
                self.close_connection = True
                return
            if answer == SILENCE:
                time.sleep(1)
                self.close_connection = True
                return
            error = {"error": "x", "message": f"told {answer.status}", "details": {}}
            content = json.dumps(reply if answer.status == 200 else error).encode()
            self.send_response(answer.status)
            if answer.retry_after is not None:
                self.send_header("Retry-After", answer.retry_after)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - http.server's own names

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
