"""A segmenter behind HTTP on this machine, with one picture that has an artificial mask bank."""

import base64
import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import httpx
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI

from bench.shared.random_models import TEXTS, street
from services.segmenter.app import create_app
from services.segmenter.segment_engine import SegmentEngine
from unspoken.http.batching import InferenceThread
from unspoken.http.serve import uvicorn_config
from unspoken.imaging.masks import encode_rle, rle_areas, rle_boxes
from unspoken.model.mask_bank import MaskBank, grid_points
from unspoken.ports import TextEncoder

NUM_MASKS = 144


class Served(NamedTuple):
    """An engine behind HTTP with one picture that has an artificial bank."""

    http: httpx.Client
    engine: SegmentEngine
    image_id: str

    def ask(self, texts: Sequence[str], *, mask: str = "none", sent: bool = False) -> float:
        """Return the seconds of one request for these texts, without the time to build its body.

        sent: send the picture with the request, instead of its id.
        """
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


@contextlib.contextmanager
def serve(engine: SegmentEngine, texts: TextEncoder) -> Iterator[Served]:
    """Serve the engine on a free loopback port, with a picture that has an artificial bank."""
    thread = InferenceThread(name="bench", initializer=lambda: torch.set_num_threads(1))
    with (
        serving(create_app(texts, segmenter=engine, thread=thread)) as url,
        httpx.Client(base_url=url, trust_env=False) as http,
    ):
        image = engine.embed(street())
        engine.set_bank(image, artificial_bank(texts, image.size_hw))
        engine.cache.put(image)
        yield Served(http, engine, image.id)


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


def artificial_bank(texts: TextEncoder, size_hw: tuple[int, int]) -> MaskBank:
    """Return a bank of discs on a grid. Every fourth vector is near that of a random text."""
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
    scores = np.full(NUM_MASKS, 0.9, dtype=np.float32)
    return MaskBank(
        size_hw=size_hw,
        rle=tuple(rle),
        boxes_xyxy=rle_boxes(rle, size_hw),
        areas=rle_areas(rle, size_hw),
        predicted_iou=scores,
        stability_score=scores,
        similarity=scores,
        mask_embedding=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4"),
    )
