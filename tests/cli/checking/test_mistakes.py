"""Mistakes of users: each is one line that names the thing and what to do, before models load."""

import errno
import http.server
import json
import shlex
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from PIL import Image

from cli.main import main
from services.gateway.__main__ import main as gateway
from services.llm.settings import LlmSettings
from tests.worker.stage import Stage
from unspoken.config.settings import child_environment, run_main
from unspoken.error_lines import error_line
from unspoken.http.serve import run_service
from unspoken.runs.store import create_run
from unspoken.wire.runs import RunRequest
from worker.__main__ import main as worker

MODEL_PACKAGES = ("torch", "transformers", "timm", "open_clip")


class Mistake(NamedTuple):
    """A command with a mistake, parts of its line, and its exit code.

    `{port}` is a port in use, `{url}` a server that is not Unspoken, `{locked}` a gateway that
    refuses the key. Variables are written before the command, as in a shell.
    """

    command: str
    says: list[str]
    code: int = 2


MISTAKES = {
    name: Mistake(**written)
    for name, written in yaml.safe_load(
        Path(__file__).with_name("mistakes.yaml").read_text()
    ).items()
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Provide a folder with usable and unusable inputs, and a workspace with a finished run."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("pictures", "uncaptioned", "empty"):
        (folder / name).mkdir()
    for path in ("pictures/a.jpg", "uncaptioned/b.jpg"):
        Image.new("RGB", (64, 64), (9, 200, 30)).save(folder / path)
    (folder / "pictures/a.txt").write_text("a cup on a table")
    (folder / "cut.jpg").write_bytes((folder / "pictures/a.jpg").read_bytes()[:300])
    for name, content in {
        "notes.md": "notes",
        "columns.csv": "foo,bar\n1,2\n",
        "empty.csv": "",
        "bad.json": "{",
        "other.json": "{}",
        "bad.parquet": "none",
        "w.safetensors": "none",
    }.items():
        (folder / name).write_text(content)
    (folder / "latin.txt").write_bytes("café\n".encode("latin-1"))
    stage = Stage(folder / "unspoken-work")
    create_run(stage.data_dir, stage.runs_dir, RunRequest(source="in", run_id="labels"))
    assert stage.tick(3, run_id="labels").state == "done"
    (stage.runs_dir / "broken").mkdir()
    (stage.runs_dir / "broken/run.json").write_text("{")
    return folder


class _Locked(http.server.BaseHTTPRequestHandler):
    """Answers as a gateway whose key is not the user's; below /other, as another program."""

    def do_GET(self):
        is_other = self.path.startswith("/other")
        refusal = {"error": "unauthorized", "message": "an API key is needed"}
        self.send_response(200 if is_other else 401)
        self.end_headers()
        self.wfile.write(b"<html>" if is_other else json.dumps(refusal).encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def places():
    """Provide the words that commands and lines contain in braces."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Locked) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        locked = f"http://127.0.0.1:{server.server_port}"
        yield {"port": taken.getsockname()[1], "locked": locked, "url": f"{locked}/other"}
        server.shutdown()


@pytest.fixture(autouse=True)
def no_models(monkeypatch):
    """Make the import of every package that runs models an error."""
    for name in MODEL_PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture(autouse=True)
def signals():
    """Restore the signal handlers that the command line sets."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def split(command):
    """Return a command's variables and its words."""
    words = shlex.split(command)
    count = next(n for n, word in enumerate(words) if "=" not in word)
    return dict(word.split("=", 1) for word in words[:count]), words[count:]


def the_line(shown):
    """Return the only line of an output; a progress bar may leave an empty one."""
    (line,) = [line for line in shown.splitlines() if line.strip()]
    assert "Traceback" not in line
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_that_says_what_to_do(mistake, folder, places, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    variables, words = split(mistake.command.format(**places))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["unspoken", *words])
    before = sorted(folder.iterdir())
    with pytest.raises(SystemExit) as ended:
        main()
    line = the_line(capsys.readouterr().err)
    for part in mistake.says:
        assert part.format(**places) in line
    assert "fault of Unspoken" not in line
    assert ended.value.code == mistake.code
    assert sorted(folder.iterdir()) == before, "nothing is written"


def _llm():
    def build(*_):
        raise AssertionError("the model is loaded before the mistake is found")

    run_service("llm", LlmSettings, build, set_num_threads=lambda _count: None)


PROCESSES = {
    "a port is a word": (gateway, "GATEWAY_PORT=web", ("GATEWAY_PORT must be a whole number",)),
    "a port of the gateway is taken": (gateway, "GATEWAY_PORT={port}", ("{port}", "GATEWAY_PORT")),
    "a port of a service is taken": (_llm, "LLM_PORT={port}", ("{port}", "LLM_PORT")),
    "keys are no keys": (gateway, "UNSPOKEN_API_KEYS=me", ("UNSPOKEN_API_KEYS", "unspoken key")),
    "the network is open": (gateway, "GATEWAY_HOST=0.0.0.0", ("0.0.0.0", "UNSPOKEN_API_KEYS")),
    "an endpoint is not named": (_llm, "LLM_BACKEND=openai", ("LLM_OPENAI_BASE_URL",)),
    "a broker is none": (worker, "WORKER_BROKER_URL=amqp://x", ("WORKER_BROKER_URL", "redis://")),
    "a pool does not exist": (worker, "WORKER_POOL=big", ("WORKER_POOL must be 'prefork'",)),
    "a worker has no slot": (worker, "WORKER_CONCURRENCY=0", ("WORKER_CONCURRENCY must be at",)),
}


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_a_process_with_a_mistake_ends_with_one_line(process, folder, places, monkeypatch, capsys):
    start, variable, says = process
    monkeypatch.chdir(folder)
    monkeypatch.setenv(*variable.format(**places).split("="))
    with pytest.raises(SystemExit) as ended:
        start() if start is _llm else run_main(start)
    line = the_line(capsys.readouterr().err)
    for part in says:
        assert part.format(**places) in line
    assert ended.value.code == 1


def test_a_mistake_in_any_command_imports_no_torch(folder, places):
    commands = [mistake.command.format(**places) for mistake in MISTAKES.values()]
    # One of each command, because each takes a new process a while.
    settled = {words[0]: words for variables, words in map(split, commands) if not variables}
    program = (
        "import json, sys\n"
        "from cli.main import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.argv[1:] = words\n"
        "    try:\n        main()\n"
        "    except SystemExit:\n        pass\n"
        "    loaded = {'torch', 'transformers'} & set(sys.modules)\n"
        "    assert not loaded, f'{words} imports {loaded}'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(list(settled.values()))],
        cwd=folder,
        env=child_environment(PYTHONPATH=str(Path(__file__).parents[3])),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EACCES, "Ask for permission"),
        (errno.EROFS, "a disk that can be written"),
        (errno.EIO, "Check the disk"),
    ],
)
def test_a_disk_that_fails_is_named_with_what_to_do(code, advice):
    line = error_line(OSError(code, "it failed", "/data/x"))
    assert line.startswith("/data/x: it failed. ") and advice in line


@pytest.mark.parametrize("debug", [False, True])
def test_an_unexpected_error_asks_for_a_report_and_shows_its_traceback_on_request(
    debug, monkeypatch, capsys
):
    def fail(_runs_dir):
        raise ZeroDivisionError("division by zero\nsecond line")

    monkeypatch.setattr("cli.status_view.list_runs", fail)
    monkeypatch.setattr(sys, "argv", ["unspoken", "status"])
    monkeypatch.setenv("UNSPOKEN_DEBUG", str(int(debug)))
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr().err
    assert ended.value.code == 1
    assert ("Traceback" in shown) == debug
    line = shown.splitlines()[-1]
    assert line.startswith("error: unexpected ZeroDivisionError: division by zero. ")
    assert "issue tracker" in line and "UNSPOKEN_DEBUG=1" in line


def test_ctrl_c_ends_a_command_with_one_word(monkeypatch, capsys):
    def interrupt(_runs_dir):
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.status_view.list_runs", interrupt)
    monkeypatch.setattr(sys, "argv", ["unspoken", "status"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130 and capsys.readouterr().err == "stopped\n"
