"""Settings of the worker and the dispatcher, read once from WORKER_*."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import SettingsConfigDict

from unspoken.config.browser_rules import parse_rules
from unspoken.config.services import DETECTOR, LLM, SEGMENTER
from unspoken.config.settings import ProcessSettings, check_bind, service_url
from worker.process.broker_url import broker_address


class WorkerSettings(ProcessSettings):
    """Settings of the worker and the dispatcher."""

    model_config = SettingsConfigDict(env_prefix="WORKER_")

    broker_url: Annotated[str, broker_address("WORKER_BROKER_URL")] = "redis://127.0.0.1:6379/0"
    """Redis: redis://[user:password@]host:port/db, rediss:// with TLS, redis+socket:///path."""
    llm_url: Annotated[str, service_url("WORKER_LLM_URL")] = LLM.local_url
    detector_url: Annotated[str, service_url("WORKER_DETECTOR_URL")] = DETECTOR.local_url
    segmenter_url: Annotated[str, service_url("WORKER_SEGMENTER_URL")] = SEGMENTER.local_url
    runs_dir: Path = Path("runs")
    data_dir: Path | None = None
    """Path of the data folder on this host, if it differs from the path that the gateway
    recorded."""
    pool: Literal["prefork", "threads", "solo"] = "prefork"
    concurrency: Annotated[int, Field(ge=1)] = 2
    """Number of chunks that one worker works on at a time."""
    grace_s: Annotated[float, Field(ge=0)] = 25.0
    """Time for a graceful shutdown: a worker told to stop starts no further chunk and has this long
    to finish its current ones. Then it releases them and exits within ten seconds."""
    watchdog_s: Annotated[float, Field(gt=0)] = 120.0
    """A worker exits with status 1, to be restarted, if it takes no message for this time although
    messages are queued and it has a free slot."""
    service_timeout_s: Annotated[float, Field(gt=0)] = 180.0
    """A request to a service fails if it is not answered within this time."""
    lease_s: Annotated[float, Field(gt=0)] = 20.0
    """A lease on a chunk expires if the worker does not renew it within this time; the chunk is
    then published again."""
    tick_s: Annotated[float, Field(gt=0)] = 1.0
    """Time between two ticks of the dispatcher."""
    republish_s: Annotated[float, Field(gt=0)] = 10.0
    """A message counts as lost, and is published again, if its chunks are not done or leased after
    this time and the queue is empty."""
    message_s: Annotated[float, Field(gt=0)] = 90.0
    """A message names as many chunks as take this time, estimated from recent chunks."""
    metrics_host: str = "127.0.0.1"
    """Address on which the dispatcher serves /metrics. It must be a loopback address unless
    `UNSPOKEN_TRUSTED_BIND` is set."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the dispatcher's /metrics; 0 disables it. `unspoken up` and compose set it."""
    allowed_hosts: str = Field(
        "", validation_alias=AliasChoices("UNSPOKEN_ALLOWED_HOSTS", "allowed_hosts")
    )
    """Host names under which the dispatcher's /metrics may be reached, as for the services."""
    trusted_bind: bool = Field(
        default=False, validation_alias=AliasChoices("UNSPOKEN_TRUSTED_BIND", "trusted_bind")
    )
    """Allow any bind address, because this process runs in a closed network (compose)."""

    @model_validator(mode="after")
    def _loopback_unless_trusted(self) -> "WorkerSettings":
        check_bind(self.metrics_host, trusted=self.trusted_bind)
        parse_rules(is_loopback=True, hosts=self.allowed_hosts, origins="")
        return self
