"""`python -m tests.unspoken.http.warming_process`: a service whose warm-up with torch never ends.

Prints its port once the warm-up is running.
"""

import socket
import sys
from typing import Any

import torch

from services.llm.app import create_app
from services.llm.settings import LlmSettings
from tests.fakes import FakePrompter
from unspoken.http.serve import serve


class _Warming(FakePrompter):
    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    def propose(self, *_: Any, **__: Any) -> Any:
        sys.stdout.write(f"{self._port}\n")
        sys.stdout.flush()
        matrix = torch.ones(200, 200)
        while True:
            torch.mm(matrix, matrix)


def main() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve(create_app(_Warming(port)), LlmSettings(port=port, log_level="WARNING"))


if __name__ == "__main__":
    main()
