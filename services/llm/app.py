"""The HTTP face of the prompter: `POST /propose`, captions in, phrases out."""

from dataclasses import dataclass

from fastapi import FastAPI

from unspoken.batching import InferenceThread, MicroBatcher
from unspoken.ports import Prompter
from unspoken.schemas import Proposal, ProposeReply, ProposeRequest
from unspoken.server import create_service
from unspoken.timings import Timings

MAX_BATCH = 8


@dataclass(frozen=True)
class _Item:
    """One caption of a request; captions asked with the same templates share a batch."""

    caption: str
    templates: tuple[str, ...] | None


def create_app(
    engine: Prompter,
    *,
    thread: InferenceThread | None = None,
    max_batch: int = MAX_BATCH,
    max_queue: int = 64,
    request_timeout_s: float = 120.0,
) -> FastAPI:
    """The service over any Prompter.

    thread: the device's inference thread; one of its own when none is shared.
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
        bucket=lambda item: item.templates,
    )
    app = create_service(
        "llm",
        description="Asks a language model what a caption names and what it leaves unspoken.",
        models=lambda: [engine.model],
        batchers=[batcher],
        thread=thread,
        warm_up=lambda: engine.propose(["A red car parked in front of a house"]),
    )

    @app.post("/propose", tags=["prompter"])
    async def propose(request: ProposeRequest) -> ProposeReply:
        """Phrases of each caption, named ones first, each with its sources.

        An unknown template is 422; without `templates` the service's own are asked.
        """
        timings = Timings()
        templates = None if request.templates is None else tuple(request.templates)
        items = [_Item(caption, templates) for caption in request.captions]
        with timings.measure("propose"):
            proposals = await batcher.submit_all(items, timeout_s=request_timeout_s)
        return ProposeReply(proposals=proposals, model=engine.model, timings_ms=timings.as_ms())

    return app
