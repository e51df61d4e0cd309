"""Every Python example of README and docs runs unchanged, except for the gateway's address."""

import json
import shutil

import pytest

from tests.docs.pages import NOT_RUN, blocks_of
from tests.served_stack import served_stack, worked_off
from tests.test_tree import ROOT

ADDRESS = "http://127.0.0.1:8000"
EXAMPLES = [
    pytest.param(block, id=block.place)
    for block in blocks_of("python")
    if not block.text.startswith(NOT_RUN)
]
COCO = {
    "images": [{"id": 1, "file_name": "street.jpg"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
    "categories": [{"id": 1, "name": "car"}],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Enter a folder with what the tutorials have made by then."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", "examples")
    shutil.copy("examples/street.jpg", "street.jpg")
    (tmp_path / "data/shards").mkdir(parents=True)
    (tmp_path / "first.json").write_text(json.dumps(COCO))
    return tmp_path


@pytest.mark.parametrize("block", EXAMPLES)
def test_an_example_runs(block, folder):
    if ADDRESS not in block.text:
        exec(compile(block.text, block.place, "exec"), {})
        return
    assert block.text.count(ADDRESS) == 1
    with served_stack(folder) as stack, worked_off(stack.runs_dir):
        exec(compile(block.text.replace(ADDRESS, stack.url), block.place, "exec"), {})


@pytest.mark.parametrize("block", blocks_of("python"), ids=lambda block: block.place)
def test_an_example_compiles(block):
    compile(block.text, block.place, "exec")
