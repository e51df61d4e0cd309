"""Every error that Unspoken raises for its caller, in one tree.

UnspokenError
  InvalidInput            the request itself is wrong (422)
    NotFetchable          a picture's URL that is not allowed, or gave none (422)
    NotAnImage            the bytes are no picture that we read (415)
    TooLarge              body, picture or list over its bound (413)
    TornArchive           a tar that ends before its last member does (422)
  NotFound                an id that nobody knows (404)
  Conflict                the id exists with another content, or a run was changed (409)
    ModelsChanged         another model answers than the run was planned with
    PlanDamaged           a run's plan is not readable, or not the one that was written
  Unauthorized            no API key, or one that is not known (401)
  Forbidden               a page of another site asks, or a foreign Host (403)
  Overloaded              the queue is full; carries `retry_after_s` (429)
    RateLimited           this API key has asked too often (429)
  NotReady                loading or draining (503)
    SourceAway            a run's source is missing for now
  DeadlineExceeded        the request's time is over (504)
  EngineFailure           the model failed on this item (500)
  ServiceUnavailable      a service did not answer a client of ours (502)
    Unreachable           nobody listens there: the request was never read
  InvalidConfig           settings, profile or weights are wrong: a process stops at start
    MissingWeights        a weight file is not there, or its hash differs

`unspoken.error_replies` holds the one table from here to HTTP, `unspoken.clients.http_error` the
way back.
"""

from collections.abc import Mapping


class UnspokenError(Exception):
    """Root of the tree: `code` is the word on the wire, `details` goes into the reply's body."""

    code = "internal"

    def __init__(self, message: str, *, details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = dict(details or {})


class InvalidInput(UnspokenError):
    """The request is wrong; sending it again will not help."""

    code = "invalid_input"


class NotAnImage(InvalidInput):
    """The bytes are not a picture in a format that we read."""

    code = "not_an_image"


class NotFetchable(InvalidInput):
    """A picture's URL is not allowed here, or gave no picture."""

    code = "not_fetchable"


class TooLarge(InvalidInput):
    """A body, a picture or a list is over its bound."""

    code = "too_large"


class TornArchive(InvalidInput):
    """A tar file ends before its last member does."""


class NotFound(UnspokenError):
    """Nothing has this id."""

    code = "not_found"


class Conflict(UnspokenError):
    """The id is taken, or what was planned has changed since."""

    code = "conflict"


class ModelsChanged(Conflict):
    """Another model, or other prompts, answer than a run was planned with."""

    code = "models_changed"


class PlanDamaged(Conflict):
    """The files of a run's plan are not what was written."""

    code = "plan_damaged"


class Overloaded(UnspokenError):
    """The queue is full: come back after `retry_after_s` seconds."""

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
    """This API key has asked more often than it may."""

    code = "rate_limited"


class Unauthorized(UnspokenError):
    """No API key was sent, or one that the service does not know."""

    code = "unauthorized"


class Forbidden(UnspokenError):
    """A web page of another site sends the request, or it names a host that is not this one."""

    code = "forbidden"


class NotReady(UnspokenError):
    """The process loads its weights or is about to end: come back after `retry_after_s`."""

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
    """A run's source, or its disk, is not there: the run waits for it."""

    code = "source_away"


class DeadlineExceeded(UnspokenError):
    """The request's time was over before its work was done."""

    code = "deadline_exceeded"


class EngineFailure(UnspokenError):
    """The model failed on this item alone."""

    code = "engine_failure"


class ServiceUnavailable(UnspokenError):
    """A service that we asked did not answer."""

    code = "service_unavailable"


class Unreachable(ServiceUnavailable):
    """Nobody listens there: the request was never read, and cannot be to blame."""


class InvalidConfig(UnspokenError):
    """Settings, a profile or a weight file do not fit: the process stops at start."""

    code = "invalid_config"


class MissingWeights(InvalidConfig):
    """A weight file is absent, or its sha256 is not the one that models.yaml names."""

    code = "missing_weights"
