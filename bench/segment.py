"""`python -m bench.segment`: cost of text queries on a picture with a mask bank, and without.

Weights are random. Masks of random networks are noise, which the filters would drop. Therefore the
bench draws discs for clicks, which costs some time. One in four masks of the prepared bank gets a
vector near a queried text (`hits_of_100` counts the hits of a request); the other vectors are
noise. All else is real: the service over HTTP on this machine, the text encoder, the network's
work.

Figures with a ready bank are medians over HTTP. `query_1_ms` and `query_100_ms` are milliseconds of
one query and of a hundred, by the picture's id, with cached texts and without masks in the reply.
`queries_100_over_1` is their ratio. It is also measured if each request sends the picture
(`..._sent`), with new texts (`..._uncached`), and with run lengths in the reply (`..._rle`).

At the real sizes (ViT-B, Swin-T): `warm_over_loop` is the time of a simple loop for ten texts
(detector and SAM for each request) divided by that of a request with a ready bank.
`cold_over_parts` is the CPU time of building a bank, divided by that of the encoder and of the same
clicks decoded one by one.

With the profile's own weights: the figures of `bench.text_queries`.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bench.shared.random_models import (
    BANK_SIDE,
    TEXTS,
    build_engine,
    random_detector,
    street,
)
from bench.shared.served_segmenter import NUM_MASKS, Served, serve
from bench.text_queries import text_query_figures
from services.segmenter.engine import build_engine as build_text_encoder
from services.segmenter.segment_engine import SegmentEngine
from services.segmenter.settings import SegmenterSettings
from unspoken.imaging.images import Picture
from unspoken.imaging.masks import encode_rle
from unspoken.model.mask_bank import MaskBank, grid_points
from unspoken.model.sam.input_frame import InputFrame
from unspoken.model.sam.semantic_sam import Prompts, SemanticSam
from unspoken.ports import TextEncoder

NUM_ROUNDS = 40
NUM_LOOP_TEXTS = 10
NUM_LONE_CLICKS = 8


def main() -> None:
    """Measure; print the figures as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only-warm", action="store_true", help="no network at its real size")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    texts = build_text_encoder(SegmenterSettings())
    figures = warm_figures(texts)
    if not arguments.only_warm:
        figures |= real_size_figures(texts)
        figures |= text_query_figures(SegmenterSettings())
    print(json.dumps({"bench": "segment", "figures": figures}))


def warm_figures(texts: TextEncoder) -> dict[str, float]:
    """Time one query and a hundred on a picture with a ready bank."""
    new_texts = (f"{word} number {number}" for number in itertools.count() for word in TEXTS)
    with serve(build_engine("small", texts), texts) as served:
        served.ask(TEXTS)
        served.ask(TEXTS, mask="rle")
        words = itertools.cycle(TEXTS)
        one, many = alternate(lambda: served.ask([next(words)]), lambda: served.ask(TEXTS))
        one_rle, many_rle = alternate(
            lambda: served.ask([next(words)], mask="rle"), lambda: served.ask(TEXTS, mask="rle")
        )
        one_sent, many_sent = alternate(
            lambda: served.ask([next(words)], sent=True), lambda: served.ask(TEXTS, sent=True)
        )
        one_new, many_new = alternate(
            lambda: served.ask([next(new_texts)]),
            lambda: served.ask(list(itertools.islice(new_texts, 100))),
        )
        hits = count_hits(served)
    return {
        "query_1_ms": round(one * 1000, 2),
        "query_100_ms": round(many * 1000, 2),
        "queries_100_over_1": round(many / one, 2),
        "queries_100_over_1_sent": round(many_sent / one_sent, 2),
        "queries_100_over_1_uncached": round(many_new / one_new, 2),
        "queries_100_over_1_rle": round(many_rle / one_rle, 2),
        "masks": NUM_MASKS,
        "hits_of_100": hits,
    }


def real_size_figures(texts: TextEncoder) -> dict[str, float]:
    """Time the simple loop, building a bank, its parts and a warm request (ViT-B, Swin-T)."""
    engine = build_engine("vit_b", texts)
    network, picture = engine.network, street()
    frame = InputFrame.of(picture.size_hw, network.config.sam)
    image = frame.to_input(picture.pixels)
    with torch.inference_mode():
        encoder_s = min(cpu_s(lambda: network.embed_images([image])) for _ in range(2))
        embedding = network.embed_images([image])
        points = frame.points_to_input(grid_points(BANK_SIDE, picture.size_hw))
        lone = [cpu_s(partial(click, network, embedding, point)) for point in points[::32]]
    clicks = len(points)
    parts_s = encoder_s + clicks * statistics.median(lone[-NUM_LONE_CLICKS:])
    cold_s = cpu_s(lambda: build_bank(engine, picture))
    bank = cached_bank(engine, picture)
    asked = TEXTS[:NUM_LOOP_TEXTS]
    loop_s = usual_loop_s(network, picture, asked)
    with serve(engine, texts) as served:
        served.ask(asked, mask="rle")
        warm_s = statistics.median(served.ask(asked, mask="rle") for _ in range(NUM_ROUNDS))
    return {
        "encoder_s": round(encoder_s, 2),
        "click_ms": round(statistics.median(lone) * 1000, 1),
        "clicks": clicks,
        "bank_masks": len(bank),
        "cold_s": round(cold_s, 2),
        "cold_over_parts": round(cold_s / parts_s, 3),
        "loop_s": round(loop_s, 2),
        "warm_ms": round(warm_s * 1000, 2),
        "warm_over_loop": round(loop_s / warm_s),
    }


def build_bank(engine: SegmentEngine, picture: Picture) -> None:
    """Embed the picture and build its bank."""
    image = engine.embed(picture)
    for _ in engine.bank_steps(image):
        pass
    engine.cache.put(image)


def cached_bank(engine: SegmentEngine, picture: Picture) -> MaskBank:
    """Return the picture's bank."""
    image = engine.cache.get(engine.image_id(picture.sha256))
    assert image is not None and image.bank is not None, "it was built"
    return image.bank.bank


def click(network: SemanticSam, embedding: Tensor, point: Tensor) -> None:
    """Decode one click alone."""
    prompts = Prompts(torch.zeros(1, dtype=torch.long), point.view(1, 1, 2), torch.ones(1, 1))
    SemanticSam.decode(network, embedding, prompts, multimask_output=True)


def usual_loop_s(network: SemanticSam, picture: Picture, texts: Sequence[str]) -> float:
    """Return the seconds of one request in a simple script: detector, encoder, mask per box."""
    detector = random_detector()
    frame = InputFrame.of(picture.size_hw, network.config.sam)

    def serve_once() -> None:
        found = detector.detect(picture, texts, box_threshold=0.0).detections[: len(texts)]
        boxes = frame.boxes_to_input(np.array([each.box.to_list() for each in found]))
        prompts = Prompts(torch.zeros(len(boxes), dtype=torch.long), boxes=boxes)
        with torch.inference_mode():
            embedding = network.embed_images([frame.to_input(picture.pixels)])
            output = network.decode(embedding, prompts, multimask_output=False)
            masks = frame.logits_to_original(output.mask_logits)[:, 0] > 0
        encode_rle(masks.numpy())

    started = time.perf_counter()
    serve_once()
    return time.perf_counter() - started


def count_hits(served: Served) -> int:
    """Return the number of instances found by a request of a hundred texts."""
    queries = [{"text": text} for text in TEXTS]
    body = {"image": {"id": served.image_id}, "queries": queries, "method": "bank"}
    results = served.http.post("/segment", json=body).json()["results"]
    return sum(len(result["instances"]) for result in results)


def alternate(one: Callable[[], float], other: Callable[[], float]) -> tuple[float, float]:
    """Return medians of both, run alternately so that other load affects both alike."""
    pairs = [(one(), other()) for _ in range(NUM_ROUNDS)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def cpu_s(run: Callable[[], object]) -> float:
    """Return the CPU seconds of a call, because cores may be shared."""
    started = time.process_time()
    run()
    return time.process_time() - started


if __name__ == "__main__":
    main()
