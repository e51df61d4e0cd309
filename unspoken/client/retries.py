"""Decide which failed requests to retry, and after which pause."""

import random
from dataclasses import dataclass

import httpx

from unspoken.errors import (
    DeadlineExceeded,
    NotReady,
    Overloaded,
    ServiceUnavailable,
    Unreachable,
    UnspokenError,
)
from unspoken.safe_text import reason_of, redact


@dataclass(frozen=True, kw_only=True)
class Retries:
    """Number of attempts of a call, and the pauses between them.

    `tries` counts all attempts; 1 disables retries. A pause doubles from `first_pause_s` to
    `max_pause_s`. Up to half of it is subtracted at random, so that callers that were refused
    together do not retry together. A Retry-After is waited in full.
    """

    tries: int = 5
    first_pause_s: float = 0.5
    max_pause_s: float = 20.0

    def pause_s(self, num_tried: int, error: UnspokenError) -> float:
        """Return the seconds to wait after attempt `num_tried`, which raised `error`."""
        longest = min(self.first_pause_s * 2.0 ** (num_tried - 1), self.max_pause_s)
        drawn = longest * random.uniform(0.5, 1.0)
        asked_s = error.retry_after_s if isinstance(error, Overloaded | NotReady) else 0.0
        return drawn if drawn > asked_s else asked_s + drawn / 4


DEFAULT_RETRIES = Retries()


def may_pass(error: UnspokenError, *, is_repeatable: bool) -> bool:
    """Return True if a retry of the same request may succeed.

    `is_repeatable`: the request is idempotent. A request that is not idempotent is sent again only
    if it was certainly not processed: it was refused temporarily, or nobody read it.
    """
    if isinstance(error, Overloaded | NotReady | Unreachable):
        return True
    return isinstance(error, ServiceUnavailable) and is_repeatable


def broken_off(error: httpx.RequestError, *, url: str) -> UnspokenError:
    """Return the error of a request that got no complete reply, without secrets of `url`."""
    told, url = reason_of(error), redact(url)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Unreachable(f"no gateway answers at {url}: {told}; `unspoken up` starts one")
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceeded(f"{url} did not answer in time")
    return ServiceUnavailable(f"the connection to {url} was lost: {told}")
