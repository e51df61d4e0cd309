"""Fresh environments that hold exactly what an installed distribution asks for.

Installing torch for a test takes minutes. So the dependencies are links into this environment, but
only those that the metadata names: an import of anything else fails, and pip refuses an
environment that lacks one.
"""

import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from unspoken.config.settings import child_environment


class Environment:
    """A virtual environment outside of the tree."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        (self.packages,) = folder.glob("lib/python*/site-packages")
        self.bin = folder / "bin"
        self._links = folder / "dependencies"
        self._links.mkdir()
        (self.packages / "dependencies.pth").write_text(str(self._links))

    def install(self, *wheels: Path) -> None:
        """Install wheels as a user does, with their dependencies, from these files alone."""
        self.link(requirements_of(wheels))
        pip = ("-m", "pip", "--python", self.bin / "python", "--disable-pip-version-check")
        options = ("--quiet", "--no-index", "--no-cache-dir")
        subprocess.run([sys.executable, *pip, "install", *options, *wheels], check=True)

    def link(self, distributions: Iterable[metadata.Distribution]) -> None:
        """Make installed distributions importable, without what they depend on."""
        for distribution in distributions:
            for name in {file.parts[0] for file in distribution.files or ()}:
                link = self._links / name
                if name not in ("..", "__pycache__") and not link.exists():
                    link.symlink_to(Path(str(distribution.locate_file(name))))

    def run(
        self, *command: str | Path, cwd: Path, timeout_s: float = 120, **changes: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in a folder, with this tree out of reach."""
        program, *arguments = map(str, command)
        return subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=cwd,
            env=child_environment(PYTHONPATH="", OMP_NUM_THREADS="1", **changes),
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )


def requirements_of(wheels: Iterable[Path]) -> list[metadata.Distribution]:
    """Return all distributions that wheels need directly or not, without the wheels themselves."""
    built = {canonicalize_name(each.name): each for each in map(_wheel_metadata, wheels)}
    open_ = [(name, "") for name in built]
    seen = set(open_)
    while open_:
        name, extra = open_.pop()
        for found in _needs(_distribution(name, built), extra):
            new = {(canonicalize_name(found.name), each) for each in ("", *found.extras)} - seen
            seen |= new
            open_ += new
    return [metadata.distribution(name) for name in {name for name, _ in seen} - built.keys()]


def write_wheel(
    index: Path, name: str, version: str, files: Mapping[str, str], needs: str = ""
) -> None:
    """Write a small wheel into a folder that pip can use as an index."""
    index.mkdir(exist_ok=True)
    package = name.replace("-", "_")
    about = f"{package}-{version}.dist-info"
    written = {
        **files,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    written[f"{about}/RECORD"] = "".join(f"{each},,\n" for each in (*written, f"{about}/RECORD"))
    with zipfile.ZipFile(index / f"{package}-{version}-py3-none-any.whl", "w") as wheel:
        for each, text in written.items():
            wheel.writestr(each, text)


def _distribution(name: str, built: Mapping[str, metadata.Distribution]) -> metadata.Distribution:
    return built.get(name) or metadata.distribution(name)


def _needs(distribution: metadata.Distribution, extra: str) -> Iterable[Requirement]:
    for line in distribution.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def _wheel_metadata(wheel: Path) -> metadata.Distribution:
    (folder,) = (
        path
        for path in zipfile.Path(zipfile.ZipFile(wheel)).iterdir()
        if path.name.endswith(".dist-info")
    )
    return metadata.PathDistribution(folder)
