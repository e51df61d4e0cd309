"""`python -m tests.chaos.worker FOLDER`: the real worker with fake classifiers.

A caption that contains `poison` kills the process that reads it, as a fault in a native library
would. FOLDER/executions.jsonl records each such event.
"""

import os
import signal
import sys
from pathlib import Path

import worker.__main__
import worker.process.tasks
from tests.chaos.service import note_execution
from worker.label.classifiers import Classifiers

POISON = "poison"


def main() -> None:
    folder = Path(sys.argv[1])

    def detect_language(text: str) -> dict[str, float]:
        if POISON in text:
            note_execution(folder, POISON, text)
            os.kill(os.getpid(), signal.SIGKILL)
        return {"en": 0.9}

    worker.process.tasks.build_classifiers = lambda: Classifiers(
        detect_language, lambda pixels: 0.01
    )
    worker.__main__.main()


if __name__ == "__main__":
    main()
