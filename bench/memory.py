"""`python -m bench.memory`: memory growth during a long labelling run.

Composes pictures and labels them with `unspoken label`. Every two seconds it reads the number of
labelled pictures and the memory of the stack's processes. `worker_growth` (at most .10 is allowed)
compares the worker's mean resident size, including its pool, in the last and the first tenth of the
pictures: last / first - 1. `services_growth` is the same for the process that runs all models.

To finish sooner, the language model writes at most 12 tokens per answer, a quarter of its default,
and 32 answers at a time. The worker does the same work, with fewer phrases per picture.

With --out the pictures and the dataset are kept: OUT/world/shards, OUT/labels/runs/labels/dataset.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from smallworld.shards import write_world
from unspoken.config.settings import child_environment
from unspoken.errors import InvalidInput, NotFound
from unspoken.runs.store import read_status

NUM_IMAGES = 2_000
CHUNK_SIZE = 32
QUICK_MODEL = {"LLM_MAX_NEW_TOKENS": "12", "LLM_MAX_BATCH": "32"}
SAMPLE_S = 2.0
RUN = "labels"
# Maps the last word of a process's command line to its name in the figures.
MODULES = {"worker": "worker", "services.laptop": "services"}


class MemoryReading(NamedTuple):
    """Memory of a process tree, and the number of pictures done at that time."""

    done: int
    resident_bytes: int


def main() -> None:
    """Label the pictures; print the figures as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=NUM_IMAGES)
    parser.add_argument("--seed", type=int, default=55_000_000)
    parser.add_argument("--out", type=Path, help="keep pictures and dataset in this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="unspoken-bench-") as folder:
        out = arguments.out or Path(folder)
        write_world(
            out / "world",
            num_scenes=arguments.images,
            seed=arguments.seed,
            num_sa1b=1,
            styles=("twemoji",),
        )
        started = time.monotonic()
        samples = label_and_sample(out / "world" / "shards", out / "labels")
        seconds = time.monotonic() - started
        total = read_status(out / "labels" / "runs", RUN).total or 0
    figures: dict[str, float] = {"pictures": total, "seconds": round(seconds)}
    for name, taken in samples.items():
        first, last = tenth_means(taken, total=total)
        figures[f"{name}_growth"] = round(last / first - 1, 3)
        figures[f"{name}_first_mib"] = round(first / 2**20, 1)
        figures[f"{name}_last_mib"] = round(last / 2**20, 1)
    print(json.dumps({"bench": "memory", "figures": figures}))


def label_and_sample(shards: Path, workspace: Path) -> dict[str, list[MemoryReading]]:
    """Run `unspoken label`; return memory samples of the worker and of the services."""
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "label",
        str(shards),
        "--workspace",
        str(workspace),
    ]
    command += ["--name", RUN, "--chunk-size", str(CHUNK_SIZE)]
    process = subprocess.Popen(command, stdout=sys.stderr, env=child_environment(**QUICK_MODEL))
    samples: dict[str, list[MemoryReading]] = defaultdict(list)
    while process.poll() is None:
        try:
            done = read_status(workspace / "runs", RUN).done
            for name, resident in resident_sizes(process.pid).items():
                samples[name].append(MemoryReading(done, resident))
        except (NotFound, psutil.NoSuchProcess):
            pass  # no plan yet, or a child ended between listing and reading
        time.sleep(SAMPLE_S)
    if process.returncode:
        raise SystemExit(f"unspoken label ended with {process.returncode}")
    return samples


def resident_sizes(pid: int) -> dict[str, int]:
    """Return resident bytes of the stack's process trees below `pid`.

    Raises psutil.NoSuchProcess.
    """
    sizes = {}
    for child in psutil.Process(pid).children():
        name = MODULES.get(child.cmdline()[-1]) if child.cmdline() else None
        if name is not None:
            tree = [child, *child.children(recursive=True)]
            sizes[name] = sum(each.memory_info().rss for each in tree)
    return sizes


def tenth_means(samples: Sequence[MemoryReading], *, total: int) -> tuple[float, float]:
    """Return mean resident bytes during the first and the last tenth of `total`.

    Raises InvalidInput if the run was too short for a sample of each.
    """
    first = [each.resident_bytes for each in samples if 0 < each.done <= total / 10]
    last = [each.resident_bytes for each in samples if total * 0.9 <= each.done]
    if not first or not last:
        raise InvalidInput(f"{total} pictures are too few for a sample of each tenth")
    return float(np.mean(first)), float(np.mean(last))


if __name__ == "__main__":
    main()
