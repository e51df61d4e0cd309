"""API keys: names, digests and rate limits of callers, and a check of the key that we send.

    UNSPOKEN_API_KEYS="worker:9f86d0...:0 phone-app:60303a..."

Each entry has a key's name, its sha256 and, if it differs from the default, the number of requests
allowed per minute (0: no limit). A service stores only digests. A key has 256 random bits, so one
round of sha256 is enough.
"""

import hashlib
import hmac
import math
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from unspoken.errors import InvalidConfig, InvalidInput, RateLimited, Unauthorized

_NAME = r"[A-Za-z0-9_.-]{1,64}"
_ENTRY = re.compile(rf"(?P<name>{_NAME}):(?P<sha256>[0-9a-f]{{64}})(:(?P<rate>\d{{1,9}}))?")


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """An API key, identified by its digest. `requests_per_minute` is 0 for no limit."""

    name: str
    sha256: str
    requests_per_minute: float


def new_key() -> str:
    """Return a new random key."""
    return f"unspoken_{secrets.token_urlsafe(32)}"


def is_key_name(name: str) -> bool:
    """Return True if UNSPOKEN_API_KEYS can contain a key of this name."""
    return re.fullmatch(_NAME, name) is not None


def key_sha256(key: str) -> str:
    """Return the hex digest of a key, in the form that UNSPOKEN_API_KEYS uses."""
    return hashlib.sha256(key.encode("utf-8", errors="replace")).hexdigest()


def checked_key(key: str, *, name: str) -> str:
    """Return a key without surrounding whitespace, valid as a header value; "" if the key is empty.

    A CRLF file or a pasted line would otherwise put a control character into the header, and the
    HTTP library's error message quotes the whole header. Raises InvalidInput, whose message never
    contains the key.

    Args:
        key: The key as the user gave it.
        name: The option or variable that holds the key, for the message.
    """
    key = key.strip()
    for position, character in enumerate(key, start=1):
        if not "!" <= character <= "~":
            kind = "a blank" if character == " " else f"the character U+{ord(character):04X}"
            raise InvalidInput(
                f"{name} is not an API key: {kind} is at position {position}; a key has only "
                "visible ASCII characters. Copy it again, without quotes or a comment after it"
            )
    return key


def parse_keys(text: str, *, requests_per_minute: float) -> tuple[ApiKey, ...]:
    """Parse UNSPOKEN_API_KEYS: entries separated by whitespace or commas. Raises InvalidConfig."""
    keys: dict[str, ApiKey] = {}
    for number, entry in enumerate(text.replace(",", " ").split(), start=1):
        found = _ENTRY.fullmatch(entry)
        # The message does not repeat the entry, because it may hold a key instead of a digest.
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
    """The API keys that a service accepts, each with a token bucket. Thread-safe.

    `now` is a monotonic clock in seconds.
    """

    def __init__(
        self, keys: Iterable[ApiKey], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = tuple(keys)
        self._buckets = {
            key.name: _Bucket(per_minute=key.requests_per_minute, now_s=now())
            for key in self._keys
            if key.requests_per_minute
        }
        self._now = now
        self._lock = threading.Lock()

    def admit(self, authorization: str | None) -> str:
        """Return the name of an Authorization header's key. Raises Unauthorized, RateLimited."""
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
                    f"the key {key.name} may send {key.requests_per_minute:g} requests a minute; "
                    f"send the next one in {math.ceil(wait_s)} s",
                    retry_after_s=wait_s,
                )
        return key.name

    def _find(self, digest: str) -> ApiKey:
        """Return the key with this digest. Raises Unauthorized.

        Compares with every key in constant time, so that timing reveals nothing about the keys.
        """
        found: ApiKey | None = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        if found is None:
            raise Unauthorized("this service does not know this API key")
        return found


class _Bucket:
    """A token bucket: starts full, holds one minute of requests, refills at a constant rate."""

    def __init__(self, *, per_minute: float, now_s: float) -> None:
        self._per_s = per_minute / 60
        self._capacity = max(1.0, per_minute)
        self._tokens = self._capacity
        self._at_s = now_s

    def take(self, now_s: float) -> float:
        """Take a token. Return 0, or the seconds until a token is available."""
        self._tokens = min(self._capacity, self._tokens + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._per_s
