"""API keys: who may ask, and how often. Only their digests are kept.

    UNSPOKEN_API_KEYS="worker:9f86d0...:0 phone-app:60303a..."

names each key, its sha256, and, where it is not the default, its requests a minute (0: without
limit). A key is 256 random bits, so that one round of sha256 is enough and nobody guesses it.
"""

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from unspoken.errors import InvalidConfig, RateLimited, Unauthorized

BURST_S = 10.0
"""What was saved up in so many seconds may be asked at once."""
_ENTRY = re.compile(r"(?P<name>[A-Za-z0-9_.-]{1,64}):(?P<sha256>[0-9a-f]{64})(:(?P<rate>\d{1,9}))?")


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key by its digest. `requests_per_minute`: 0 for no limit."""

    name: str
    sha256: str
    requests_per_minute: float


def new_key() -> str:
    """A key that nobody had before."""
    return f"unspoken_{secrets.token_urlsafe(32)}"


def key_sha256(key: str) -> str:
    """Hex digest of a key, as UNSPOKEN_API_KEYS has it."""
    return hashlib.sha256(key.encode("utf-8", errors="replace")).hexdigest()


def parse_keys(text: str, *, requests_per_minute: float) -> tuple[ApiKey, ...]:
    """The keys of UNSPOKEN_API_KEYS, apart by blanks or commas. Raises InvalidConfig."""
    keys: dict[str, ApiKey] = {}
    for number, entry in enumerate(text.replace(",", " ").split(), start=1):
        found = _ENTRY.fullmatch(entry)
        # The entry itself is not told: somebody may have written the key where its digest belongs.
        if found is None:
            raise InvalidConfig(
                f"UNSPOKEN_API_KEYS: entry {number} is not NAME:SHA256 or NAME:SHA256:PER_MINUTE; "
                "`unspoken key NAME` writes one"
            )
        if found["name"] in keys:
            raise InvalidConfig(f"UNSPOKEN_API_KEYS names {found['name']} twice")
        rate = requests_per_minute if found["rate"] is None else float(found["rate"])
        keys[found["name"]] = ApiKey(
            name=found["name"], sha256=found["sha256"], requests_per_minute=rate
        )
    return tuple(keys.values())


class KeyRing:
    """Keys that are let in, each with a token bucket; shared by threads.

    now: seconds of a clock that never goes back.
    """

    def __init__(
        self, keys: Iterable[ApiKey], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = tuple(keys)
        self._buckets = {
            key.name: _Bucket(per_s=key.requests_per_minute / 60, now_s=now())
            for key in self._keys
            if key.requests_per_minute
        }
        self._now = now
        self._lock = threading.Lock()

    def admit(self, authorization: str | None) -> str:
        """Name of the key in an Authorization header. Raises Unauthorized, RateLimited."""
        scheme, _, sent = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not sent.strip():
            raise Unauthorized("an API key is needed: send Authorization: Bearer KEY")
        key = self._find(key_sha256(sent.strip()))
        bucket = self._buckets.get(key.name)
        if bucket is not None:
            with self._lock:
                wait_s = bucket.take(self._now())
            if wait_s > 0:
                raise RateLimited(
                    f"the key {key.name} has {key.requests_per_minute:.0f} requests a minute",
                    retry_after_s=wait_s,
                )
        return key.name

    def _find(self, digest: str) -> ApiKey:
        """Every key is compared, each in constant time: time tells nothing about any of them."""
        found: ApiKey | None = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        if found is None:
            raise Unauthorized("this API key is not known here")
        return found


class _Bucket:
    """Fills by `per_s` up to BURST_S of it, and at least one."""

    def __init__(self, *, per_s: float, now_s: float) -> None:
        self._per_s = per_s
        self._capacity = max(1.0, per_s * BURST_S)
        self._tokens = self._capacity
        self._at_s = now_s

    def take(self, now_s: float) -> float:
        """0 where there was a token; else the seconds until there is one."""
        self._tokens = min(self._capacity, self._tokens + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._per_s
