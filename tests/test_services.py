"""The table of services is what the code, the containers and the docs say."""

import inspect
import re
import subprocess
import sys
import tomllib
from pkgutil import resolve_name

import pytest
import yaml

from services.laptop import read_settings
from tests.compose import check as compose_check
from tests.openapi import FOLDER as OPENAPI
from tests.openapi import apps
from tests.test_tree import ROOT
from unspoken.config.profiles import Profile
from unspoken.config.services import (
    GATEWAY,
    HIGHEST_GATEWAY_PORT,
    METRICS_PORT,
    SERVICES,
    Service,
    port_by_service,
    urls_in_environment,
)
from unspoken.config.settings import EngineSettings, ServiceSettings, settings_class
from worker.process.settings import WorkerSettings

NAMES = [service.name for service in SERVICES]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
every_service = pytest.mark.parametrize("service", SERVICES, ids=NAMES)


def test_each_folder_of_services_is_a_row_of_the_table():
    folders = {path.parent.name for path in (ROOT / "services").glob("*/__init__.py")}
    assert folders == set(NAMES)


@every_service
def test_the_import_paths_of_a_row_lead_to_its_settings_and_its_app(service: Service):
    kind = settings_class(service)
    assert issubclass(kind, EngineSettings if service.models else ServiceSettings)
    assert kind.model_config["env_prefix"] == f"{service.name.upper()}_"
    assert kind.model_fields["port"].default == service.port
    assert {f"{name}_url" for name in service.calls} <= set(kind.model_fields)
    parameters = list(inspect.signature(resolve_name(service.build_app)).parameters.values())
    assert parameters[0].annotation is kind
    needed = [each.name for each in parameters[1:] if each.default is inspect.Parameter.empty]
    assert needed == (["thread"] if service.models else [])


def test_a_service_comes_after_those_that_it_calls():
    for place, service in enumerate(SERVICES):
        assert set(service.calls) <= set(NAMES[:place])


def test_no_two_processes_share_a_port():
    assert len({METRICS_PORT, *(service.port for service in SERVICES)}) == len(SERVICES) + 1
    highest = port_by_service(HIGHEST_GATEWAY_PORT)
    metrics_port = HIGHEST_GATEWAY_PORT + METRICS_PORT - GATEWAY.port
    assert max(metrics_port, *highest.values()) == 65535


def test_every_model_of_a_profile_is_loaded_by_one_service():
    loaded = [kind for service in SERVICES for kind in service.models]
    assert sorted(loaded) == sorted(set(Profile.__dataclass_fields__) - {"name"})


def test_the_worker_has_a_setting_for_each_service_that_it_calls():
    urls = {name for name in WorkerSettings.model_fields if name.removesuffix("_url") in NAMES}
    assert urls == {f"{service.name}_url" for service in SERVICES if service.from_worker}


def test_services_of_one_process_find_each_other_unless_they_are_told_otherwise(monkeypatch):
    monkeypatch.setenv("DETECTOR_PORT", "18002")
    found = {
        f"{service.name.upper()}_{name.upper()}_URL": getattr(
            read_settings()[service.name], f"{name}_url"
        )
        for service in SERVICES
        for name in service.calls
    }
    assert found == {
        "SEGMENTER_DETECTOR_URL": "http://127.0.0.1:18002",
        "GATEWAY_SEGMENTER_URL": "http://127.0.0.1:8003",
    }
    monkeypatch.setenv("SEGMENTER_DETECTOR_URL", "http://elsewhere:1")
    assert read_settings()["segmenter"].detector_url == "http://elsewhere:1"


@every_service
def test_compose_runs_each_service_at_its_port(service: Service):
    upper, container = service.name.upper(), COMPOSE["services"][service.name]
    assert container["ports"] == [f"127.0.0.1:${{{upper}_PORT:-{service.port}}}:{service.port}"]
    assert container["build"]["args"]["ROOM"] == service.name
    assert container["environment"][f"{upper}_HOST"] == "0.0.0.0"
    assert service.name in container["environment"]["UNSPOKEN_ALLOWED_HOSTS"].split()
    mounted = [str(volume) for volume in container["volumes"]]
    assert any(":/srv/unspoken/cache" in each for each in mounted) == bool(service.models)


def test_compose_tells_each_process_where_the_services_are():
    urls = {service.name: f"http://{service.name}:{service.port}" for service in SERVICES}
    written = {
        name: value
        for container in COMPOSE["services"].values()
        for name, value in container.get("environment", {}).items()
    }
    expected = urls_in_environment(urls)
    assert {name: written.get(name) for name in expected} == expected
    assert written["WORKER_METRICS_PORT"] == METRICS_PORT


def test_the_check_of_the_containers_knows_every_service():
    assert {each.name: each.port for each in SERVICES} == compose_check.PORT_BY_SERVICE


@every_service
def test_the_image_of_a_service_has_its_code_and_its_probe(service: Service):
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    (stage,) = [each for each in stages if each.startswith(f"dependencies AS {service.name}\n")]
    assert f" services/{service.name} services/{service.name}\n" in stage
    assert f"ENV READYZ=http://127.0.0.1:{service.port}/readyz\n" in stage
    assert f'CMD ["services.{service.name}"]' in stage
    base = "torch" if service.models else "base"
    assert f"{base} AS under-{service.name}\n" in stages


@every_service
def test_the_project_file_has_the_packages_and_the_contract_of_a_service(service: Service):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    assert service.name in extras
    rooms = re.search(r'^ROOMS = "(.*)"$', (ROOT / "stack" / "setup.py").read_text(), re.MULTILINE)
    assert rooms is not None
    assert service.name in rooms[1].split(",")
    (contract,) = [
        each
        for each in project["tool"]["importlinter"]["contracts"]
        if each["name"] == "Services do not import each other"
    ]
    assert f"services.{service.name}" in contract["modules"]


@every_service
def test_the_docs_name_a_service_and_its_port(service: Service):
    docs = ROOT / "docs"
    (row,) = [
        line
        for line in (docs / "explanation" / "architecture.md").read_text().splitlines()
        if f"`python -m services.{service.name}`" in line
    ]
    assert f"| {'yes' if service.models else 'no'} |" in row
    page = docs / "reference" / "wire-api" / f"{service.name}.md"
    assert f"(port {service.port}" in page.read_text()
    assert str(service.port) in (docs / "how-to" / "deploy.md").read_text()
    assert (OPENAPI / f"{service.name}.json").is_file() and service.name in apps()
    assert f"{service.name.upper()}_PORT={service.port}\n" in (ROOT / ".env.example").read_text()


def test_the_command_line_reads_the_table_without_importing_torch_or_fastapi():
    program = "import sys, cli.main; print({'torch', 'fastapi'} & set(sys.modules))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
