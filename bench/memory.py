"""`python -m bench.memory`: does a long labelling run hold its memory flat?

Composes pictures, labels them with `unspoken label` as a user would, and reads every two seconds
how many are done and what the processes of the stack hold. `worker_growth` is the worker's mean
resident size (its pool included) while the last tenth of the pictures was done, over that of the
first tenth, less one (bar .10); `services_growth` the same of the process with all models.

The language model writes at most 12 tokens an answer here, a quarter of its default, and 32 answers
at a time, to end sooner; the worker's part is the same but for fewer phrases a picture.

With --out the pictures and the dataset stay: OUT/world/shards, OUT/labels/runs/labels/dataset.
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
from unspoken.errors import InvalidInput, NotFound
from unspoken.runs.store import read_status
from unspoken.settings import child_environment

NUM_IMAGES = 2_000
CHUNK_SIZE = 32
QUICK_MODEL = {"LLM_MAX_NEW_TOKENS": "12", "LLM_MAX_BATCH": "32"}
SAMPLE_S = 2.0
RUN = "labels"
# How a process of the stack is known by its command line.
MODULES = {"worker": "worker", "services.laptop": "services"}


class Sample(NamedTuple):
    """What a process tree held when so many pictures were done."""

    done: int
    resident_bytes: int


def main() -> None:
    """Label and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=NUM_IMAGES)
    parser.add_argument("--seed", type=int, default=55_000_000)
    parser.add_argument("--out", type=Path, help="kept where given")
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


def label_and_sample(shards: Path, workspace: Path) -> dict[str, list[Sample]]:
    """Run `unspoken label`; samples of the worker and of the services while it ran."""
    command = [sys.executable, "-m", "stack.cli", "label", str(shards), "--out", str(workspace)]
    command += ["--name", RUN, "--chunk-size", str(CHUNK_SIZE)]
    process = subprocess.Popen(command, stdout=sys.stderr, env=child_environment(**QUICK_MODEL))
    samples: dict[str, list[Sample]] = defaultdict(list)
    while process.poll() is None:
        try:
            done = read_status(workspace / "runs", RUN).done
            for name, resident in resident_sizes(process.pid).items():
                samples[name].append(Sample(done, resident))
        except (NotFound, psutil.NoSuchProcess):
            pass  # no plan yet, or a child ended between listing and reading
        time.sleep(SAMPLE_S)
    if process.returncode:
        raise SystemExit(f"unspoken label ended with {process.returncode}")
    return samples


def resident_sizes(pid: int) -> dict[str, int]:
    """Resident bytes of the stack's process trees below `pid`. Raises psutil.NoSuchProcess."""
    sizes = {}
    for child in psutil.Process(pid).children():
        name = MODULES.get(child.cmdline()[-1]) if child.cmdline() else None
        if name is not None:
            tree = [child, *child.children(recursive=True)]
            sizes[name] = sum(each.memory_info().rss for each in tree)
    return sizes


def tenth_means(samples: Sequence[Sample], *, total: int) -> tuple[float, float]:
    """Mean resident bytes while the first and while the last tenth of `total` was done.

    Raises InvalidInput where the run was too short for a sample of each.
    """
    first = [each.resident_bytes for each in samples if 0 < each.done <= total / 10]
    last = [each.resident_bytes for each in samples if total * 0.9 <= each.done]
    if not first or not last:
        raise InvalidInput(f"{total} pictures are too few for a sample of each tenth")
    return float(np.mean(first)), float(np.mean(last))


if __name__ == "__main__":
    main()
