"""`make security-test`: the long form of the security tests; `make test` runs the short form.

    python -m tests.security [--cases 100] [--seed 7]

Prints one JSON line per part; exits with 1 if there are problems. `--cases`: number of valid and of
invalid cases for each operation.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import event_loop
from tests.security.attacks import (
    archives,
    browsers,
    cut_bodies,
    forgery,
    fuzzing,
    pickles,
    proxied_paths,
    ssrf,
)

MIN_CASES = 2000
MAX_BLOCK_MS = 50.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    parts = {
        "ssrf": lambda: asyncio.run(ssrf.judge()),
        "bombs": judge_bombs,
        "event_loop": judge_event_loop,
        "cut_bodies": cut_bodies.judge,
        "archives": archives.judge,
        "pickles": judge_pickles,
        "browsers": browsers.judge,
        "proxied_paths": proxied_paths.judge,
        "forgery": forgery.judge,
        "fuzzing": lambda: judge_fuzzing(asked.cases, asked.seed),
    }
    failed = False
    for name, judge in parts.items():
        report = judge()
        failed = failed or bool(report["problems"])
        sys.stdout.write(json.dumps({"part": name, **report}) + "\n")
        sys.stdout.flush()
    return int(failed)


def judge_bombs() -> dict[str, Any]:
    """Run the bombs in a separate process, so that its memory is that of the services."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.attacks.bombs"], capture_output=True, text=True
    )
    if done.returncode:
        return {"problems": [done.stderr[-2000:]]}
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def judge_event_loop() -> dict[str, Any]:
    """Compare every hostile body of the benchmark with the benchmark's bar."""
    figures = event_loop.measure(list(event_loop.BODIES))
    over = {
        name: block_ms for name, block_ms in figures["blocks_ms"].items() if block_ms > MAX_BLOCK_MS
    }
    problems = [f"{name} held an event loop for {block_ms} ms" for name, block_ms in over.items()]
    return {**figures, "problems": problems}


def judge_pickles() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        ran = pickles.is_executed(Path(folder))
    return {"problems": ["a checkpoint was executed"] if ran else []}


def judge_fuzzing(cases_each: int, number: int) -> dict[str, Any]:
    report = fuzzing.fuzz(cases_each=cases_each, number=number)
    if report["cases"] < MIN_CASES:
        report["problems"].append(f"only {report['cases']} cases, {MIN_CASES} are wanted")
    return report


if __name__ == "__main__":
    sys.exit(main())
