"""`python -m tests.unspoken.http.draining_process`: a process for tests of graceful shutdown.

Prints its port. A caption takes a tenth of a second; the caption 'die' kills the engine.
"""

import socket
import sys
import time
from collections.abc import Sequence

from services.llm.app import create_app
from services.llm.settings import LlmSettings
from tests.fakes import FakePrompter
from unspoken.http.serve import serve


def work(captions: Sequence[str]) -> None:
    if "die" in captions:
        raise SystemExit
    time.sleep(0.1)


def main() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    app = create_app(FakePrompter(before=work), max_batch=2)
    delay_s = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    serve(app, LlmSettings(port=port, drain_delay_s=delay_s, log_level="WARNING"))


if __name__ == "__main__":
    main()
