"""Invalid settings give one line that names the variable, without a traceback."""

import subprocess
import sys

import pytest

from services.gateway.settings import GatewaySettings
from services.llm.settings import LlmSettings
from unspoken.config.settings import child_environment, misspelt_variables, start_logging
from unspoken.config.weights import WeightsSettings
from unspoken.errors import InvalidConfig
from worker.process.settings import WorkerSettings

SECRET = "hunter2-of-the-tests"


def test_every_wrong_setting_is_named_by_its_variable(monkeypatch):
    monkeypatch.setenv("GATEWAY_PORT", "abc")
    monkeypatch.setenv("UNSPOKEN_LOG_FORMAT", SECRET)
    with pytest.raises(InvalidConfig) as refused:
        GatewaySettings()
    assert "GATEWAY_PORT must be a whole number" in refused.value.message
    assert "UNSPOKEN_LOG_FORMAT must be 'text' or 'json'" in refused.value.message
    assert SECRET not in refused.value.message


def test_a_setting_that_must_be_json_is_named(monkeypatch):
    monkeypatch.setenv("LLM_TEMPLATES", "parts")
    with pytest.raises(InvalidConfig, match=r"LLM_TEMPLATES must be JSON"):
        LlmSettings()


def test_settings_never_show_a_password():
    settings = WorkerSettings(
        broker_url=f"redis://:{SECRET}@redis:6379/0", llm_url=f"http://u:{SECRET}@llm"
    )
    assert SECRET in settings.broker_url
    assert SECRET not in repr(settings) and SECRET not in str(settings)


@pytest.mark.parametrize(
    ("module", "variable", "value"),
    [
        ("services.gateway", "UNSPOKEN_CLIENT_KEY", f"{SECRET} # mine"),
        ("services.gateway", "GATEWAY_PORT", "abc"),
        ("worker.dispatch.dispatcher", "WORKER_BROKER_URL", f"amqp://a:{SECRET}@b"),
    ],
)
def test_a_process_with_a_wrong_setting_ends_with_one_line(module, variable, value):
    done = subprocess.run(
        [sys.executable, "-m", module],
        env=child_environment(**{variable: value}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and variable in line and SECRET not in line


@pytest.mark.parametrize(
    ("variable", "setting"),
    [
        ("GATEWAY_PROT", "GATEWAY_PORT"),
        ("gateway_data_dirs", "GATEWAY_DATA_DIR"),
        ("UNSPOKEN_API_KEY", "UNSPOKEN_API_KEYS"),
        ("UNSPOKEN_URL_IMPUT", "UNSPOKEN_URL_INPUT"),
        ("GATEWAY_ALLOWED_HOSTS", "UNSPOKEN_ALLOWED_HOSTS"),
        ("UNSPOKEN_RUNS_DIR", "GATEWAY_RUNS_DIR"),
    ],
)
def test_a_variable_that_looks_like_a_misspelt_setting_is_reported(monkeypatch, variable, setting):
    monkeypatch.setenv(variable, "1")
    assert list(misspelt_variables([GatewaySettings])) == [(variable.upper(), setting)]


def test_settings_of_other_processes_and_of_other_programs_are_not_reported(monkeypatch):
    for kind in (LlmSettings, WorkerSettings, WeightsSettings, GatewaySettings):
        for variable in kind.variables().values():
            monkeypatch.setenv(variable, "1")
    compose = ("UNSPOKEN_CACHE", "UNSPOKEN_DATA", "UNSPOKEN_RUNS")
    kubernetes = ("GATEWAY_SERVICE_HOST", "GATEWAY_SERVICE_PORT", "GATEWAY_PORT_8000_TCP_ADDR")
    for variable in (*compose, *kubernetes):
        monkeypatch.setenv(variable, "1")
    assert list(misspelt_variables([GatewaySettings])) == []


def test_a_process_reports_a_misspelt_setting_once_at_start(monkeypatch, caplog):
    monkeypatch.setenv("UNSPOKEN_API_KEY", SECRET)
    start_logging(LlmSettings(), GatewaySettings())
    assert caplog.messages == ["UNSPOKEN_API_KEY is not a setting; did you mean UNSPOKEN_API_KEYS?"]
