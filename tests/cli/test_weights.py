"""`unspoken weights fetch` checks existing files and reports errors in one line."""

import pytest
from typer.testing import CliRunner

from cli.main import app
from unspoken.errors import InvalidConfig, ServiceUnavailable


def test_fetching_the_small_profile_checks_files_and_downloads_nothing(monkeypatch, tmp_path):
    models = tmp_path / "models.yaml"
    (tmp_path / "weights.bin").write_bytes(b"x")
    entry = f"{{name: t, source: 'file:{tmp_path}', revision: r1, files: {{weights.bin: null}}}}"
    models.write_text(
        f"profiles: {{own: {{llm: {entry}, detector: {entry}, text_encoder: {entry}}}}}"
    )
    monkeypatch.setenv("UNSPOKEN_MODELS_FILE", str(models))
    monkeypatch.setenv("UNSPOKEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UNSPOKEN_HUB_URL", "http://127.0.0.1:9")
    result = CliRunner().invoke(app, ["weights", "fetch", "own"])
    assert result.exit_code == 0, result.output
    assert "0 files fetched" in result.output


@pytest.mark.parametrize(
    ("profile", "error"), [("huge", InvalidConfig), ("base", ServiceUnavailable)]
)
def test_a_fetch_that_cannot_be_done_raises_what_the_command_line_prints(
    monkeypatch, tmp_path, profile, error
):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("UNSPOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("UNSPOKEN_HUB_URL", "http://127.0.0.1:9")
    result = CliRunner().invoke(app, ["weights", "fetch", profile])
    assert isinstance(result.exception, error)
