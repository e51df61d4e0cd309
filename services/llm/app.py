"""The HTTP app of the prompter: `POST /propose` takes captions and returns phrases."""

from dataclasses import dataclass

from fastapi import FastAPI, Request

from unspoken.config.services import LLM
from unspoken.http.admission import Admission
from unspoken.http.app import create_service
from unspoken.http.batching import MAX_QUEUE_BYTES, InferenceThread, MicroBatcher
from unspoken.http.uploads import json_request_body, read_json
from unspoken.ports import Prompter
from unspoken.timings import Timings
from unspoken.wire.proposals import Proposal, ProposeReply, ProposeRequest

MAX_BATCH = 8
NO_SIZES = ("cpu", "remote")
"""Devices that prepare nothing by the size of a batch."""
LONG_CAPTION = (
    "people with umbrellas and bicycles wait at a crossing beside a bus stop, a kiosk, two parked "
    "vans and a row of old brick houses with balconies, while a tram passes under the wires"
)


@dataclass(frozen=True)
class _Item:
    """One caption of a request; captions with the same templates share a batch."""

    caption: str
    templates: tuple[str, ...] | None


def create_app(
    engine: Prompter,
    *,
    thread: InferenceThread | None = None,
    max_batch: int = MAX_BATCH,
    max_queue: int = 64,
    max_queue_bytes: int = MAX_QUEUE_BYTES,
    request_timeout_s: float = 120.0,
) -> FastAPI:
    """Create the llm app over any Prompter.

    thread: the device's inference thread. None: create a new one.
    """
    thread = thread or InferenceThread(name="llm")

    def run_batch(items: list[_Item]) -> list[Proposal]:
        captions = [item.caption for item in items]
        return engine.propose(captions, templates=items[0].templates)

    batcher: MicroBatcher[_Item, Proposal] = MicroBatcher(
        run_batch,
        name="propose",
        thread=thread,
        max_batch=max_batch,
        max_queue=max_queue,
        max_queue_bytes=max_queue_bytes,
        bucket=lambda item: item.templates,
        size_of=lambda item: len(item.caption),
    )

    def warm_up() -> None:
        """Answer a short caption, which also computes the prefixes of the default templates.

        A GPU also runs the largest batch, of captions as long as the longest alt texts, because its
        kernels and its memory are prepared by size. A CPU would take seconds and gain nothing.
        """
        engine.propose(["A cup"])
        if engine.model.device not in NO_SIZES:
            engine.propose([f"{number} {LONG_CAPTION}" for number in range(max_batch)])

    app = create_service(
        "llm",
        description=LLM.summary,
        models=lambda: [engine.model],
        batchers=[batcher],
        thread=thread,
        warm_up=warm_up,
        admissions={"/propose": Admission(batcher, max_bytes=max_queue_bytes)},
        request_timeout_s=request_timeout_s,
    )

    @app.post(
        "/propose",
        tags=["prompter"],
        openapi_extra={"requestBody": json_request_body(ProposeRequest)},
    )
    async def propose(request: Request) -> ProposeReply:
        """Propose phrases for each caption: named ones first, each with its sources.

        An unknown template is answered 422. Without `templates`, the service's default templates
        are used.
        """
        timings = Timings()
        asked = await read_json(request, ProposeRequest)
        templates = None if asked.templates is None else tuple(asked.templates)
        items = [_Item(caption, templates) for caption in asked.captions]
        with timings.computing("propose") as own:
            proposals = await batcher.submit_all(items, timeout_s=request_timeout_s, own=own)
        return ProposeReply(proposals=proposals, model=engine.model, timings_ms=timings.as_ms())

    return app
