"""Settings of a process: read once from the environment, frozen, handed down as values.

Only `__main__` files and the stack build these; nothing else reads the environment.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from unspoken.api_keys import KeyRing, checked_key, parse_keys
from unspoken.browser_rules import BrowserRules, is_loopback_name, parse_rules
from unspoken.errors import InvalidConfig, InvalidInput
from unspoken.problem_words import plain_problem
from unspoken.process import num_cores
from unspoken.profiles import Profile, load_profile
from unspoken.safe_text import redact


def default_cache_dir() -> Path:
    """Return the folder of converted weights, below XDG's cache folder. Raises InvalidConfig."""
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(root) if root else Path.home() / ".cache") / "unspoken"
    except RuntimeError as error:
        raise InvalidConfig(
            "this user has no home folder: set UNSPOKEN_CACHE_DIR to a folder for converted weights"
        ) from error


def child_environment(**changes: str) -> dict[str, str]:
    """This process's environment with changes, for a child process."""
    return {**os.environ, **changes}


def secret_key(variable: str) -> AfterValidator:
    """A validator of an API key that this process sends. Raises InvalidConfig.

    variable: where it is set, for the message.
    """

    def check(key: SecretStr) -> SecretStr:
        try:
            return SecretStr(checked_key(key.get_secret_value(), name=variable))
        except InvalidInput as error:
            raise InvalidConfig(error.message) from None

    return AfterValidator(check)


def service_url(variable: str) -> AfterValidator:
    """A validator of a service's address, which may hold a password: no message repeats it."""

    def check(url: str) -> str:
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            parts = urlsplit("")
        if url and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise InvalidConfig(
                f"{variable} must be a URL such as http://127.0.0.1:8000, with one of the schemes "
                "http, https; write special characters of a password as %XX"
            )
        return url

    return AfterValidator(check)


class ProcessSettings(BaseSettings):
    """The settings of every process. A subclass names its own prefix. Raises InvalidConfig."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        use_attribute_docstrings=True,
        # Compose hands on what nobody set as an empty text: that is not set.
        env_ignore_empty=True,
        # A value that does not fit may be a secret in the wrong place.
        hide_input_in_errors=True,
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
    device: Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$")] | None = Field(
        None, validation_alias=AliasChoices("UNSPOKEN_DEVICE", "device")
    )
    """Where every model runs: cpu, cuda, cuda:1 or mps; where models.yaml says, when absent."""
    log_level: str = Field("INFO", validation_alias=AliasChoices("UNSPOKEN_LOG_LEVEL", "log_level"))
    """DEBUG, INFO, WARNING or ERROR."""
    log_format: Literal["text", "json"] = Field(
        "text", validation_alias=AliasChoices("UNSPOKEN_LOG_FORMAT", "log_format")
    )
    """text: lines for people. json: one JSON object a line, as compose sets it."""
    client_key: Annotated[SecretStr, secret_key("UNSPOKEN_CLIENT_KEY")] = Field(
        SecretStr(""), validation_alias=AliasChoices("UNSPOKEN_CLIENT_KEY", "client_key")
    )
    """The API key that this process sends to the services that it asks."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False)
            told = (f"{self._variable(each['loc'])} {plain_problem(each)}" for each in problems)
            raise InvalidConfig("; ".join(told)) from None
        except SettingsError as error:
            raise InvalidConfig(f"{type(self).__name__}: {error}; write it as JSON") from None

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, redact(value) if isinstance(value, str) else value

    @classmethod
    def _variable(cls, location: tuple[int | str, ...]) -> str:
        """The environment variable of a field that is wrong; the field's name if it has none."""
        name = str(location[0]) if location else ""
        prefix = str(cls.model_config.get("env_prefix", ""))
        is_own = name in cls.model_fields and cls.model_fields[name].validation_alias is None
        return f"{prefix}{name}".upper() if is_own else name

    @field_validator("*", mode="before")
    @classmethod
    def _without_blanks(cls, value: object) -> object:
        # A .env file with CRLF ends every value with a carriage return.
        return value.strip() if isinstance(value, str) else value

    def read_profile(self) -> Profile:
        """The models that these settings name. Raises InvalidConfig."""
        return load_profile(self.profile, models_file=self.models_file, device=self.device)


class Limits(TypedDict):
    """How much a service takes on; see EngineSettings."""

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
    api_keys: str = Field("", validation_alias=AliasChoices("UNSPOKEN_API_KEYS", "api_keys"))
    """Keys that are let in: `NAME:SHA256` or `NAME:SHA256:PER_MINUTE`, apart by blanks. Where there
    are none everybody is. `unspoken key NAME` makes one."""
    key_requests_per_minute: Annotated[float, Field(ge=0)] = Field(
        600.0,
        validation_alias=AliasChoices(
            "UNSPOKEN_KEY_REQUESTS_PER_MINUTE", "key_requests_per_minute"
        ),
    )
    """For keys that name no number of their own; more is answered 429. 0 for no limit."""
    allowed_hosts: str = Field(
        "", validation_alias=AliasChoices("UNSPOKEN_ALLOWED_HOSTS", "allowed_hosts")
    )
    """Names that services are reached by, separated by blanks; `.example.org` for all below it, `*`
    for any. A request with another Host is answered 403. Bound to the loopback, localhost and
    loopback addresses are always accepted; beyond it, any address, and any name if none is set."""
    allowed_origins: str = Field(
        "", validation_alias=AliasChoices("UNSPOKEN_ALLOWED_ORIGINS", "allowed_origins")
    )
    """Origins (`https://example.org`), separated by blanks, whose pages may send requests that
    change state; those of other sites are answered 403. No CORS headers are sent."""
    max_connections: Annotated[int, Field(ge=1)] | None = Field(
        None, validation_alias=AliasChoices("UNSPOKEN_MAX_CONNECTIONS", "max_connections")
    )
    """Connections that this process has open at once; about half of its limit of open files where
    none is set. One more closes the one that has waited for its caller for longest."""
    drain_delay_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    """After SIGTERM /readyz says 503 for so long before new connections are refused."""

    @model_validator(mode="after")
    def _loopback_unless_trusted(self) -> "ServiceSettings":
        has_keys = self.key_ring() is not None
        check_bind(self.host, trusted=self.trusted_bind, has_keys=has_keys)
        self.browser_rules()
        return self

    def key_ring(self) -> KeyRing | None:
        """Who is let in; None for everybody. Raises InvalidConfig."""
        keys = parse_keys(self.api_keys, requests_per_minute=self.key_requests_per_minute)
        return KeyRing(keys) if keys else None

    def browser_rules(self) -> BrowserRules:
        """Return the accepted Host and Origin headers. Raises InvalidConfig."""
        return parse_rules(
            is_loopback=is_loopback_name(self.host),
            hosts=self.allowed_hosts,
            origins=self.allowed_origins,
        )


class EngineSettings(ServiceSettings):
    """What every service with a model has."""

    url_input: Literal["off", "https", "http"] = Field(
        "off", validation_alias=AliasChoices("UNSPOKEN_URL_INPUT", "url_input")
    )
    """Whether a picture may be given by its URL: not at all, by https, or by http too."""
    url_hosts: str = Field("", validation_alias=AliasChoices("UNSPOKEN_URL_HOSTS", "url_hosts"))
    """Hosts that URLs may be of, apart by blanks, `.example.org` for all below it; every public one
    where there are none."""
    num_threads: Annotated[int, Field(ge=1)] = Field(default_factory=num_cores)
    """torch threads of the inference thread."""
    max_queue: Annotated[int, Field(ge=1)] = 64
    """Requests that wait; one more is answered 429."""
    max_queue_mib: Annotated[float, Field(gt=0)] = 512.0
    """Memory of bodies that are read, and of decoded pictures that wait; more is answered 429."""
    request_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """A request that took longer is answered 504; X-Request-Timeout-Ms names less."""
    hang_s: Annotated[float, Field(gt=0)] = 900.0
    """A call of the model that runs for longer is taken for dead, and the process ends."""

    def limits(self) -> "Limits":
        """What an app's `create_app` takes of this."""
        return {
            "max_queue": self.max_queue,
            "max_queue_bytes": int(self.max_queue_mib * 1024 * 1024),
            "request_timeout_s": self.request_timeout_s,
        }


def check_bind(host: str, *, trusted: bool, has_keys: bool = False) -> None:
    """Raise InvalidConfig unless `host` is of the loopback, keys are asked, or all is closed."""
    if not trusted and not has_keys and not is_loopback_name(host):
        raise InvalidConfig(
            f"{host} is not a loopback address; set UNSPOKEN_API_KEYS where a service is to be "
            "reached from there, or UNSPOKEN_TRUSTED_BIND=1 only where the network around this "
            "process is closed"
        )
