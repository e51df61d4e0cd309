"""Every Python example of docs/client.md runs unchanged, except for the gateway's address."""

import pytest
from PIL import Image

from tests.docs.pages import blocks
from tests.served_stack import served_stack, worked_off

ADDRESS = "http://127.0.0.1:8000"
EXAMPLES = [
    pytest.param(block.text, id=f"line-{block.line}")
    for block in blocks("client.md")
    if block.language == "python"
]


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_runs(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").resize((96, 64)).save("street.jpg")
    (tmp_path / "data/shards").mkdir(parents=True)
    assert text.count(ADDRESS) == 1
    with served_stack(tmp_path) as stack, worked_off(stack.runs_dir):
        exec(compile(text.replace(ADDRESS, stack.url), "docs/client.md", "exec"), {})
    assert capsys.readouterr().out
