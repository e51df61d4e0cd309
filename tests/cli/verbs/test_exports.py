"""The commands that export a run for other tools and for people."""

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.unspoken.runs.pictured import write_run


@pytest.mark.parametrize(
    ("verb", "written"),
    [
        (["export", "coco"], "6 images"),
        (["export", "webdataset"], "6 samples"),
        (["export", "hugging-face"], "6 images"),
        (["export", "label-studio"], "6 tasks"),
        (["report"], "6 pictures"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_verb_says_where_it_wrote_how_much(verb, written, tmp_path):
    write_run(tmp_path, chunks=2)
    result = CliRunner().invoke(
        app, [*verb, "run", "--workspace", str(tmp_path), "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert written in result.output and "out" in result.output
    assert (tmp_path / "out").exists()


def test_one_thing_is_counted_in_the_singular(tmp_path):
    write_run(tmp_path)
    where = ["--workspace", str(tmp_path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["export", "webdataset", "run", *where])
    assert "1 shard," in result.output and "3 samples" in result.output
