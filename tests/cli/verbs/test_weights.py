"""`unspoken weights` lists models, checks existing files and reports errors in one line."""

from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.verbs.setup import FileStages
from unspoken.config.weights import FetchProgress
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


def test_the_list_names_models_yaml_and_the_folder_of_each_model_or_how_to_fetch_it(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("UNSPOKEN_CACHE_DIR", str(tmp_path))
    result = CliRunner().invoke(app, ["weights", "list"])
    assert result.exit_code == 0, result.output
    models_file, *models = result.output.splitlines()
    assert Path(models_file).name == "models.yaml" and Path(models_file).is_file()
    folders = [line.split()[-1] for line in models if line.startswith("small ")]
    assert len(folders) == 4 and all(Path(folder).is_dir() for folder in folders)
    base = [line for line in models if line.startswith("base ")]
    assert len(base) == 4 and all("unspoken weights fetch base" in line for line in base)


def test_a_download_is_one_stage_per_file_that_counts_its_bytes():
    shown = []

    class Recorded:
        @contextmanager
        def stage(self, what, *, total=None, unit="pictures", done=0):
            shown.append(["begin", what, total, unit, done])
            yield self
            shown.append(["end", what])

        def advance(self, count=1, *, note=None):
            shown.append(count)

    with FileStages(Recorded()) as stages:
        for file, received in (("a", 0), ("a", 60), ("a", 20), ("a", 100), ("b", 5)):
            stages.show(FetchProgress(file=file, received_bytes=received, num_bytes=100))
    assert shown == [
        ["begin", "fetching a", 100, "bytes", 0],
        *(0, 60, -40, 80),
        ["end", "fetching a"],
        ["begin", "fetching b", 100, "bytes", 5],
        0,
        ["end", "fetching b"],
    ]
