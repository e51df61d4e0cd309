"""`unspoken settings`: readable text, and a filter."""

from typer.testing import CliRunner

from cli.main import app
from unspoken.errors import InvalidInput


def settings(*words):
    return CliRunner().invoke(app, ["settings", *words])


def test_settings_are_printed_as_text_with_defaults_and_meanings():
    shown = settings().output
    assert "|" not in shown.splitlines()[1]
    assert "  UNSPOKEN_PROFILE = small\n      Profile of models.yaml" in shown


def test_a_name_selects_the_settings_of_a_process_or_of_matching_variables():
    worker = settings("worker").output
    assert "WORKER_BROKER_URL" in worker and "LLM_MAX_BATCH" not in worker
    timeouts = settings("timeout").output
    assert "LLM_REQUEST_TIMEOUT_S" in timeouts and "LLM_MAX_BATCH" not in timeouts


def test_a_name_that_nothing_has_is_refused():
    result = settings("nonsense")
    assert isinstance(result.exception, InvalidInput) and "nonsense" in result.exception.message
