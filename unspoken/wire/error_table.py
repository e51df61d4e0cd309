"""The error table: the HTTP status, code and title of every error of the tree.

Services reply by it, their OpenAPI describes it, and the clients convert a reply back by it. A new
error is one class in `unspoken.errors` and one line here.
"""

from collections.abc import Iterable
from typing import NamedTuple

from unspoken.errors import (
    Conflict,
    DeadlineExceeded,
    EngineFailure,
    Forbidden,
    InvalidConfig,
    InvalidInput,
    MissingWeights,
    ModelsChanged,
    NotAnImage,
    NotFetchable,
    NotFound,
    NotReady,
    Overloaded,
    PlanDamaged,
    RateLimited,
    ServiceUnavailable,
    SourceAway,
    TooLarge,
    TornArchive,
    Unauthorized,
    Unreachable,
    UnspokenError,
)


class ErrorEntry(NamedTuple):
    """One error: its class, HTTP status, and title in OpenAPI."""

    error: type[UnspokenError]
    status: int
    title: str

    @property
    def code(self) -> str:
        """The `error` of a reply's body."""
        return self.error.code


ERROR_TABLE = (
    # The first entry of a status stands for replies with that status and an unknown code.
    ErrorEntry(Unauthorized, 401, "the API key is missing or unknown"),
    ErrorEntry(Forbidden, 403, "a foreign Host, or a cross-site request"),
    ErrorEntry(NotFound, 404, "no object has this id"),
    ErrorEntry(Conflict, 409, "the id is taken, or the loaded models cannot do this"),
    ErrorEntry(ModelsChanged, 409, "a service runs another model than the run was planned with"),
    ErrorEntry(PlanDamaged, 409, "the run's plan is damaged"),
    ErrorEntry(TooLarge, 413, "a body, a picture or a list exceeds its limit"),
    ErrorEntry(NotAnImage, 415, "the bytes are not a picture in a supported format"),
    ErrorEntry(InvalidInput, 422, "the request is invalid"),
    ErrorEntry(NotFetchable, 422, "a picture's URL is not allowed, or returned no picture"),
    ErrorEntry(TornArchive, 422, "a tar file is truncated"),
    ErrorEntry(Overloaded, 429, "the queue is full"),
    ErrorEntry(RateLimited, 429, "this API key exceeded its rate limit"),
    ErrorEntry(EngineFailure, 500, "the model failed on this item"),
    ErrorEntry(InvalidConfig, 500, "a setting, a profile or a weight file is invalid"),
    ErrorEntry(MissingWeights, 500, "a weight file is missing or has other content"),
    ErrorEntry(ServiceUnavailable, 502, "a service behind this one did not answer"),
    ErrorEntry(Unreachable, 502, "no connection to a service behind this one"),
    ErrorEntry(NotReady, 503, "the service is loading or draining"),
    ErrorEntry(SourceAway, 503, "a run's source is temporarily missing"),
    ErrorEntry(DeadlineExceeded, 504, "the request's deadline passed"),
)
_STATUS_OF = {entry.error: entry.status for entry in ERROR_TABLE}


def status_of(error: UnspokenError) -> int:
    """Return the HTTP status of an error, by its nearest class in the table; 500 if none is."""
    return next((_STATUS_OF[kind] for kind in type(error).__mro__ if kind in _STATUS_OF), 500)


def error_class(status: int, code: str) -> type[UnspokenError]:
    """Return the class of an error reply: by its code, or by its status if the code is unknown."""
    entries = [entry for entry in ERROR_TABLE if entry.status == status]
    for entry in entries:
        if entry.code == code:
            return entry.error
    if entries:
        return entries[0].error
    return InvalidInput if status < 500 else EngineFailure


def describe_status(status: int) -> str:
    """Return the codes and titles of a status, for OpenAPI."""
    entries: Iterable[ErrorEntry] = (entry for entry in ERROR_TABLE if entry.status == status)
    return "; ".join(f"`{entry.code}`: {entry.title}" for entry in entries)
