"""`python -m tests.worker.dispatch.crashing_dispatcher FOLDER`: a dispatcher that one source kills.

Planning the run `bad` kills the process, like running out of memory.
"""

import os
import signal
import sys
from pathlib import Path

import worker.dispatch.planning
from tests.worker.stage import Stage


def main() -> None:
    plan_run = worker.dispatch.planning.plan_run

    def plan_or_die(run, *arguments, **options):
        if run.run_id == "bad":
            os.kill(os.getpid(), signal.SIGKILL)
        plan_run(run, *arguments, **options)

    worker.dispatch.planning.plan_run = plan_or_die
    stage = Stage(Path(sys.argv[1]))
    stage.dispatcher = stage.new_dispatcher(patience_s=0.05)
    for _ in range(30):
        stage.tick(run_id="bad")


if __name__ == "__main__":
    main()
