"""Settings of worker and dispatcher, read once from WORKER_*."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import SettingsConfigDict

from unspoken.browser_rules import parse_rules
from unspoken.settings import ProcessSettings, check_bind, service_url
from worker.broker_url import broker_address


class WorkerSettings(ProcessSettings):
    """Where the broker, the services and the two folders are."""

    model_config = SettingsConfigDict(env_prefix="WORKER_")

    broker_url: Annotated[str, broker_address("WORKER_BROKER_URL")] = "redis://127.0.0.1:6379/0"
    """Redis: redis://[user:password@]host:port/db, rediss:// with TLS, redis+socket:///path."""
    llm_url: Annotated[str, service_url("WORKER_LLM_URL")] = "http://127.0.0.1:8001"
    detector_url: Annotated[str, service_url("WORKER_DETECTOR_URL")] = "http://127.0.0.1:8002"
    segmenter_url: Annotated[str, service_url("WORKER_SEGMENTER_URL")] = "http://127.0.0.1:8003"
    runs_dir: Path = Path("runs")
    data_dir: Path | None = None
    """The data folder as this host sees it, where it is not the path that the gateway recorded."""
    pool: Literal["prefork", "threads", "solo"] = "prefork"
    concurrency: Annotated[int, Field(ge=1)] = 2
    """Chunks at a time in one worker."""
    grace_s: Annotated[float, Field(ge=0)] = 25.0
    """A worker told to stop begins no chunk and has so long for those that it has; then it gives
    them back and ends within ten seconds."""
    watchdog_s: Annotated[float, Field(gt=0)] = 120.0
    """A worker that takes nothing for so long, though messages wait and it has a free hand, ends
    with status 1, to be started again."""
    service_timeout_s: Annotated[float, Field(gt=0)] = 180.0
    """A service that does not answer a request within this time has failed it."""
    lease_s: Annotated[float, Field(gt=0)] = 20.0
    """A chunk whose worker did not renew its lease for so long is rung for again."""
    tick_s: Annotated[float, Field(gt=0)] = 1.0
    """The dispatcher looks this often."""
    ring_again_s: Annotated[float, Field(gt=0)] = 10.0
    """A doorbell that nobody answered, though the queue is empty, was lost after so long."""
    message_s: Annotated[float, Field(gt=0)] = 90.0
    """A message names as many chunks as make so long of work, by the times of the last ones."""
    metrics_host: str = "127.0.0.1"
    """Where the dispatcher's /metrics listens: loopback only, unless the network is closed."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the dispatcher's /metrics; 0 for none. `unspoken up` and compose set it."""
    allowed_hosts: str = Field(
        "", validation_alias=AliasChoices("UNSPOKEN_ALLOWED_HOSTS", "allowed_hosts")
    )
    """Names that the dispatcher's /metrics is reached by, as for the services."""
    trusted_bind: bool = Field(
        default=False, validation_alias=AliasChoices("UNSPOKEN_TRUSTED_BIND", "trusted_bind")
    )
    """The network around this process is closed (compose): any address may be bound."""

    @model_validator(mode="after")
    def _loopback_unless_trusted(self) -> "WorkerSettings":
        check_bind(self.metrics_host, trusted=self.trusted_bind)
        parse_rules(is_loopback=True, hosts=self.allowed_hosts, origins="")
        return self
