"""Checks a running stack of containers from outside, with the standard library alone.

    python3 tests/compose/check.py API_KEY COMPOSE COMMAND WORDS...

1. Waits until all containers are healthy.
2. Checks that containers have no more rights than needed, and that the API key is required.
3. Labels the scenes of scenes.tar (composed by smallworld) over HTTP. Meanwhile it kills one of two
   working workers and then, one after another, the other services that the run needs.
4. Checks the dataset with the chaos suite's reader: each item once, each shard as in its record.
5. Trains the smoke recipe on that dataset in the training container, serves the weights by a
   segmenter, and sends it text queries.
"""

import base64
import json
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

READY_S = 1200.0
RUN_S = 1800.0
PORT_BY_SERVICE = {"gateway": 8000, "llm": 8001, "detector": 8002, "segmenter": 8003}
SERVICES = (*PORT_BY_SERVICE, "dispatcher", "worker", "redis")
WITHOUT_TORCH = ("gateway", "worker")
ASKED = {"gateway": "/runs", "llm": "/propose", "detector": "/detect", "segmenter": "/segment"}
JSON = {"Content-Type": "application/json"}
RUN_ID = "compose-test"
# Services that are killed with -9 and restarted, each when one more chunk is done.
KILLED = ("redis", "dispatcher", "llm", "detector")
AWAY_S = 3.0
RUNS_DIR = "/srv/unspoken/runs"
TRAINED = f"{RUNS_DIR}/trained"
BOX = {"x0": 10, "y0": 10, "x1": 90, "y1": 90}

# Program for a container: prints its uid, if it has torch, and if its root is writable.
LOOK_INSIDE = """
import importlib.util, json, os
try:
    open('/app/probe', 'w').close()
    writable = True
except OSError:
    writable = False
torch = importlib.util.find_spec('torch') is not None
print(json.dumps({'uid': os.getuid(), 'torch': torch, 'writable': writable}))
"""
# Programs for a container: a reader that shares no code with the writer, and the project's own.
INDEPENDENT_READER = Path(__file__).parents[1] / "chaos" / "reader.py"
READ_DATASET = """
import json, pathlib, sys
from unspoken.runs.dataset.shards import iter_rows
folder = pathlib.Path(sys.argv[1])
rows = [[row.key, row.status, row.reason, len(row.kept)] for row in iter_rows(folder)]
print(json.dumps({'rows': rows, 'files': [p.name for p in folder.iterdir()]}))
"""


class Stack:
    """The compose project: its containers and commands."""

    def __init__(self, compose: list[str]) -> None:
        self._compose = compose

    def containers(self, service: str) -> list[str]:
        """Return the ids of the service's containers."""
        return run([*self._compose, "ps", "-q", service]).split()

    def url(self, service: str) -> str:
        """Return the service's URL on this host."""
        address = run([*self._compose, "port", service, str(PORT_BY_SERVICE[service])]).strip()
        check(address.startswith("127.0.0.1:"), f"{service} is published on {address}")
        return f"http://{address}"

    def compose(self, *words: str, **environment: str) -> str:
        """Run a compose command and return its output."""
        settings = [f"{name}={value}" for name, value in environment.items()]
        return run(["env", *settings, *self._compose, *words])

    def wait_healthy(self, services: Sequence[str] = SERVICES) -> None:
        """Wait until all containers of the services are healthy."""

        def unhealthy() -> list[str]:
            return [
                service
                for service in services
                for state in map(state_of, self.containers(service) or [""])
                if state.get("Health", {}).get("Status") != "healthy"
            ]

        wait_until(lambda: not unhealthy(), timeout_s=READY_S, what=lambda: f"wait: {unhealthy()}")


def main() -> None:
    stack = Stack(sys.argv[2:])
    stack.wait_healthy()
    say("all containers are healthy")
    check_locks(stack)
    for service in PORT_BY_SERVICE:
        check(request(stack.url(service) + "/readyz")["status"] == "ready", f"{service} is ready")
    say("locked up: uid, read-only root, capabilities, addresses, no torch in gateway and worker")
    check_door(stack)
    items = read_scenes(Path(__file__).with_name("scenes.tar"))
    status = label(stack, items)
    check_dataset(stack, status, {item["key"] for item in items})
    train_and_serve(stack)
    check_segment(stack, items[0])


def check_locks(stack: Stack) -> None:
    """Check that no container has more rights or packages than it needs."""
    for service in SERVICES:
        for container in stack.containers(service):
            inspected = json.loads(run(["docker", "inspect", container]))[0]
            host = inspected["HostConfig"]
            check(host["ReadonlyRootfs"], f"{service} has a writable root")
            check("ALL" in (host["CapDrop"] or []), f"{service} keeps capabilities")
            check(
                any(option.startswith("no-new-privileges") for option in host["SecurityOpt"]),
                f"{service} may gain privileges",
            )
            bound = [at for all_at in (host["PortBindings"] or {}).values() for at in all_at or []]
            check(all(at["HostIp"] == "127.0.0.1" for at in bound), f"{service} is open: {bound}")
            check(bool(bound) == (service in PORT_BY_SERVICE), f"{service} publishes {bound}")
            if service == "redis":
                uid = run(["docker", "exec", container, "id", "-u"]).strip()
                check(uid != "0", "redis runs as root")
                continue
            inside = json.loads(run(["docker", "exec", container, "python", "-c", LOOK_INSIDE]))
            check(inside["uid"] != 0, f"{service} runs as root")
            check(not inside["writable"], f"{service} can write into its image")
            if service in WITHOUT_TORCH:
                check(not inside["torch"], f"{service} carries torch")


def check_door(stack: Stack) -> None:
    """Check that requests without key, with a foreign Host or from other sites are refused."""
    refused = (
        (401, {}),
        (403, {"Host": "evil.example"}),
        (403, {"Origin": "https://evil.example"}),
    )
    for service, path in ASKED.items():
        for expected, headers in refused:
            asked = urllib.request.Request(stack.url(service) + path, b"{}", {**JSON, **headers})
            try:
                urllib.request.urlopen(asked, timeout=60)
            except urllib.error.HTTPError as error:
                check(error.code == expected, f"{service} answers {error.code} to {headers}")
            else:
                check(False, f"{service} answers {headers} without a key")
    say("nobody is answered without a key, by a foreign name, or from a page of another site")


def read_scenes(path: Path) -> list[dict[str, Any]]:
    """Return KEY.jpg and KEY.txt of the tar as inline items."""
    with tarfile.open(path) as tar:
        content = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    return [
        {
            "key": name.removesuffix(".txt"),
            "caption": content[name].decode(),
            "image": {
                "base64": base64.b64encode(content[name.removesuffix("txt") + "jpg"]).decode()
            },
        }
        for name in sorted(content)
        if name.endswith(".txt")
    ]


def label(stack: Stack, items: list[dict[str, Any]]) -> dict[str, Any]:
    """Queue the items, kill a worker and then other services; return the run's last status."""
    gateway = stack.url("gateway")
    workers = stack.containers("worker")
    check(len(workers) == 2, f"two workers are wanted, not {len(workers)}")
    request(f"{gateway}/runs", {"run_id": RUN_ID, "chunk_size": 1, "items": items})
    leases = f"{RUNS_DIR}/{RUN_ID}/leases"
    container = stack.containers("gateway")[0]

    def status() -> dict[str, Any]:
        return request(f"{gateway}/runs/{RUN_ID}")

    def both_work() -> bool:
        check(status()["state"] != "done", "the run ended before a worker could be killed")
        return len(run(["docker", "exec", container, "ls", leases]).split()) >= 2

    wait_until(lambda: status()["chunks_done"] >= 1, timeout_s=RUN_S, what=lambda: str(status()))
    wait_until(both_work, timeout_s=120, what=lambda: str(status()), pause_s=0.2)
    run(["docker", "kill", "--signal", "KILL", workers[0]])
    at_kill = status()
    say(f"killed a worker with {at_kill['chunks_done']} of {at_kill['chunks_total']} chunks done")
    check(at_kill["state"] == "running", f"the run was {at_kill['state']} at the kill")
    check(not state_of(workers[0])["Running"], "the killed worker still runs")
    for service in KILLED:
        kill_and_start(stack, service, lambda: status()["chunks_done"])
        check(status()["state"] == "running", f"the run was {status()['state']} after {service}")
    wait_until(
        lambda: status()["state"] in ("done", "failed", "cancelled"),
        timeout_s=RUN_S,
        what=lambda: str(status()),
    )
    last = status()
    check(last["state"] == "done", f"the run ended as {last}")
    return last


def kill_and_start(stack: Stack, service: str, chunks_done: Callable[[], int]) -> None:
    """Kill the service's process when one more chunk is done, and restart it shortly after."""
    before = chunks_done()
    moved_on = f"{service} is to be killed after more than {before} chunks"
    wait_until(lambda: chunks_done() > before, timeout_s=RUN_S, what=lambda: moved_on, pause_s=0.2)
    (container,) = stack.containers(service)
    run(["docker", "kill", "--signal", "KILL", container])
    time.sleep(AWAY_S)
    run(["docker", "start", container])
    say(f"killed {service} with {chunks_done()} chunks done, and started it again")


def check_dataset(stack: Stack, status: dict[str, Any], keys: set[str]) -> None:
    """Check that each item occurs once, no shard is torn, and all files of a dataset exist."""
    container = stack.containers("dispatcher")[0]
    folder = f"{RUNS_DIR}/{RUN_ID}/dataset"

    def read(program: str) -> Any:
        return json.loads(run(["docker", "exec", container, "python", "-c", program, folder]))

    end = read(INDEPENDENT_READER.read_text())
    check(end["rows"] == len(keys) and not end["twice"], f"the independent reader found {end}")
    check(not end["problems"], f"shards that are not what was committed: {end['problems']}")
    dataset = read(READ_DATASET)
    found = [key for key, *_ in dataset["rows"]]
    check(sorted(found) == sorted(keys), f"wanted {sorted(keys)} once each, found {sorted(found)}")
    for name in ("labels.safetensors", "manifest.json"):
        check(name in dataset["files"], f"{name} is not in {sorted(dataset['files'])}")
    labelled = sum(kind == "labelled" for _, kind, *_ in dataset["rows"])
    failed = [(key, reason) for key, kind, reason, _ in dataset["rows"] if kind == "failed"]
    check(not failed, f"items failed: {failed}")
    check(labelled == status["labelled"], f"{labelled} rows are labelled; status: {status}")
    check(labelled >= len(keys) / 2, f"only {labelled} of {len(keys)} items were labelled")
    boxes = sum(kept for *_, kept in dataset["rows"])
    check(boxes > 0, "no item has a box")
    check(status["attempts"] > status["chunks_total"], f"the kill interrupted nothing: {status}")
    say(
        f"every one of {len(keys)} items once: {labelled} labelled, {boxes} boxes, dropped "
        f"{status['dropped']}, {status['chunks_total']} chunks in {status['attempts']} attempts"
    )


def train_and_serve(stack: Stack) -> None:
    """Train the smoke recipe on the run's dataset and start a segmenter with its weights."""
    stack.compose(
        *("--profile", "training", "run", "--rm", "training", "smoke", "--mix", "0:1"),
        *("--workspace", str(Path(RUNS_DIR).parent), "--run", RUN_ID),
        *("--out", TRAINED),
    )
    say("trained the smoke recipe in its container")
    stack.compose("up", "--detach", "segmenter", SEGMENTER_WEIGHTS=f"{TRAINED}/weights.safetensors")
    stack.wait_healthy(["segmenter"])  # the killed worker stays away


def check_segment(stack: Stack, item: dict[str, Any]) -> None:
    """Query boxes and texts through the gateway, answered by the new weights."""
    asked = {
        "image": item["image"],
        "queries": [{"text": "car"}, {"text": "wheel", "boxes": [BOX]}],
        "output": {"mask": "rle"},
        "method": "bank",
    }
    reply = request(stack.url("gateway") + "/segment", asked)
    check(reply["method"] == "bank", f"the bank was asked for: {reply['method']}")
    check(len(reply["results"]) == 2, f"two queries, {len(reply['results'])} results")
    check(not reply["cache"]["hit"], "nobody asked for this picture before")
    again = request(
        stack.url("gateway") + "/segment", {**asked, "image": {"id": reply["image"]["id"]}}
    )
    check(again["cache"]["hit"], "the same picture is asked for by its id")
    check(again["results"] == reply["results"], "the same question has the same answer")
    say(f"asked for words over HTTP, answered by {reply['model']['name']}")


def state_of(container: str) -> dict[str, Any]:
    """Return the container engine's state of a container; empty if there is none."""
    if not container:
        return {}
    return json.loads(run(["docker", "inspect", "--format", "{{json .State}}", container]))


def request(url: str, body: dict[str, Any] | None = None) -> Any:
    """GET, or POST JSON; return JSON. Raises SystemExit with the server's message."""
    data = None if body is None else json.dumps(body).encode()
    key = {"Authorization": f"Bearer {sys.argv[1]}"}
    asked = urllib.request.Request(url, data, {**JSON, **key})
    try:
        with urllib.request.urlopen(asked, timeout=60) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"check: {url} answered {error.code}: {error.read().decode()}") from error


def run(command: list[str]) -> str:
    """Run a command and return its standard output. Raises SystemExit with its errors."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"check: {' '.join(command)[:200]} failed: {done.stderr or done.stdout}")
    return done.stdout


def wait_until(
    happened: Callable[[], bool],
    *,
    timeout_s: float,
    what: Callable[[], str],
    pause_s: float = 2.0,
) -> None:
    """Poll until the condition is true. Raises SystemExit after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > deadline:
            raise SystemExit(f"check: not after {timeout_s:.0f} s: {what()}")
        time.sleep(pause_s)


def check(holds: bool, message: str) -> None:
    """Raise SystemExit with the message if the condition is false."""
    if not holds:
        raise SystemExit(f"check: {message}")


def say(message: str) -> None:
    """Print a line of progress."""
    sys.stdout.write(f"check: {message}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
