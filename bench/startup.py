"""`python -m bench.startup`: CPU seconds until the command line answers.

`help_cpu_s` (limit: .35) is the user and system time of `unspoken --help`. `status_cpu_s`
(limit: .6) is that of `unspoken status` in a workspace without runs. Each is the best of three.
"""

import json
import resource
import subprocess
import sys
import tempfile

NUM_CALLS = 3


def main() -> None:
    """Measure; print the figures as one JSON line."""
    with tempfile.TemporaryDirectory(prefix="unspoken-bench-") as folder:
        figures = {
            "help_cpu_s": best_cpu_s("--help"),
            "status_cpu_s": best_cpu_s("status", "--workspace", folder),
        }
    print(json.dumps({"bench": "startup", "figures": figures}))


def best_cpu_s(*arguments: str) -> float:
    """Return the CPU seconds of the command line, the best of `NUM_CALLS` calls."""
    return round(min(_cpu_s(*arguments) for _ in range(NUM_CALLS)), 3)


def _cpu_s(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments], check=True, stdout=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
