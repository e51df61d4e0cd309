"""The table of services. Whatever lists services reads it; CONTRIBUTING.md tells how to add one.

A test compares docker-compose.yml, the Dockerfile, .env.example and the docs with it.
"""

from dataclasses import dataclass
from typing import Literal

ModelKind = Literal["llm", "detector", "text_encoder", "segmenter"]
HIGHEST_PORT = 65535


@dataclass(frozen=True, kw_only=True)
class Service:
    """One HTTP service.

    Attributes:
        name: Its folder below `services`; in capitals, the prefix of its settings.
        summary: One sentence on what it does, for OpenAPI and its page.
        port: Its port by default, and in its container.
        settings: Import path of its settings class.
        build_app: Import path of the function that builds its app from its settings and, if it has
            models, an inference thread.
        models: Entries of a profile in models.yaml that it loads.
        calls: Services that it calls. Its settings have a `NAME_url` for each.
        from_worker: True if the worker calls it, at WORKER_NAME_URL.
    """

    name: str
    summary: str
    port: int
    settings: str
    build_app: str
    models: tuple[ModelKind, ...] = ()
    calls: tuple[str, ...] = ()
    from_worker: bool = False

    @property
    def local_url(self) -> str:
        """URL on this machine at the default port."""
        return f"http://127.0.0.1:{self.port}"


LLM = Service(
    name="llm",
    summary="Asks a language model what a caption names and what it leaves unspoken.",
    port=8001,
    settings="services.llm.settings:LlmSettings",
    build_app="services.llm.__main__:build_app",
    models=("llm",),
    from_worker=True,
)
DETECTOR = Service(
    name="detector",
    summary="Boxes for phrases: an open-vocabulary detector. Up to 1 000 phrases at once.",
    port=8002,
    settings="services.detector.settings:DetectorSettings",
    build_app="services.detector.__main__:build_app",
    models=("detector",),
    from_worker=True,
)
SEGMENTER = Service(
    name="segmenter",
    summary="Masks for texts, boxes and points; phrases as vectors of CLIP's text space.",
    port=8003,
    settings="services.segmenter.settings:SegmenterSettings",
    build_app="services.segmenter.__main__:build_app",
    models=("text_encoder", "segmenter"),
    calls=("detector",),
    from_worker=True,
)
GATEWAY = Service(
    name="gateway",
    summary="Captioned pictures in, datasets of boxes out; pictures in, masks out.",
    port=8000,
    settings="services.gateway.settings:GatewaySettings",
    build_app="services.gateway.app:create_app",
    calls=("segmenter",),
)
SERVICES = (LLM, DETECTOR, SEGMENTER, GATEWAY)
"""A service comes after those that it calls."""
METRICS_PORT = 8004
"""Port of the dispatcher's /metrics in `unspoken up` and in compose."""
HIGHEST_GATEWAY_PORT = HIGHEST_PORT - (
    max(METRICS_PORT, *(service.port for service in SERVICES)) - GATEWAY.port
)
"""Largest port for the gateway that leaves numbers for the others."""


def port_by_service(gateway_port: int = GATEWAY.port) -> dict[str, int]:
    """Return the port of each service for a gateway at `gateway_port`, at the usual distances."""
    return {service.name: gateway_port + service.port - GATEWAY.port for service in SERVICES}


def urls_in_environment(url_by_service: dict[str, str]) -> dict[str, str]:
    """Return the environment variables that tell each process where the services are."""
    worker = {
        f"WORKER_{service.name.upper()}_URL": url_by_service[service.name]
        for service in SERVICES
        if service.from_worker
    }
    services = {
        f"{service.name.upper()}_{name.upper()}_URL": url_by_service[name]
        for service in SERVICES
        for name in service.calls
    }
    return worker | services
