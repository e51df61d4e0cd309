"""The gateway's routes: create, follow, retry, fork and cancel runs; proxy masks to the segmenter.

`POST /runs` writes run.json and answers at once. The dispatcher, a separate process, finds the file
and executes the run. The gateway therefore needs no broker, and a restart loses nothing.
"""

import logging
import os
import pathlib
from typing import Annotated

from fastapi import FastAPI, Header, Path, Request, Response
from sse_starlette import EventSourceResponse

from services.gateway.events import end_streams, event_response
from services.gateway.proxy import Proxy, passing_router
from services.gateway.settings import GatewaySettings
from unspoken.config.services import GATEWAY, SERVICES, Service
from unspoken.errors import InvalidConfig, NotReady
from unspoken.http.admission import Admission
from unspoken.http.app import create_service, in_decode_pool
from unspoken.http.batching import InferenceThread
from unspoken.http.error_replies import error_response
from unspoken.http.pages import Link, Section
from unspoken.http.uploads import json_request_body, read_json
from unspoken.logs import fields
from unspoken.runs.store import (
    cancel_run,
    create_run,
    fork_run,
    list_runs,
    read_status,
    retry_failed,
)
from unspoken.wire.runs import RunRequest, RunStatus

logger = logging.getLogger(__name__)

RunId = Annotated[str, Path(max_length=128)]
LastEventId = Annotated[str | None, Header(max_length=256)]
_NEW_RUN = json_request_body(
    RunRequest,
    examples={
        "source": {"summary": "A folder of shards", "value": {"source": "shards"}},
        "items": {
            "summary": "A picture inline",
            "value": {
                "items": [
                    {
                        "caption": "A red car in front of a house",
                        "image": {"base64": "iVBORw0KGgo..."},
                    }
                ]
            },
        },
    },
)


def create_app(settings: GatewaySettings, *, passing: Proxy | None = None) -> FastAPI:
    """Create the gateway app over the data and runs folders of the settings.

    passing: the proxy to the segmenter. None: build it from the settings.
    """
    data_dir, runs_dir = settings.data_dir, settings.runs_dir
    passing = passing or Proxy(
        settings.segmenter_url,
        timeout_s=settings.segmenter_timeout_s,
        key=settings.client_key,
    )

    def check_folders() -> None:
        runs_dir.mkdir(parents=True, exist_ok=True)
        data_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(runs_dir, os.W_OK):
            raise InvalidConfig(f"the runs folder {runs_dir} cannot be written")

    app = create_service(
        "gateway",
        description=GATEWAY.summary,
        models=passing.list_models,
        batchers=[],
        thread=InferenceThread(name="gateway"),
        warm_up=check_folders,
        admissions=_admissions(settings),
        request_timeout_s=settings.request_timeout_s,
        max_body_bytes=settings.max_body_mib * 1024 * 1024,
        on_stop=end_streams,
        on_close=passing.close,
        sections=lambda request: _sections(request, runs_dir),
    )
    app.include_router(passing_router(passing))

    # Read and write files in the decode pool, because a slow disk must not block the event loop.
    @app.post("/runs", status_code=202, tags=["runs"], openapi_extra={"requestBody": _NEW_RUN})
    async def create(request: Request, response: Response) -> RunStatus:
        """Queue a run over a source below the data folder, or over items sent inline."""
        asked = await read_json(request, RunRequest)
        status = await in_decode_pool(create_run, data_dir, runs_dir, asked)
        response.headers["Location"] = f"/runs/{status.run_id}"
        logger.info("queued", extra=fields(run=status.run_id))
        return status

    @app.get("/runs", tags=["runs"])
    async def list_all() -> list[RunStatus]:
        """Return all runs, newest first."""
        return await in_decode_pool(list_runs, runs_dir)

    @app.get("/runs/{run_id}", tags=["runs"])
    async def read(run_id: RunId) -> RunStatus:
        """Return the status and progress of a run."""
        return await in_decode_pool(read_status, runs_dir, run_id)

    streams = Admission(max_requests=settings.max_streams)

    @app.get(
        "/runs/{run_id}/events",
        tags=["runs"],
        response_class=EventSourceResponse,
        responses={204: {"description": "Last-Event-ID is the run's last event: do not reconnect"}},
    )
    async def events(run_id: RunId, last_event_id: LastEventId = None) -> Response:
        """Stream the run's status as server-sent events.

        A `status` event follows each change; one `end` event follows when the run has ended.
        """

        async def look() -> RunStatus:
            return await in_decode_pool(read_status, runs_dir, run_id)

        return event_response(
            await look(),
            look,
            last_id=last_event_id,
            poll_s=settings.poll_s,
            heartbeat_s=settings.heartbeat_s,
            streams=streams,
        )

    _add_verbs(app, runs_dir)
    app.add_exception_handler(OSError, _on_disk_error)
    return app


def _sections(request: Request, runs_dir: pathlib.Path) -> list[Section]:
    """Return the gateway's part of its page: the runs, and the other services.

    The runs folder is shown only without API keys, because the page is open to everyone.
    """
    app = request.app
    folder = "" if app.state.keys is not None else f"; their files are in {runs_dir.resolve()}"
    runs = Link(text="Runs", href="runs", remark=f"all runs, newest first, as JSON{folder}")
    others = [each for each in SERVICES if each.name != GATEWAY.name]
    return [
        Section(title="Runs", links=[runs]),
        Section(title="Other services", links=[_service_link(request, each) for each in others]),
    ]


def _service_link(request: Request, service: Service) -> Link:
    """Return a link to a service of this process; without a link to one that runs elsewhere."""
    port = request.app.state.ports.get(service.name)
    if port is None:
        where = f" It runs in another process, by default at port {service.port}."
        return Link(text=service.name, remark=service.summary + where)
    address = request.url.replace(port=port, path="/", query="")
    return Link(text=service.name, href=str(address), remark=service.summary)


def _on_disk_error(request: Request, error: Exception) -> Response:
    """Answer 503 if a file in the runs or data folder cannot be used; this may be temporary."""
    assert isinstance(error, OSError), "registered for it alone"
    logger.warning("disk error at %r: %s", request.url.path, error)
    return error_response(NotReady(f"a file cannot be used: {error.strerror or error}"))


def _admissions(settings: GatewaySettings) -> dict[str, Admission]:
    """Return one admission limit for runs and another for the proxied routes.

    They are separate because many image requests must not prevent a run from being queued.
    """
    max_bytes = int(settings.max_queue_mib * 1024 * 1024)
    runs, masks = (
        Admission(max_requests=settings.max_requests, max_bytes=max_bytes) for _ in range(2)
    )
    forwarded = dict.fromkeys(("/segment", "/images", "/text-embeddings"), masks)
    return {"/runs": runs, **forwarded}


def _add_verbs(app: FastAPI, runs_dir: pathlib.Path) -> None:
    """Add the routes that act on an existing run: retry-failed, fork and cancel."""

    @app.post("/runs/{run_id}/retry-failed", status_code=202, tags=["runs"])
    async def retry(run_id: RunId, response: Response) -> RunStatus:
        """Queue a new run of only the failed items."""
        status = await in_decode_pool(retry_failed, runs_dir, run_id)
        response.headers["Location"] = f"/runs/{status.run_id}"
        return status

    @app.post("/runs/{run_id}/fork", status_code=202, tags=["runs"])
    async def fork(run_id: RunId, response: Response) -> RunStatus:
        """Queue a new run of the same request, planned with the models that are served now."""
        status = await in_decode_pool(fork_run, runs_dir, run_id)
        response.headers["Location"] = f"/runs/{status.run_id}"
        return status

    @app.delete("/runs/{run_id}", tags=["runs"])
    async def cancel(run_id: RunId) -> RunStatus:
        """Cancel a run: no further chunk is started; committed chunks stay."""
        return await in_decode_pool(cancel_run, runs_dir, run_id)
