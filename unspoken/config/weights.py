"""Download the weights of a profile from a hub. No other module downloads weights.

Each file is downloaded into a temporary file beside its final path, and renamed when it is complete
and its sha256 is correct. So an interrupted download leaves no file that looks like weights. A
second call downloads nothing. Files without a hash in models.yaml are trusted the first time: their
hash is written into a lock file beside them, and other content is refused later.
"""

import contextlib
import hashlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import httpx
from pydantic import AliasChoices, Field

from unspoken.config.profiles import (
    LOCK_FILE,
    Profile,
    WeightSource,
    checked_sha256,
    hub_folder,
    read_lock,
    resolve_files,
    write_json,
)
from unspoken.config.proxies import uses_proxies
from unspoken.config.settings import ProcessSettings, service_url
from unspoken.errors import InvalidConfig, MissingWeights, ServiceUnavailable
from unspoken.safe_text import reason_of, redact

logger = logging.getLogger(__name__)

HUB_URL = "https://huggingface.co"
_PIECE_BYTES = 1 << 20


class WeightsSettings(ProcessSettings):
    """Settings of weight downloads."""

    hub_url: Annotated[str, service_url("UNSPOKEN_HUB_URL")] = Field(
        HUB_URL, validation_alias=AliasChoices("UNSPOKEN_HUB_URL", "hub_url")
    )
    """Address of a hub that serves {hub_url}/{org/name}/resolve/{revision}/{file}."""


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
    timeout_s: float = 60.0,
    on_progress: Callable[[FetchProgress], None] | None = None,
) -> FetchReport:
    """Download all missing hub files of a profile into the cache folder, then check all its files.

    `timeout_s` limits the silence of the hub. `on_progress` is called for every piece received.

    Raises:
        MissingWeights: a file is not on the hub, has other content, or cannot be written.
        ServiceUnavailable: the hub does not answer, or the connection was cut; retry.
        InvalidConfig: the hub's URL is invalid.
    """
    if not hub_url.startswith(("https://", "http://")):
        raise InvalidConfig(f"UNSPOKEN_HUB_URL must be an http(s) URL, got {redact(hub_url)!r}")
    fetched: list[str] = []
    present: list[str] = []
    received_bytes = 0
    with httpx.Client(
        timeout=timeout_s,
        follow_redirects=True,
        trust_env=uses_proxies(hub_url),
        verify=httpx.create_ssl_context(),  # a mirror may use a private CA
    ) as http:
        for source in profile.sources:
            if not source.source.startswith("hub:"):
                continue
            folder = hub_folder(source, cache_dir=cache_dir)
            for name, named_sha256 in source.files.items():
                expected = named_sha256 or read_lock(folder).get(name)
                label = f"{source.source.removeprefix('hub:')}/{name}"
                if expected and _is_there(folder / name, expected, cache_dir=cache_dir):
                    present.append(label)
                    continue
                wanted = _HubFile(
                    url=_file_url(source, name, hub_url=hub_url),
                    path=folder / name,
                    label=label,
                    expected_sha256=expected,
                )
                size, digest = _download(http, wanted, on_progress=on_progress)
                _lock(folder, name, digest)
                checked_sha256(folder / name, cache_dir=cache_dir)
                logger.info("fetched file=%s bytes=%d sha256=%s", label, size, digest)
                fetched.append(label)
                received_bytes += size
    for source in profile.sources:
        resolve_files(source, cache_dir=cache_dir)
    return FetchReport(
        fetched=tuple(fetched), present=tuple(present), received_bytes=received_bytes
    )


@dataclass(frozen=True, kw_only=True)
class _HubFile:
    url: str
    path: Path
    label: str
    expected_sha256: str | None


def _file_url(source: WeightSource, name: str, *, hub_url: str) -> str:
    repository = source.source.removeprefix("hub:")
    return f"{hub_url.rstrip('/')}/{quote(repository)}/resolve/{source.revision}/{quote(name)}"


def _is_there(path: Path, expected_sha256: str, *, cache_dir: Path) -> bool:
    return path.is_file() and checked_sha256(path, cache_dir=cache_dir) == expected_sha256


def _download(
    http: httpx.Client,
    wanted: _HubFile,
    *,
    on_progress: Callable[[FetchProgress], None] | None,
) -> tuple[int, str]:
    """Download a file to its final path and return its size and sha256."""
    draft = wanted.path.with_name(f".{wanted.path.name}.{secrets.token_hex(4)}.part")
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        size, digest = _receive(http, wanted, draft, on_progress=on_progress)
        if wanted.expected_sha256 not in (None, digest):
            raise MissingWeights(
                f"{redact(wanted.url)} has sha256 {digest}, expected {wanted.expected_sha256}: "
                "nothing was kept. If the new content is wanted, change models.yaml, or remove "
                f"{wanted.path.parent / LOCK_FILE}"
            )
        draft.replace(wanted.path)
    except OSError as error:
        raise MissingWeights(f"cannot write {wanted.path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return size, digest


def _receive(
    http: httpx.Client,
    wanted: _HubFile,
    draft: Path,
    *,
    on_progress: Callable[[FetchProgress], None] | None,
) -> tuple[int, str]:
    digest = hashlib.sha256()
    received = 0
    try:
        # identity, because the hash is of the file itself, not of a compressed transfer.
        headers = {"Accept-Encoding": "identity"}
        with http.stream("GET", wanted.url, headers=headers) as response:
            _check_answer(response, wanted)
            announced = response.headers.get("Content-Length", "")
            num_bytes = int(announced) if announced.isdecimal() else None
            with draft.open("wb") as file:
                for piece in response.iter_bytes(_PIECE_BYTES):
                    file.write(piece)
                    digest.update(piece)
                    received += len(piece)
                    if on_progress is not None:
                        on_progress(
                            FetchProgress(
                                file=wanted.label, received_bytes=received, num_bytes=num_bytes
                            )
                        )
    except httpx.InvalidURL as error:
        raise InvalidConfig(f"{redact(wanted.url)} is not a URL: {reason_of(error)}") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ServiceUnavailable(
            f"the hub does not answer at {redact(wanted.url)} ({reason_of(error)}): connect this "
            "machine to it, or name another hub or a mirror by UNSPOKEN_HUB_URL, and fetch again; "
            "the files that are complete are kept"
        ) from error
    except httpx.HTTPError as error:
        raise ServiceUnavailable(
            f"{redact(wanted.url)} was cut after {received} bytes ({reason_of(error)}): "
            "fetch again; the files that are complete are kept"
        ) from error
    return received, digest.hexdigest()


def _check_answer(response: httpx.Response, wanted: _HubFile) -> None:
    match response.status_code:
        case 200:
            return
        case 401 | 403:
            raise MissingWeights(
                f"{redact(wanted.url)} is not open to everyone ({response.status_code})"
            )
        case 404:
            raise MissingWeights(
                f"the hub has no {wanted.label} (404): {redact(wanted.url)}; "
                "models.yaml names its source, revision and files"
            )
        case status if status == 429 or status >= 500:
            raise ServiceUnavailable(f"{redact(wanted.url)} answered {status}: fetch again later")
        case status:
            raise MissingWeights(f"{redact(wanted.url)} answered {status}")


def _lock(folder: Path, name: str, digest: str) -> None:
    """Add a file's hash to the lock file.

    The lock file is read again first, because another download may have added a file.
    """
    write_json(folder / LOCK_FILE, {**read_lock(folder), name: digest})
