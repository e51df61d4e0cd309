"""Which failures pass, and how long to wait for it."""

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
    """How often a call is tried, and the pauses between.

    tries: of one call, the first included; 1 tries nothing again. A pause doubles from
    `first_pause_s` to `max_pause_s`; up to half of it is cut off at random, so that callers who
    were refused together do not come back together. What Retry-After asks for is waited in full.
    """

    tries: int = 5
    first_pause_s: float = 0.5
    max_pause_s: float = 20.0

    def pause_s(self, num_tried: int, error: UnspokenError) -> float:
        """Seconds to wait after `num_tried` tries, the last of which failed so."""
        longest = min(self.first_pause_s * 2.0 ** (num_tried - 1), self.max_pause_s)
        drawn = longest * random.uniform(0.5, 1.0)
        asked_s = error.retry_after_s if isinstance(error, Overloaded | NotReady) else 0.0
        return drawn if drawn > asked_s else asked_s + drawn / 4


DEFAULT_RETRIES = Retries()


def may_pass(error: UnspokenError, *, is_repeatable: bool) -> bool:
    """Whether the same request may succeed later.

    is_repeatable: asking twice is as asking once. Else only a request that was surely not acted on
    is sent again: one that was refused for the time being, or that nobody read.
    """
    if isinstance(error, Overloaded | NotReady | Unreachable):
        return True
    return isinstance(error, ServiceUnavailable) and is_repeatable


def broken_off(error: httpx.RequestError, *, url: str) -> UnspokenError:
    """Return the error of a request that got no whole reply; no secret of `url` is in it."""
    told, url = reason_of(error), redact(url)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Unreachable(f"no gateway answers at {url}: {told}; `unspoken up` starts one")
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceeded(f"{url} did not answer in time")
    return ServiceUnavailable(f"{url} broke off: {told}")
