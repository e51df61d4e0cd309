"""Settings of a process: read once from the environment, immutable, passed on as values.

Only `__main__` files and the stack build settings; no other code reads the environment.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, Literal, TypedDict
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from unspoken.config.api_keys import KeyRing, checked_key, parse_keys
from unspoken.config.browser_rules import BrowserRules, is_loopback_name, parse_rules
from unspoken.config.profiles import Profile, load_profile
from unspoken.config.services import Service
from unspoken.error_lines import print_error
from unspoken.errors import InvalidConfig, InvalidInput, UnspokenError
from unspoken.logs import configure_logging
from unspoken.problem_words import nearest, plain_problem
from unspoken.process import num_cores, port_problem
from unspoken.safe_text import redact

SHARED_PREFIX = "UNSPOKEN_"
MISSPELT_SIMILARITY = 0.75
"""Lowest similarity of a misspelt name, by difflib; PROT and PORT have it."""

logger = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """Return the folder of converted weights, in XDG's cache folder. Raises InvalidConfig."""
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(root) if root else Path.home() / ".cache") / "unspoken"
    except RuntimeError as error:
        raise InvalidConfig(
            "this user has no home folder: set UNSPOKEN_CACHE_DIR to a folder for converted weights"
        ) from error


def child_environment(**changes: str) -> dict[str, str]:
    """Return this process's environment with changes, for a child process."""
    return {**os.environ, **changes}


def secret_key(variable: str) -> AfterValidator:
    """Return a validator of an API key that this process sends. It raises InvalidConfig.

    `variable` is the environment variable of the key, for the message.
    """

    def check(key: SecretStr) -> SecretStr:
        try:
            return SecretStr(checked_key(key.get_secret_value(), name=variable))
        except InvalidInput as error:
            raise InvalidConfig(error.message) from None

    return AfterValidator(check)


def service_url(variable: str) -> AfterValidator:
    """Return a validator of a service's URL. No message repeats it: it may contain a password."""

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


def _device(name: str) -> str:
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ValueError("must be cpu, mps, cuda, or cuda with a number, such as cuda:1")
    return name


class ProcessSettings(BaseSettings):
    """The settings of every process. A subclass sets its own prefix. Raises InvalidConfig."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        use_attribute_docstrings=True,
        # Compose passes unset variables as empty strings; treat them as unset.
        env_ignore_empty=True,
        # An invalid value may be a secret in the wrong variable.
        hide_input_in_errors=True,
    )

    profile: str = Field("small", validation_alias=AliasChoices("UNSPOKEN_PROFILE", "profile"))
    """Profile of models.yaml: small, base, thesis, or your own."""
    models_file: Path | None = Field(
        None, validation_alias=AliasChoices("UNSPOKEN_MODELS_FILE", "models_file")
    )
    """Your own models.yaml; by default the project's."""
    cache_dir: Path = Field(
        default_factory=default_cache_dir,
        validation_alias=AliasChoices("UNSPOKEN_CACHE_DIR", "cache_dir"),
    )
    """Folder for converted and downloaded weights, and for cached hashes of files."""
    device: Annotated[str, AfterValidator(_device)] | None = Field(
        None, validation_alias=AliasChoices("UNSPOKEN_DEVICE", "device")
    )
    """Device of all models: cpu, cuda, cuda:1 or mps; by default, the one in models.yaml."""
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(str.upper)
    ] = Field("INFO", validation_alias=AliasChoices("UNSPOKEN_LOG_LEVEL", "log_level"))
    """DEBUG, INFO, WARNING, ERROR or CRITICAL."""
    log_format: Literal["text", "json"] = Field(
        "text", validation_alias=AliasChoices("UNSPOKEN_LOG_FORMAT", "log_format")
    )
    """text: lines for people. json: one JSON object per line, the default of compose."""
    debug: bool = Field(default=False, validation_alias=AliasChoices("UNSPOKEN_DEBUG", "debug"))
    """Print the traceback of an error that ends the process, before its line."""
    client_key: Annotated[SecretStr, secret_key("UNSPOKEN_CLIENT_KEY")] = Field(
        SecretStr(""), validation_alias=AliasChoices("UNSPOKEN_CLIENT_KEY", "client_key")
    )
    """The API key that this process sends to other services."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False)
            variables = self.variables()
            told = []
            for each in problems:
                name = str(each["loc"][0]) if each["loc"] else ""
                told.append(f"{variables.get(name, name)} {plain_problem(each).problem}")
            raise InvalidConfig("; ".join(told)) from None
        except SettingsError as error:
            found = re.search(r'field "(\w+)"', str(error))
            name = found[1] if found else ""
            raise InvalidConfig(
                f'{self.variables().get(name, name)} must be JSON, such as ["parts"] for a list'
            ) from None

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, redact(value) if isinstance(value, str) else value

    @classmethod
    def variables(cls) -> dict[str, str]:
        """Return the environment variable of each field."""
        prefix = str(cls.model_config.get("env_prefix", ""))
        return {
            name: str(field.validation_alias.choices[0])
            if isinstance(field.validation_alias, AliasChoices)
            else f"{prefix}{name}".upper()
            for name, field in cls.model_fields.items()
        }

    @field_validator("*", mode="before")
    @classmethod
    def _without_blanks(cls, value: object) -> object:
        # A .env file with CRLF ends every value with a carriage return.
        return value.strip() if isinstance(value, str) else value

    def read_profile(self) -> Profile:
        """Load the profile that these settings name. Raises InvalidConfig."""
        return load_profile(self.profile, models_file=self.models_file, device=self.device)


class Limits(TypedDict):
    """Load limits of a service; see EngineSettings."""

    max_queue: int
    max_queue_bytes: int
    request_timeout_s: float


class ServiceSettings(ProcessSettings):
    """Settings of every HTTP service."""

    host: str = "127.0.0.1"
    """Address to listen on; only loopback unless API keys are set or the network is trusted."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0 for any free port."""
    trusted_bind: bool = Field(
        default=False, validation_alias=AliasChoices("UNSPOKEN_TRUSTED_BIND", "trusted_bind")
    )
    """Trust the network around this process (as in compose) and allow any address."""
    api_keys: str = Field("", validation_alias=AliasChoices("UNSPOKEN_API_KEYS", "api_keys"))
    """Accepted API keys: `NAME:SHA256` or `NAME:SHA256:PER_MINUTE`, separated by spaces.

    Without any, all callers are accepted. `unspoken key NAME` makes a key.
    """
    key_requests_per_minute: Annotated[float, Field(ge=0)] = Field(
        600.0,
        validation_alias=AliasChoices(
            "UNSPOKEN_KEY_REQUESTS_PER_MINUTE", "key_requests_per_minute"
        ),
    )
    """Rate limit of keys that set no limit of their own; more requests get 429. 0 for no limit."""
    allowed_hosts: str = Field(
        "", validation_alias=AliasChoices("UNSPOKEN_ALLOWED_HOSTS", "allowed_hosts")
    )
    """Host names of the services, separated by spaces; `.example.org` for all names below it, `*`
    for any.

    Requests with another Host get 403. Services bound to loopback always accept localhost and
    loopback addresses; others accept any address, and any name if none is set.
    """
    allowed_origins: str = Field(
        "", validation_alias=AliasChoices("UNSPOKEN_ALLOWED_ORIGINS", "allowed_origins")
    )
    """Origins (`https://example.org`), separated by spaces, whose pages may send requests that
    change state; those of other sites get 403.

    No CORS headers are sent.
    """
    max_connections: Annotated[int, Field(ge=1)] | None = Field(
        None, validation_alias=AliasChoices("UNSPOKEN_MAX_CONNECTIONS", "max_connections")
    )
    """Maximum number of open connections of this process; by default about half of its limit of
    open files.

    A further connection closes the one that has waited longest for its caller.
    """
    drain_delay_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    """Seconds after SIGTERM during which /readyz replies 503 and connections are still accepted."""

    @model_validator(mode="after")
    def _loopback_unless_trusted(self) -> "ServiceSettings":
        has_keys = self.key_ring() is not None
        check_bind(self.host, trusted=self.trusted_bind, has_keys=has_keys)
        self.browser_rules()
        return self

    def check_port(self) -> None:
        """Raise InvalidConfig if this process cannot listen on its port."""
        if problem := port_problem(self.host, self.port):
            raise InvalidConfig(
                f"port {self.port} of {self.host} {problem}. Stop the other program, or set "
                f"{self.variables()['port']} to another port"
            )

    def key_ring(self) -> KeyRing | None:
        """Return the accepted API keys; None to accept all callers. Raises InvalidConfig."""
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
    """Settings of every service with a model."""

    url_input: Literal["off", "https", "http"] = Field(
        "off", validation_alias=AliasChoices("UNSPOKEN_URL_INPUT", "url_input")
    )
    """Accept pictures by URL: not at all (off), by https, or also by http."""
    url_hosts: str = Field("", validation_alias=AliasChoices("UNSPOKEN_URL_HOSTS", "url_hosts"))
    """Allowed hosts of URLs, separated by spaces; `.example.org` for all names below it.

    If empty, every public host is allowed.
    """
    num_threads: Annotated[int, Field(ge=1)] = Field(default_factory=num_cores)
    """Number of torch threads of the inference thread."""
    max_queue: Annotated[int, Field(ge=1)] = 64
    """Maximum number of waiting requests; more get 429."""
    max_queue_mib: Annotated[float, Field(gt=0)] = 512.0
    """Memory for bodies being read and for waiting decoded pictures; requests beyond it get 429."""
    request_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Deadline of a request, after which it gets 504; X-Request-Timeout-Ms can shorten it."""
    hang_s: Annotated[float, Field(gt=0)] = 900.0
    """A model call that runs for longer is treated as hung, and the process exits."""

    def limits(self) -> "Limits":
        """Return the arguments of an app's `create_app` that limit its load."""
        return {
            "max_queue": self.max_queue,
            "max_queue_bytes": int(self.max_queue_mib * 1024 * 1024),
            "request_timeout_s": self.request_timeout_s,
        }


def check_bind(host: str, *, trusted: bool, has_keys: bool = False) -> None:
    """Raise InvalidConfig unless `host` is loopback, keys are set, or the network is trusted."""
    if not trusted and not has_keys and not is_loopback_name(host):
        raise InvalidConfig(
            f"{host} is not a loopback address: to serve other machines, set UNSPOKEN_API_KEYS, "
            "or UNSPOKEN_TRUSTED_BIND=1 if only trusted machines can reach this process"
        )


def start_logging(*settings: ProcessSettings) -> None:
    """Configure a process's log as its first settings say, and warn of misspelt variables."""
    configure_logging(settings[0].log_level, settings[0].log_format)
    warn_of_misspelt_variables([type(each) for each in settings])


def warn_of_misspelt_variables(kinds: Sequence[type[ProcessSettings]]) -> None:
    """Log a warning for each environment variable that looks like a misspelt setting.

    It is no error, because the variable may belong to another program.
    """
    for variable, setting in misspelt_variables(kinds):
        logger.warning("%s is not a setting; did you mean %s?", variable, setting)


def misspelt_variables(kinds: Sequence[type[ProcessSettings]]) -> Iterator[tuple[str, str]]:
    """Yield (variable, setting) for each environment variable that looks like a misspelt setting.

    Compares names without their prefix, which would make all names similar.
    """
    prefixes = {SHARED_PREFIX, *(str(kind.model_config.get("env_prefix")) for kind in kinds)}
    prefixes.discard("")
    # All processes know the shared settings, because they often share one environment.
    known: list[type[ProcessSettings]] = [*kinds, EngineSettings]
    settings = {
        variable
        for kind in known
        for variable in kind.variables().values()
        if variable.startswith(tuple(prefixes))
    }
    for variable in sorted(map(str.upper, os.environ)):
        prefix = next((each for each in prefixes if variable.startswith(each)), None)
        if prefix is None or variable in settings:
            continue
        name = variable.removeprefix(prefix)
        moved = sorted(settings & {f"{each}{name}" for each in prefixes})
        names = [each.removeprefix(prefix) for each in settings if each.startswith(prefix)]
        if moved:
            yield variable, moved[0]
        elif near := nearest(name, names, cutoff=MISSPELT_SIMILARITY):
            yield variable, f"{prefix}{near}"


def settings_class(service: Service) -> type[ServiceSettings]:
    """Import the settings class of a service."""
    found: type[ServiceSettings] = resolve_name(service.settings)
    return found


def run_main(main: Callable[[], None]) -> None:
    """Run a process's main function. An error ends it with one line and without a traceback."""
    try:
        main()
    except (UnspokenError, OSError) as error:
        sys.exit(print_error(error, debug=wants_traceback()))


def wants_traceback() -> bool:
    """Return the setting UNSPOKEN_DEBUG; False if other settings are invalid."""
    try:
        return ProcessSettings().debug
    except InvalidConfig:
        return False
