"""`python -m bench.startup`: CPU seconds and memory until the programs can be used.

* `help_cpu_s` (limit: .35): user and system time of `unspoken --help`. `status_cpu_s` (limit: .6):
  that of `unspoken status` in a workspace without runs. Each is the best of three.
* `laptop_ready_cpu_s` (limit: 12): user and system time of the laptop process (all services,
  `small` profile) and its children until every /readyz replies 200. It is started twice, because
  the first start fills caches on disk; the figures are those of the second. `laptop_rss_mib`: its
  resident memory then.
* `imports_cpu_s`: the part that imports take; a second process imports the same modules in the same
  order. `loading_cpu_s`: the part from there to loaded models. The remainder is the warm-up.
* `worker_ready_cpu_s`, `worker_rss_mib`: the same for a worker with its pool, until its first
  heartbeat. `dispatcher_ready_cpu_s`, `dispatcher_rss_mib`: until it serves /metrics.

`--modules` also prints which imported packages take most CPU seconds and memory. Run it on an idle
machine: threads that wait for a busy core use CPU time, too.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from unspoken.config.services import SERVICES, urls_in_environment
from unspoken.config.settings import child_environment
from unspoken.process import free_port
from worker.process.embedded_redis import EmbeddedRedis
from worker.process.heartbeat import count_workers

NUM_CALLS = 3
READY_S = 300.0
POLL_S = 0.1
"""Short, because an idle process uses CPU time while the bench waits for the next poll."""
LOADED_MODULES = """
import json, sys, time
from services.laptop import build_apps, read_settings
apps = build_apps(read_settings())
print(json.dumps([time.process_time(), list(sys.modules)]))
import os; os._exit(0)
"""
IMPORT_MODULES = """
import gc, importlib, json, sys, time, psutil
gc.disable()
process = psutil.Process()
rows = []
for name in json.load(sys.stdin):
    before_s, before = time.process_time(), process.memory_info().rss
    try:
        importlib.import_module(name)
    except Exception:
        continue
    rows.append([name, time.process_time() - before_s, process.memory_info().rss - before])
print(json.dumps([time.process_time(), rows]))
"""


def main() -> None:
    """Measure, and print one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--modules", action="store_true", help="also print what packages cost")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="unspoken-bench-") as folder:
        figures = {
            "help_cpu_s": best_cpu_s("--help"),
            "status_cpu_s": best_cpu_s("status", "--workspace", folder),
        }
        for _ in ("first, which fills the caches", "second"):
            figures |= laptop_figures(Path(folder))
        figures |= worker_figures(Path(folder))
    built_s, modules = json.loads(_python("-c", LOADED_MODULES))
    imports_s, rows = json.loads(_python("-c", IMPORT_MODULES, stdin=json.dumps(modules)))
    figures |= {
        "imports_cpu_s": round(imports_s, 2),
        "loading_cpu_s": round(built_s - imports_s, 2),
        "num_modules": len(modules),
    }
    if arguments.modules:
        print_packages(rows)
    print(json.dumps({"bench": "startup", "figures": figures}))


def laptop_figures(folder: Path) -> dict[str, float]:
    """Start the laptop process and return its figures when every service is ready."""
    ports = {service.name: free_port() for service in SERVICES}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    environment = {f"{name.upper()}_PORT": str(port) for name, port in ports.items()}
    environment |= {"GATEWAY_RUNS_DIR": str(folder), "GATEWAY_DATA_DIR": str(folder)}
    with started("services.laptop", environment | urls_in_environment(urls)) as process:
        wait_until(lambda: all(_answers(f"{url}/readyz") for url in urls.values()), process)
        return _figures("laptop", process)


def worker_figures(folder: Path) -> dict[str, float]:
    """Start a worker and a dispatcher, and return the figures of both."""
    port = free_port()
    with EmbeddedRedis(folder / "redis") as broker:
        environment = {
            "WORKER_BROKER_URL": broker.url,
            "WORKER_RUNS_DIR": str(folder),
            "WORKER_METRICS_PORT": str(port),
        }
        with started("worker", environment) as process:
            wait_until(lambda: count_workers(folder).alive > 0, process)
            figures = _figures("worker", process)
        with started("worker.dispatch.dispatcher", environment) as process:
            wait_until(lambda: _answers(f"http://127.0.0.1:{port}/metrics"), process)
            return figures | _figures("dispatcher", process)


@contextmanager
def started(module: str, environment: Mapping[str, str]) -> Iterator[psutil.Process]:
    """Run a module as the stack does, and end it with the block."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", module],
        env=child_environment(**environment),
        stdout=sys.stderr,
    ) as process:
        try:
            yield psutil.Process(process.pid)
        finally:
            process.terminate()


def wait_until(is_ready: Callable[[], bool], process: psutil.Process) -> None:
    """Return when `is_ready` does. Raises SystemExit if the process ends, or after READY_S."""
    deadline = time.monotonic() + READY_S
    while not is_ready():
        if process.status() == psutil.STATUS_ZOMBIE or time.monotonic() > deadline:
            raise SystemExit("the process did not become ready; its log is above")
        time.sleep(POLL_S)


def best_cpu_s(*arguments: str) -> float:
    """Return the CPU seconds of the command line, the best of `NUM_CALLS` calls."""
    return round(min(_cpu_s(*arguments) for _ in range(NUM_CALLS)), 3)


def _cpu_s(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _python("-m", "cli.main", *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def print_packages(rows: list[tuple[str, float, float]]) -> None:
    """Print CPU seconds and memory by package, in descending order, to standard error."""
    packages: dict[str, list[float]] = {}
    for name, cpu_s, grown_bytes in rows:
        total = packages.setdefault(name.partition(".")[0], [0.0, 0.0, 0.0])
        for place, value in enumerate((cpu_s, grown_bytes / 2**20, 1)):
            total[place] += value
    dearest = sorted(packages.items(), key=lambda each: -each[1][0])
    for name, (cpu_s, grown_mib, number) in dearest[:25]:
        print(f"{cpu_s:7.2f} s {grown_mib:7.1f} MiB {number:5.0f} {name}", file=sys.stderr)


def _figures(name: str, process: psutil.Process) -> dict[str, float]:
    tree = [process, *process.children(recursive=True)]
    times = [each.cpu_times() for each in tree]
    ended = process.cpu_times()
    cpu_s = sum(each.user + each.system for each in times)
    return {
        f"{name}_ready_cpu_s": round(cpu_s + ended.children_user + ended.children_system, 2),
        f"{name}_rss_mib": round(sum(each.memory_info().rss for each in tree) / 2**20),
    }


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _python(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-P", *arguments], input=stdin, capture_output=True, text=True, check=True
    )
    return done.stdout.strip().rpartition("\n")[2]


if __name__ == "__main__":
    main()
