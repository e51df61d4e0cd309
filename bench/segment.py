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
import base64
import contextlib
import io
import itertools
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import httpx
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, GroundingDinoConfig, GroundingDinoForObjectDetection
from transformers import GroundingDinoImageProcessor as ImageProcessor

from bench.text_queries import text_query_figures
from services.detector.engine import DetectorEngine
from services.detector.transformers_backend import TransformersBackend, resize_by
from services.segmenter.answer.query_methods import SegmentConfig
from services.segmenter.app import create_app
from services.segmenter.cache.cached_image import CachedImage
from services.segmenter.cache.embedding_cache import EmbeddingCache
from services.segmenter.engine import build_engine as build_text_encoder
from services.segmenter.segment_engine import SegmentEngine
from services.segmenter.settings import SegmenterSettings
from unspoken.config.profiles import resolve_files
from unspoken.config.settings import default_cache_dir
from unspoken.http.batching import InferenceThread
from unspoken.http.serve import uvicorn_config
from unspoken.imaging.images import Picture, decode_picture
from unspoken.imaging.masks import encode_rle, rle_areas, rle_boxes
from unspoken.model.checkpoint import LoadedSam, SemanticInfo
from unspoken.model.input_frame import InputFrame
from unspoken.model.mask_bank import MaskBank, MaskBankConfig, grid_points
from unspoken.model.sam_config import SemanticSamConfig, sam_config
from unspoken.model.semantic_decoder import DecoderOutput
from unspoken.model.semantic_sam import Prompts, SemanticSam
from unspoken.model.text_space import TextSpace, background_words
from unspoken.ports import TextEncoder
from unspoken.wire.base import ModelInfo

SIZE_WH = (640, 480)
NUM_MASKS = 144
NUM_ROUNDS = 40
NUM_LOOP_TEXTS = 10
NUM_LONE_CLICKS = 8
BANK_SIDE = (
    16  # clicks along each side: a quarter of the published clicks, in a quarter of the time
)
SHORT_SIDE_PX = 480  # of the detector's input, as operations.md recommends for a CPU
EVERY_MASK = MaskBankConfig(predicted_iou_threshold=-100, points_per_side=BANK_SIDE)
TEXTS = background_words()[:100]


class DrawingSam(SemanticSam):
    """Runs the whole decoder, then replaces masks by discs (clicks) and ellipses (boxes)."""

    def decode(
        self, image_embeddings: Tensor, prompts: Prompts, *, multimask_output: bool
    ) -> DecoderOutput:
        """See SemanticSam."""
        output = super().decode(image_embeddings, prompts, multimask_output=multimask_output)
        sam = self.config.sam
        if prompts.boxes is not None:
            low, high = prompts.boxes[:, :2], prompts.boxes[:, 2:]
            middle, radius = (low + high) / 2, (high - low) / 2 + 1
        else:
            assert prompts.points is not None, "a prompt is a box or a click"
            # Clicks in one of 64 cells draw the same discs, in three sizes.
            thing = sam.image_size / 8
            middle = ((prompts.points[:, 0] / thing).floor() + 0.5) * thing
            radius = torch.full_like(middle, thing / 3)
        grown = (1.0,) if output.mask_logits.shape[1] == 1 else (0.6, 1.0, 1.6)
        places = torch.arange(sam.mask_side, device=middle.device)
        cells = (places + 0.5) * sam.image_size / sam.mask_side
        squares = ((cells - middle[..., None]) / radius[..., None]) ** 2  # (N, 2, side)
        distance = (squares[:, 0, None, :] + squares[:, 1, :, None]).sqrt()
        logits = torch.stack([(growth - distance) * 100 for growth in grown], dim=1)
        return output._replace(mask_logits=logits)


class Served(NamedTuple):
    """An engine behind HTTP with one picture that has an artificial bank."""

    http: httpx.Client
    engine: SegmentEngine
    image_id: str

    def ask(self, texts: Sequence[str], *, mask: str = "none", sent: bool = False) -> float:
        """Return the seconds of one request for these texts, without building its body."""
        picture = base64.b64encode(street().encoded).decode()
        body = {
            "image": {"base64": picture} if sent else {"id": self.image_id},
            "queries": [{"text": text} for text in texts],
            "method": "bank",
            "output": {"mask": mask},
        }
        content = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        started = time.perf_counter()
        response = self.http.post("/segment", content=content, headers=headers)
        took_s = time.perf_counter() - started
        response.raise_for_status()
        return took_s


def main() -> None:
    """Measure and print one line."""
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
    bank = held_bank(engine, picture)
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


def build_engine(
    size: str, texts: TextEncoder, *, encoder_dtype: torch.dtype = torch.float32
) -> SegmentEngine:
    """Build an engine with random weights of this size, which are marked as trained."""
    torch.manual_seed(0)
    network = DrawingSam(SemanticSamConfig(sam=sam_config(size))).eval()
    network.requires_grad_(requires_grad=False)
    network.mask_decoder.logit_scale.fill_(np.log(50))
    loaded = LoadedSam(model=network, info=SemanticInfo(semantic_trained=True))
    return SegmentEngine(
        loaded,
        model=ModelInfo(name=f"random {size}", kind="segmenter", revision="0"),
        weights_sha256="0" * 64,
        text_space=TextSpace.of(loaded, texts.encode_texts),
        cache=EmbeddingCache[CachedImage](64),
        config=SegmentConfig(bank=EVERY_MASK, encoder_dtype=encoder_dtype),
    )


@contextlib.contextmanager
def serve(engine: SegmentEngine, texts: TextEncoder) -> Iterator[Served]:
    """Serve the engine on a free loopback port, with a picture that has an artificial bank."""
    thread = InferenceThread(name="bench", initializer=lambda: torch.set_num_threads(1))
    with (
        serving(create_app(texts, segmenter=engine, thread=thread)) as url,
        httpx.Client(base_url=url, trust_env=False) as http,
    ):
        held = engine.embed(street())
        engine.keep_bank(held, drawn_bank(texts, held.size_hw))
        yield Served(http, engine, held.id)


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve the app on a free loopback port; yield its URL when it is ready."""
    server = uvicorn.Server(uvicorn_config(app, host="127.0.0.1", port=0, log_level="warning"))
    running = threading.Thread(target=server.run)
    running.start()
    try:
        while not server.started:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        while httpx.get(f"{url}/readyz", trust_env=False).status_code != 200:
            time.sleep(0.1)
        yield url
    finally:
        server.should_exit = True
        running.join()


def drawn_bank(texts: TextEncoder, size_hw: tuple[int, int]) -> MaskBank:
    """Return a bank of discs on a grid; one in four has a vector near that of some text."""
    height, width = size_hw
    side = round(NUM_MASKS**0.5)
    y, x = np.mgrid[:height, :width]
    rle: list[bytes] = []
    for middle_x, middle_y in grid_points(side, size_hw):
        disc = (x - middle_x) ** 2 + (y - middle_y) ** 2 < (width / side / 2) ** 2
        rle += encode_rle(disc[None])
    generator = np.random.default_rng(0)
    words = generator.choice(len(TEXTS), NUM_MASKS)
    vectors = texts.encode_texts(TEXTS)[words]
    vectors[generator.permutation(NUM_MASKS)[NUM_MASKS // 4 :]] = 0
    vectors = vectors + generator.normal(scale=0.02, size=vectors.shape)
    ones = np.full(NUM_MASKS, 0.9, dtype=np.float32)
    return MaskBank(
        size_hw=size_hw,
        rle=tuple(rle),
        boxes_xyxy=rle_boxes(rle, size_hw),
        areas=rle_areas(rle, size_hw),
        predicted_iou=ones,
        stability_score=ones,
        similarity=ones,
        mask_embedding=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4"),
    )


def build_bank(engine: SegmentEngine, picture: Picture) -> None:
    """Embed the picture and build its bank."""
    held = engine.embed(picture)
    steps = engine.bank_steps(held)
    while not steps.step():
        pass


def held_bank(engine: SegmentEngine, picture: Picture) -> MaskBank:
    """Return the picture's bank."""
    wire = engine.find(engine.image_id(picture.sha256)).bank
    assert wire is not None, "it was built"
    return wire.bank


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


def random_detector(
    *,
    short_side_px: int = SHORT_SIDE_PX,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    config: GroundingDinoConfig | None = None,
) -> DetectorEngine:
    """Build Grounding-DINO with random weights; by default Swin-T and BERT at published sizes."""
    torch.manual_seed(0)
    backend = TransformersBackend(
        GroundingDinoForObjectDetection(config or GroundingDinoConfig()),
        tokenizer=bert_tokenizer(),
        prepare=resize_by(ImageProcessor(), short_side_px=short_side_px),
        device=device,
        box_threshold=None,
        dtype=dtype,
    )
    return DetectorEngine(
        backend, model=ModelInfo(name="random Swin-T", kind="detector", revision="0")
    )


def bert_tokenizer() -> Any:
    """Load the tokenizer of bert-base-uncased, which the small text encoder also uses."""
    entry = SegmenterSettings().read_profile().text_encoder
    folder = resolve_files(entry, cache_dir=default_cache_dir())
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


@cache
def street() -> Picture:
    """Return smooth noise as a JPEG of about 100 kB; random weights need no real picture."""
    noise = np.random.default_rng(1).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize(SIZE_WH).save(buffer, format="JPEG", quality=90)
    return decode_picture(buffer.getvalue())


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
