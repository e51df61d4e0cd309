"""`python scripts/build_distributions.py OUT`: build both distributions, as a release has them.

It writes a source archive and a wheel each of `unspoken` and `unspoken-stack` into OUT. The wheels
are built from the source archives, which shows that these are complete. The build happens in a copy
of the tree without ignored files, so that leftovers of earlier builds get into no wheel. Nothing is
downloaded: the running Python needs setuptools and pip.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECTS = (".", "stack")
BUILD_SDIST = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"


def copy_tree(target: Path) -> None:
    """Copy all files that git does not ignore; links stay links."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, copy = ROOT / name, target / name
        if source.is_symlink() or source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)


def build(out: Path) -> None:
    """Build the source archives, then a wheel from each of them."""
    with tempfile.TemporaryDirectory(prefix="unspoken-build-") as folder:
        tree, archives = Path(folder, "tree"), Path(folder, "archives")
        copy_tree(tree)
        for project in PROJECTS:
            subprocess.run(
                [sys.executable, "-c", BUILD_SDIST, str(archives)],
                cwd=tree / project,
                stdout=subprocess.DEVNULL,
                check=True,
            )
        made = sorted(archives.glob("*.tar.gz"))
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
                *("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(out)),
                *map(str, made),
            ],
            check=True,
        )
        for archive in made:
            shutil.copy2(archive, out)


def main() -> None:
    """Build into the folder of the only argument, which is emptied first."""
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/build_distributions.py OUT")
    out = Path(sys.argv[1]).resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    build(out)
    print("\n".join(f"{path.stat().st_size:>12,} {path.name}" for path in sorted(out.iterdir())))  # noqa: T201


if __name__ == "__main__":
    main()
