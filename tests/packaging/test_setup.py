"""`make setup`: which kind of PyTorch it installs, with stub wheels of the locked version."""

import shutil
import subprocess
from importlib import metadata

import pytest

from tests.packaging.environments import Environment, write_wheel
from tests.test_tree import ROOT
from unspoken.config.settings import child_environment

LOCKED = dict(
    line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if line
)
VERSION = LOCKED["torch"]


class Checkout:
    """An environment with pip, an index of stub wheels, and setup's step for PyTorch."""

    def __init__(self, environment, folder):
        self.environment, self.index, self.stubs = environment, folder / "index", folder / "stubs"
        self.stubs.mkdir()
        self.has_gpu(False)

    def has_gpu(self, found):
        stub = self.stubs / "nvidia-smi"
        stub.write_text(f"#!/bin/sh\n{'echo GPU 0: a stub' if found else 'exit 9'}\n")
        stub.chmod(0o755)

    def index_has(self, *kinds):
        shutil.rmtree(self.index, ignore_errors=True)
        for name in ("torch", "torchvision"):
            for kind in kinds:
                suffix = "+cpu" if kind == "cpu" else ""
                write_wheel(self.index, name, LOCKED[name] + suffix, {f"{name}/__init__.py": ""})

    def install_torch(self, torch=""):
        """Run the step with TORCH=... and return its status and its output."""
        script = "source scripts/setup; venv=$1; install_torch"
        path = child_environment()["PATH"]
        done = subprocess.run(
            ["bash", "-c", script, "bash", str(self.environment.bin.parent)],
            cwd=ROOT,
            env=child_environment(
                TORCH=torch,
                PATH=f"{self.stubs}:{path}",
                PIP_CONFIG_FILE="/dev/null",
                PIP_NO_INDEX="1",
                PIP_FIND_LINKS=str(self.index),
            ),
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    def installed(self):
        (found,) = self.environment.packages.glob("torch-*.dist-info")
        return found.name.removeprefix("torch-").removesuffix(".dist-info")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    made = Environment(tmp_path_factory.mktemp("setup"))
    made.link([metadata.distribution("pip")])
    return made


@pytest.fixture
def checkout(environment, tmp_path):
    yield Checkout(environment, tmp_path)
    for folder in environment.packages.glob("torch*"):
        shutil.rmtree(folder)


def test_a_machine_without_a_gpu_gets_cpu_wheels(checkout):
    checkout.index_has("cpu", "cuda")
    status, output = checkout.install_torch()
    assert status == 0, output
    assert checkout.installed() == f"{VERSION}+cpu"
    assert "TORCH=cuda" in output


def test_a_machine_with_a_gpu_gets_cuda_wheels(checkout):
    checkout.has_gpu(True)
    checkout.index_has("cuda")
    assert checkout.install_torch()[0] == 0
    assert checkout.installed() == VERSION


def test_an_index_with_one_kind_only_gives_that_kind_and_setup_says_so(checkout):
    checkout.index_has("cuda")
    status, output = checkout.install_torch()
    assert status == 0
    assert checkout.installed() == VERSION
    assert "no CPU wheels" in output


def test_an_environment_keeps_its_kind_until_another_is_asked_for(checkout):
    checkout.index_has("cpu", "cuda")
    checkout.install_torch("cuda")
    assert "already installed" in checkout.install_torch()[1]
    assert checkout.installed() == VERSION
    checkout.install_torch("cpu")
    assert checkout.installed() == f"{VERSION}+cpu"


@pytest.mark.parametrize(
    ("torch", "kinds", "message"),
    [("rocm", ("cpu",), "TORCH must be cpu or cuda"), ("cpu", (), "Run the same command again")],
)
def test_a_setup_that_cannot_go_on_says_why_and_what_to_do(checkout, torch, kinds, message):
    checkout.index.mkdir()
    checkout.index_has(*kinds)
    status, output = checkout.install_torch(torch)
    assert status == 1
    assert message in output
