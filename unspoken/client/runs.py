"""Calls about labelling runs, as generators of effects; see `unspoken.client.calls`."""

import secrets
import time
from collections.abc import Callable

from pydantic import TypeAdapter

from unspoken.client.calls import Call, Effects, Exchange, checked_path, parsed
from unspoken.wire.runs import RunRequest, RunStatus

_STATUS = TypeAdapter(RunStatus)
_STATUSES = TypeAdapter(list[RunStatus])


class RunCalls:
    """The calls about runs, shared by `Client` and `AsyncClient`."""

    def __init__(self, begin: Callable[[], Exchange]) -> None:
        self._begin = begin

    def create(self, request: RunRequest) -> Effects[RunStatus]:
        """Queue a run.

        A request without an id gets one here, so that a repeated request returns the same run.
        """
        if request.run_id is None:
            request = request.model_copy(update={"run_id": _new_run_id()})
        # Not exclude_none, because None disables a filter.
        body = {"json": request.model_dump(mode="json", exclude_defaults=True)}
        return (yield from self._ask(Call(method="POST", path="/runs", body=body)))

    def read(self, run_id: str) -> Effects[RunStatus]:
        """Return the status of a run."""
        return (yield from self._ask(Call(method="GET", path=_path(run_id))))

    def list(self) -> Effects[list[RunStatus]]:
        """Return all runs, newest first."""
        response = yield from self._begin().send(Call(method="GET", path="/runs"))
        return parsed(_STATUSES, response)

    def retry_failed(self, run_id: str) -> Effects[RunStatus]:
        """Queue a new run of only the failed items. Not idempotent: a repeat makes another run."""
        path = f"{_path(run_id)}/retry-failed"
        return (yield from self._ask(Call(method="POST", path=path, is_repeatable=False)))

    def fork(self, run_id: str) -> Effects[RunStatus]:
        """Queue a new run with the same request. Not idempotent: a repeat makes another run."""
        path = f"{_path(run_id)}/fork"
        return (yield from self._ask(Call(method="POST", path=path, is_repeatable=False)))

    def cancel(self, run_id: str) -> Effects[RunStatus]:
        """Stop starting chunks of a run."""
        return (yield from self._ask(Call(method="DELETE", path=_path(run_id))))

    def _ask(self, call: Call) -> Effects[RunStatus]:
        return parsed(_STATUS, (yield from self._begin().send(call)))


def _path(run_id: str) -> str:
    return checked_path("runs", run_id)


def _new_run_id() -> str:
    """Return a new id in the gateway's format."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + "-" + secrets.token_hex(3)
