"""The first commands of README and tutorials run as they are written, with the small models."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.docs.command_lines import command_lines
from tests.docs.pages import blocks_of
from tests.test_tree import ROOT

PROGRAM = (sys.executable, "-c", "from cli.main import main; main()")
TIMEOUT_S = 280


def block_with(page: str, command: str) -> str:
    """Return the shell block of a page that has a command."""
    (text,) = [each.text for each in blocks_of("sh") if each.page == page and command in each.text]
    return text


def run(text: str, folder) -> str:
    """Run the `unspoken` commands of a block in a folder with the examples; return stdout."""
    shutil.copytree(ROOT / "examples", folder / "examples")
    said = []
    for line in command_lines(text):
        assert line.words[0] == "unspoken"
        done = subprocess.run(
            (*PROGRAM, *line.words[1:]),
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    return "\n".join(said)


def test_the_commands_for_own_pictures_label_report_and_export_the_examples(tmp_path):
    run(block_with("README.md", "unspoken label examples"), tmp_path)
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert len(coco["images"]) == len(list((ROOT / "examples").glob("*.jpg")))
    assert {"house", "car"} <= {each["name"] for each in coco["categories"]}
    assert (tmp_path / "unspoken-work/runs/labels/report/index.html").is_file()


@pytest.mark.parametrize("page", ["docs/tutorials/first-query.md"])
def test_the_first_query_finds_the_house_on_the_street(page, tmp_path):
    said = run(block_with(page, "--threshold"), tmp_path)
    assert "house: 1 found" in said
    assert (tmp_path / "street-masks.png").is_file()
