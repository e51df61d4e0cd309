"""Settings of a process: read once from the environment, frozen, handed down as values.

Only `__main__` files and the stack build these; nothing else reads the environment.
"""

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal, TypedDict

from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from unspoken.errors import InvalidConfig


def default_cache_dir() -> Path:
    """Where converted weights are kept: XDG's cache folder, `unspoken` in it."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "unspoken"


def child_environment(**changes: str) -> dict[str, str]:
    """This process's environment with changes, for a child process."""
    return {**os.environ, **changes}


class ProcessSettings(BaseSettings):
    """What every process has. A subclass names its own prefix."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        use_attribute_docstrings=True,
        # Compose hands on what nobody set as an empty text: that is not set.
        env_ignore_empty=True,
    )

    profile: str = Field("small", validation_alias=AliasChoices("UNSPOKEN_PROFILE", "profile"))
    """Which entry of models.yaml is used: small, base, thesis, or a user's own."""
    models_file: Path | None = Field(
        None, validation_alias=AliasChoices("UNSPOKEN_MODELS_FILE", "models_file")
    )
    """A models.yaml of one's own; the one in the project otherwise."""
    cache_dir: Path = Field(
        default_factory=default_cache_dir,
        validation_alias=AliasChoices("UNSPOKEN_CACHE_DIR", "cache_dir"),
    )
    """Converted and fetched weights, and notes of checked hashes."""
    log_level: str = Field("INFO", validation_alias=AliasChoices("UNSPOKEN_LOG_LEVEL", "log_level"))
    """DEBUG, INFO, WARNING or ERROR."""
    log_format: Literal["text", "json"] = Field(
        "text", validation_alias=AliasChoices("UNSPOKEN_LOG_FORMAT", "log_format")
    )
    """text: lines for people. json: one JSON object a line, as compose sets it."""


class Limits(TypedDict):
    """How much a service takes on; see ServiceSettings."""

    max_queue: int
    max_queue_bytes: int
    request_timeout_s: float


class ServiceSettings(ProcessSettings):
    """What every HTTP service has."""

    host: str = "127.0.0.1"
    """Address to listen on: loopback only, unless the network is closed."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0 for any free port."""
    trusted_bind: bool = Field(
        default=False, validation_alias=AliasChoices("UNSPOKEN_TRUSTED_BIND", "trusted_bind")
    )
    """The network around this process is closed (compose): any address may be bound."""
    num_threads: Annotated[int, Field(ge=1)] = Field(
        default_factory=lambda: max(1, (os.cpu_count() or 2) // 2)
    )
    """torch threads of the inference thread."""
    max_queue: Annotated[int, Field(ge=1)] = 64
    """Requests that wait; one more is answered 429."""
    max_queue_mib: Annotated[float, Field(gt=0)] = 512.0
    """Memory of bodies that are read, and of decoded pictures that wait; more is answered 429."""
    request_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """A request that took longer is answered 504; X-Request-Timeout-Ms names less."""
    hang_s: Annotated[float, Field(gt=0)] = 900.0
    """A call of the model that runs for longer is taken for dead, and the process ends."""
    drain_delay_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    """After SIGTERM /readyz says 503 for so long before new connections are refused."""

    def limits(self) -> "Limits":
        """What an app's `create_app` takes of this."""
        return {
            "max_queue": self.max_queue,
            "max_queue_bytes": int(self.max_queue_mib * 1024 * 1024),
            "request_timeout_s": self.request_timeout_s,
        }

    @model_validator(mode="after")
    def _loopback_unless_trusted(self) -> "ServiceSettings":
        check_bind(self.host, trusted=self.trusted_bind)
        return self


def check_bind(host: str, *, trusted: bool) -> None:
    """Raise InvalidConfig unless `host` is of the loopback or the network around is closed."""
    if not trusted and not _is_loopback(host):
        raise InvalidConfig(
            f"{host} is not a loopback address; set UNSPOKEN_TRUSTED_BIND=1 only where "
            "the network around this process is closed"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
