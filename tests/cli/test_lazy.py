"""The list of commands: complete, in the order of the work, and fast."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cli.lazy import VERBS
from cli.main import app
from tests.docs.command_lines import problem_of

HEAVY = ("torch", "numpy", "pydantic_settings", "httpx", "fastapi", "transformers")


def modules_after(*arguments):
    """Run the command line in a new process; return the names of the imported modules."""
    program = (
        "import json, sys\n"
        "from cli.main import app\n"
        "try:\n    app(sys.argv[1:])\n"
        "finally:\n    print(json.dumps(list(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_help_imports_no_command_and_nothing_heavy():
    imported = modules_after("--help")
    assert not imported & {*HEAVY, "pydantic", "PIL"}
    assert not {module for module in imported if module.startswith("cli.verbs.")}


@pytest.mark.parametrize("verb", ["train", "evaluate", "label", "up", "segment"])
def test_the_help_of_a_command_loads_no_models(verb):
    assert not modules_after(verb, "--help") & {"torch", "transformers", "fastapi"}


def test_the_status_of_local_runs_needs_no_client_and_no_settings(tmp_path):
    imported = modules_after("status", "--workspace", str(tmp_path))
    assert not imported & ({*HEAVY} - {"numpy"})


def test_help_lists_the_commands_in_the_order_of_the_work():
    shown = CliRunner().invoke(app, ["--help"], terminal_width=120).output
    listed = re.findall(r"^│ ([a-z]+)  ", shown, flags=re.MULTILINE)
    assert listed == [name for modules in VERBS.values() for name in modules]


@pytest.mark.parametrize("verb", [name for modules in VERBS.values() for name in modules])
def test_every_command_has_examples_that_the_command_line_accepts(verb):
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, [verb, "--help"]).output
    _, _, examples = shown.partition("Examples:")
    lines = re.findall(r"^ +unspoken (.+?) *$", examples, re.M)
    assert any(line.split()[0] == verb for line in lines)
    assert not [problem for line in lines if (problem := problem_of(tuple(shlex.split(line))))]


@pytest.mark.parametrize("verb", [name for modules in VERBS.values() for name in modules])
def test_every_command_starts_its_help_with_the_line_of_the_list(verb):
    runner = CliRunner(env={"COLUMNS": "200"})
    (line,) = re.findall(rf"^│ {verb}  +(.+?) +│$", runner.invoke(app, ["--help"]).output, re.M)
    assert line in runner.invoke(app, [verb, "--help"]).output


def test_a_misspelt_command_gets_a_suggestion():
    result = CliRunner().invoke(app, ["lable"])
    assert result.exit_code == 2 and "label" in result.output
