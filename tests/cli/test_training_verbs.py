"""`unspoken train` and `evaluate` call the command lines of `training`."""

import pytest
from typer.testing import CliRunner

from cli.main import app
from unspoken.errors import InvalidInput, MissingWeights


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--help"], "Recipe of training/sam/recipe.py"),
        (["train", "detector", "--help"], "Time limit of both phases"),
        (["evaluate", "--help"], "Number of scenes of the small world"),
    ],
)
def test_help_is_that_of_the_command_behind_the_verb(words, expected, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert expected in result.output


def test_errors_come_out_as_the_command_line_prints_them(tmp_path):
    result = CliRunner().invoke(app, ["train", "huge", "--out", str(tmp_path)])
    assert isinstance(result.exception, InvalidInput)
    weights = str(tmp_path / "none.safetensors")
    result = CliRunner().invoke(app, ["evaluate", weights, "--world", "1"])
    assert isinstance(result.exception, MissingWeights)
    assert "none.safetensors" in str(result.exception)
