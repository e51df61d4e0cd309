"""`unspoken reproduce proposals` describes its inputs and refuses unusable ones early."""

import pytest
from typer.testing import CliRunner

from cli.main import app
from unspoken.errors import InvalidInput


def test_help_tells_the_sizes_and_where_it_writes(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, ["reproduce", "proposals", "--help"])
    assert result.exit_code == 0, result.output
    for option in ("--quick", "--out", "--scenes", "--seed", "--data", "--write-page"):
        assert option in result.output


@pytest.mark.parametrize(
    ("option", "name", "content", "message"),
    [
        pytest.param("--vocabulary", "none.txt", None, "does not exist", id="absent-vocabulary"),
        pytest.param(
            "--vocabulary", "empty.txt", " \n", "contains no labels", id="empty-vocabulary"
        ),
        pytest.param("--write-page", "page.md", "no marks", "each once", id="page-without-marks"),
        pytest.param("--data", "none", None, "does not exist", id="no-data"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_model_is_loaded(
    tmp_path, option, name, content, message
):
    if content is not None:
        (tmp_path / name).write_text(content)
    arguments = [
        "reproduce",
        "proposals",
        option,
        str(tmp_path / name),
        "--out",
        str(tmp_path / "o"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, InvalidInput)
    assert message in str(result.exception)
