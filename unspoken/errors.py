"""Every error that Unspoken raises for its caller, in one tree.

UnspokenError
  InvalidInput            the request itself is invalid
    NotFetchable          a picture's URL is not allowed, or returned no picture
    NotAnImage            the bytes are not a picture in a supported format
    TooLarge              a body, picture or list exceeds its limit
    TornArchive           a tar file is truncated within a member
  NotFound                unknown id
  Conflict                the id exists with other content, or a run was changed
    ModelsChanged         a service now runs another model than the run was planned with
    PlanDamaged           a run's plan is unreadable or was modified
  Unauthorized            missing or unknown API key
  Forbidden               a cross-site request, or an unknown Host
  Overloaded              the queue is full; carries `retry_after_s`
    RateLimited           this API key exceeded its rate limit
  NotReady                the service is loading or draining
    SourceAway            a run's source is temporarily missing
  DeadlineExceeded        the request's deadline has passed
  EngineFailure           the model failed on this item
  ServiceUnavailable      a service did not answer our client
    Unreachable           connection failed: the request was never read
  InvalidConfig           invalid settings, profile or weights: a process stops at start
    MissingWeights        a weight file is missing, or its hash differs

`unspoken.wire.error_table` has the HTTP status of each error.
"""

from collections.abc import Mapping


class UnspokenError(Exception):
    """Root of the error tree. Replies contain `code` and `details`."""

    code = "internal"

    def __init__(self, message: str, *, details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = dict(details or {})


class InvalidInput(UnspokenError):
    """The request is invalid; a retry will not help."""

    code = "invalid_input"


class NotAnImage(InvalidInput):
    """The bytes are not a picture in a supported format."""

    code = "not_an_image"


class NotFetchable(InvalidInput):
    """A picture's URL is not allowed here, or returned no picture."""

    code = "not_fetchable"


class TooLarge(InvalidInput):
    """A body, a picture or a list exceeds its limit."""

    code = "too_large"


class TornArchive(InvalidInput):
    """A tar file is truncated: it ends before its last member does."""

    code = "torn_archive"


class NotFound(UnspokenError):
    """No object has this id."""

    code = "not_found"


class Conflict(UnspokenError):
    """The id is taken, or what was planned has changed since."""

    code = "conflict"


class ModelsChanged(Conflict):
    """A service now runs another model, or uses other prompts, than the run was planned with."""

    code = "models_changed"


class PlanDamaged(Conflict):
    """The files of a run's plan differ from what was written."""

    code = "plan_damaged"


class Overloaded(UnspokenError):
    """The queue is full: retry after `retry_after_s` seconds."""

    code = "overloaded"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float = 1.0,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message, details=details)
        self.retry_after_s = retry_after_s


class RateLimited(Overloaded):
    """This API key has sent more requests than it may."""

    code = "rate_limited"


class Unauthorized(UnspokenError):
    """The API key is missing or unknown."""

    code = "unauthorized"


class Forbidden(UnspokenError):
    """A page of another site sent the request, or the Host is not a name of this service."""

    code = "forbidden"


class NotReady(UnspokenError):
    """The process is loading its weights or shutting down: retry after `retry_after_s` seconds."""

    code = "not_ready"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float = 5.0,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message, details=details)
        self.retry_after_s = retry_after_s


class SourceAway(NotReady):
    """A run's source, or its disk, is temporarily missing; the run waits for it."""

    code = "source_away"


class DeadlineExceeded(UnspokenError):
    """The request's deadline passed before its work was done."""

    code = "deadline_exceeded"


class EngineFailure(UnspokenError):
    """The model failed on this item only."""

    code = "engine_failure"


class ServiceUnavailable(UnspokenError):
    """A service that we called did not answer."""

    code = "service_unavailable"


class Unreachable(ServiceUnavailable):
    """The connection failed. The request was never read, so it cannot be the cause."""

    code = "unreachable"


class InvalidConfig(UnspokenError):
    """Settings, a profile or a weight file are invalid: the process stops at start."""

    code = "invalid_config"


class MissingWeights(InvalidConfig):
    """A weight file is missing, or its sha256 differs from the one in models.yaml."""

    code = "missing_weights"
