"""Run all services in one process on one inference thread, for machines with few cores.

One thread keeps the models from competing for the cores. Each app has its own port and its own
lifespan, because the lifespan of a mounted sub-app would never run.
"""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

from fastapi import FastAPI

from unspoken.config.services import SERVICES, Service
from unspoken.config.settings import (
    EngineSettings,
    ServiceSettings,
    run_main,
    settings_class,
    start_logging,
)
from unspoken.http.app import use_ports
from unspoken.http.batching import InferenceThread
from unspoken.http.serve import run_apps
from unspoken.process import collector_paused


def read_settings() -> dict[str, ServiceSettings]:
    """Return the settings of each service by name; they come from the environment.

    A service finds those that it calls in this process, unless its settings name others. It calls
    them over HTTP even here, because their own queues feed the shared inference thread.
    """
    found: dict[str, ServiceSettings] = {}
    for service in SERVICES:
        settings = settings_class(service)()
        urls = {f"{name}_url": f"http://{_address(found[name])}" for name in service.calls}
        unset = {name: url for name, url in urls.items() if name not in settings.model_fields_set}
        found[service.name] = settings.model_copy(update=unset)
    return found


def build_apps(settings: dict[str, ServiceSettings]) -> list[tuple[FastAPI, ServiceSettings]]:
    """Load every model and create the apps, each after those that it calls."""
    with collector_paused():
        import torch

        builders = {service.name: _import_builder(service) for service in SERVICES}
    engines = [each for each in settings.values() if isinstance(each, EngineSettings)]
    num_threads = max(each.num_threads for each in engines)
    thread = InferenceThread(
        name="cpu",
        initializer=lambda: torch.set_num_threads(num_threads),
        hang_s=max(each.hang_s for each in engines),
    )
    apps = [
        (builders[service.name](settings[service.name], thread), settings[service.name])
        for service in SERVICES
    ]
    ports = {name: each.port for name, each in settings.items()}
    for app, _ in apps:
        use_ports(app, ports)
    return apps


def _import_builder(service: Service) -> Callable[[Any, InferenceThread], FastAPI]:
    build: Callable[..., FastAPI] = resolve_name(service.build_app)
    return build if service.models else lambda settings, _thread: build(settings)


def _address(settings: ServiceSettings) -> str:
    """Return the host and port at which this process reaches one of its own services."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    return f"{f'[{host}]' if ':' in host else host}:{settings.port}"


def main() -> None:
    """Load the weights, then listen, so that a process that answers has its weights."""
    settings = read_settings()
    start_logging(*settings.values())
    for each in settings.values():
        each.check_port()
    run_apps(build_apps(settings))


if __name__ == "__main__":
    run_main(main)
