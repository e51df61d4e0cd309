"""`python -m bench.http`: overhead of HTTP for a warm `POST /segment` with the small weights.

A small-world picture with a ready mask bank is queried for ten texts, with masks as run lengths.
The same query goes alternately to the engine in this process and over HTTP to a service on the
loopback interface, so that other load on the machine affects all alike. The engine's call ends with
masks and scores. All other time is overhead: the request's body, queue and threads, the reply's
text, and httpx as the caller.

engine_p50_ms           the call in process
overhead_p50_ms, _p95   additional time of `POST /segment` by the picture's id, at the same
                        percentile (aim: at most 5 ms at p50)
sent_overhead_p50_ms    the same if each request sends the picture, as a form
gateway_overhead_p50_ms the same by id and through a gateway
client_overhead_p50_ms  the same with `unspoken.client`, which parses the reply into its types
stages_ms               median time of each stage of the request, as reported by the service
reply_bytes             size of one reply
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
import torch
from PIL import Image

from bench.shared.served_segmenter import serving
from services.gateway.app import create_app as gateway_app
from services.gateway.settings import GatewaySettings
from services.segmenter.app import create_app
from services.segmenter.cache.cached_image import CachedImage
from services.segmenter.engine import build_engine as build_text_encoder
from services.segmenter.loading import build_segmenter
from services.segmenter.segment_engine import SegmentEngine
from services.segmenter.settings import SegmenterSettings
from training.evaluation.pictures import scene_pictures
from unspoken.client import Client
from unspoken.http.batching import InferenceThread
from unspoken.imaging.images import Picture, decode_picture
from unspoken.ports import TextEncoder
from unspoken.wire.segment import SegmentQuery, SegmentQuestion

NUM_TEXTS = 10
NUM_ROUNDS = 300
SCENE_SEED = 9000
WORDS = ("car", "tree", "house", "dog", "cat", "bird", "person", "wheel", "flower", "chair")

Ask = Callable[[], object]


def main() -> None:
    """Measure; print the figures as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS, help="questions of each way")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = SegmenterSettings()
    text_encoder = build_text_encoder(settings)
    engine = build_segmenter(settings, text_encoder)
    assert engine is not None, "the profile has a segmenter"
    picture, texts = scene()
    image = with_bank(engine, picture)
    figures = http_figures(engine, text_encoder, image, texts, num_rounds=arguments.rounds)
    print(json.dumps({"bench": "http", "figures": figures}))


def http_figures(
    engine: SegmentEngine,
    text_encoder: TextEncoder,
    image: CachedImage,
    texts: Sequence[str],
    *,
    num_rounds: int,
) -> dict[str, object]:
    """Measure all kinds of calls alternately, on one engine and a picture with a ready bank."""
    app = create_app(
        text_encoder,
        segmenter=engine,
        thread=InferenceThread(name="bench", initializer=lambda: torch.set_num_threads(1)),
    )
    queries = tuple(SegmentQuery(text=text) for text in texts)
    question = SegmentQuestion(queries=queries, method="bank")
    by_id = json.dumps({**question.model_dump(mode="json"), "image": {"id": image.id}}).encode()
    with ExitStack() as stack:
        url = stack.enter_context(serving(app))
        gateway_url = stack.enter_context(gateway_before(url))
        http = stack.enter_context(httpx.Client(base_url=url, trust_env=False))
        gateway = stack.enter_context(httpx.Client(base_url=gateway_url, trust_env=False))
        client = stack.enter_context(Client(url))
        ways: dict[str, Ask] = {
            "engine": lambda: engine.queries.answer(
                image, engine.planner.plan(question, size_hw=image.size_hw), None
            ),
            "http": lambda: posted(http, by_id),
            "sent": lambda: posted_form(http, image.encoded, question),
            "gateway": lambda: posted(gateway, by_id),
            "client": lambda: client.segment(image.encoded, *texts, method="bank"),
        }
        took_ms = in_turn(ways, num_rounds=num_rounds)
        replies = [posted(http, by_id) for _ in range(32)]
    base = took_ms["engine"]
    return {
        "engine_p50_ms": percentile(base, 50),
        "overhead_p50_ms": over(took_ms["http"], base, 50),
        "overhead_p95_ms": over(took_ms["http"], base, 95),
        "sent_overhead_p50_ms": over(took_ms["sent"], base, 50),
        "gateway_overhead_p50_ms": over(took_ms["gateway"], base, 50),
        "client_overhead_p50_ms": over(took_ms["client"], base, 50),
        "stages_ms": stages_ms(replies),
        "reply_bytes": len(replies[0].content),
        "rounds": num_rounds,
    }


def scene() -> tuple[Picture, list[str]]:
    """Return a small-world picture as a JPEG, and ten texts, starting with its labels."""
    (drawn,) = scene_pictures(num_scenes=1, first_seed=SCENE_SEED, style="twemoji")
    buffer = io.BytesIO()
    Image.fromarray(drawn.pixels).save(buffer, format="JPEG", quality=90)
    shown = (each.label for each in drawn.objects)
    return decode_picture(buffer.getvalue()), list(dict.fromkeys([*shown, *WORDS]))[:NUM_TEXTS]


def with_bank(engine: SegmentEngine, picture: Picture) -> CachedImage:
    """Embed the picture, build its bank and return the cached image."""
    image = engine.embed(picture)
    for _ in engine.bank_steps(image):
        pass
    engine.cache.put(image)
    return image


@contextmanager
def gateway_before(segmenter_url: str) -> Iterator[str]:
    """Run a gateway that proxies to this segmenter; yield its address."""
    with tempfile.TemporaryDirectory() as folder:
        settings = GatewaySettings(
            data_dir=Path(folder) / "data",
            runs_dir=Path(folder) / "runs",
            segmenter_url=segmenter_url,
        )
        with serving(gateway_app(settings)) as url:
            yield url


def posted(http: httpx.Client, body: bytes) -> httpx.Response:
    """Post one query with a prepared body."""
    response = http.post("/segment", content=body, headers={"Content-Type": "application/json"})
    return response.raise_for_status()


def posted_form(http: httpx.Client, encoded: bytes, question: SegmentQuestion) -> httpx.Response:
    """Post one query as a form with the picture's file."""
    fields = {"queries": json.dumps(question.model_dump(mode="json")["queries"]), "method": "bank"}
    response = http.post("/segment", files={"image": encoded}, data=fields)
    return response.raise_for_status()


def in_turn(ways: dict[str, Ask], *, num_rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of each kind of call, one per round, after three warm-up rounds."""
    took_ms: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(-3, num_rounds):
        for name, ask in ways.items():
            started = time.perf_counter()
            ask()
            ended = time.perf_counter()
            if round_number >= 0:
                took_ms[name].append((ended - started) * 1000)
    return took_ms


def percentile(took_ms: Sequence[float], rank: float) -> float:
    """Return a percentile in milliseconds, rounded to two places."""
    return round(float(np.percentile(took_ms, rank)), 2)


def over(took_ms: Sequence[float], base_ms: Sequence[float], rank: float) -> float:
    """Return the difference of both at a percentile, in milliseconds."""
    return round(float(np.percentile(took_ms, rank) - np.percentile(base_ms, rank)), 2)


def stages_ms(replies: Sequence[httpx.Response]) -> dict[str, float]:
    """Return the median of each stage that the service reports."""
    told = [reply.json()["timings_ms"] for reply in replies]
    return {name: round(statistics.median(each[name] for each in told), 2) for name in told[0]}


if __name__ == "__main__":
    main()
