"""`python -m bench.cache`: correctness, memory bound and crash safety of the embedding cache.

Each figure has its limit in brackets.

`encodes_for_64` (1): 64 concurrent HTTP requests for one new picture go to the small profile's
segmenter in its own process. The figure is the number of pictures that it reports as encoded.
`encodes_after_restart` (0): the same for a restarted process on the same disk tier.

`growth_over_bound` (1.1): growth of resident memory after 5 000 distinct pictures, divided by the
cache's limit of 128 MiB. The network is tiny. Its embeddings have SAM's 256 channels in 16 x 16
cells, 128 KiB each, so five times the limit passes through the cache.

`torn_accepted` (0): a process that writes to the disk tier without pause is killed by SIGKILL after
0 to 30 ms, a thousand times. The figure counts entries that the tier reads but that differ from the
written ones. `kills_in_mid_write` counts kills that left a half-written file.

`fp16_miou` (.999) and `fp16_min_iou` (.99): IoU of masks decoded from the cached float16 embedding
with masks from float32. The small weights are used, for five boxes on each of 50 scenes.
"""

import argparse
import gc
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import psutil
from PIL import Image

from services.segmenter.cache.disk_tier import DiskTier
from smallworld.scenes import compose_scene
from smallworld.world import World
from unspoken.config.settings import child_environment
from unspoken.imaging.images import Picture, decode_picture
from unspoken.imaging.masks import decode_rle, mask_iou
from unspoken.wire.segment import PromptBox, RleMask, SegmentQuery, SegmentQuestion

if TYPE_CHECKING:
    from services.segmenter.segment_engine import SegmentEngine

NUM_KILLS = 1000
NUM_PICTURES = 5000
NUM_SCENES = 50
NUM_BOXES = 5
NUM_AT_ONCE = 64
BOUND_MIB = 128
LONGEST_S = 0.03
TORN_BYTES = 256 * 1024
FIRST_SEED = 660_000_000
"""Seed of scenes that only this bench uses."""


def main() -> None:
    """Measure; print the figures as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=NUM_KILLS)
    parser.add_argument("--pictures", type=int, default=NUM_PICTURES)
    parser.add_argument("--scenes", type=int, default=NUM_SCENES)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="unspoken-bench-") as folder:
        # Kills come first, because a fork is cheap before torch is loaded.
        figures = kill_figures(Path(folder) / "kills", arguments.kills)
        figures |= http_figures(Path(folder) / "http")
        figures |= growth_figures(arguments.pictures)
        figures |= precision_figures(arguments.scenes)
    print(json.dumps({"bench": "cache", "figures": figures}))


# ---- kills -----------------------------------------------------------------------------------


def kill_figures(folder: Path, num_kills: int) -> dict[str, float]:
    """Kill writers and read the files that each left."""
    tier = DiskTier(folder, 64)
    num_torn = num_read = num_mid_write = 0
    for number in range(num_kills):
        kill_a_writer(tier, number)
        for path in sorted(folder.rglob("*")):
            if path.suffix == ".part":
                num_mid_write += 1
            elif path.is_file():
                stored = tier.read(path.stem)
                num_read += stored is not None
                num_torn += stored is not None and not is_whole(path.stem, stored.arrays)
            if path.is_file():
                path.unlink()
    return {
        "torn_accepted": num_torn,
        "kills": num_kills,
        "kills_in_mid_write": num_mid_write,
        "kept_and_read": num_read,
    }


def kill_a_writer(tier: DiskTier, number: int) -> None:
    """Fork a process that writes without pause, and kill it after a random time."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b".")
        for place in range(number * 10_000, (number + 1) * 10_000):
            image_id = f"{place:064x}"
            tier.write(image_id, written(image_id), sha256="", height="1", width="1")
        os._exit(0)
    os.read(reader, 1)  # wait until the child has started
    time.sleep(random.uniform(0, LONGEST_S))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for descriptor in (reader, writer):
        os.close(descriptor)


def written(image_id: str) -> dict[str, np.ndarray]:
    """Return the arrays that are written for an id."""
    return {"image_embedding": np.full(TORN_BYTES // 2, int(image_id, 16) % 2048, np.float16)}


def is_whole(image_id: str, arrays: dict[str, np.ndarray]) -> bool:
    """Return True if these are the arrays written for the id."""
    expected = written(image_id)
    return arrays.keys() == expected.keys() and all(
        np.array_equal(arrays[name], expected[name]) for name in expected
    )


# ---- a real service --------------------------------------------------------------------------


def http_figures(folder: Path) -> dict[str, float]:
    """Send 64 concurrent requests for one picture, then one more after a restart."""
    encoded = picture_file(random.Random(1).randbytes(3 * 64 * 64))
    with running_segmenter(folder) as http, ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        before = num_encoded(http)
        asking = [
            pool.submit(http.post, "/images", files={"image": encoded}) for _ in range(NUM_AT_ONCE)
        ]
        statuses = {each.result().status_code for each in asking}
        assert statuses <= {200, 201}, f"answered {statuses}"
        at_once = num_encoded(http) - before
    with running_segmenter(folder) as http:
        before = num_encoded(http)
        reply = http.post("/images", files={"image": encoded}).json()
        assert reply["cache"] == {"hit": True, "tier": "disk"}, reply
        after_restart = num_encoded(http) - before
    return {"encodes_for_64": at_once, "encodes_after_restart": after_restart}


@contextmanager
def running_segmenter(folder: Path) -> Iterator[httpx.Client]:
    """Run the small profile's segmenter with its disk tier in the folder."""
    port = free_port()
    env = child_environment(
        SEGMENTER_PORT=str(port),
        SEGMENTER_DISK_CACHE_DIR=str(folder),
        SEGMENTER_NUM_THREADS="1",
        UNSPOKEN_LOG_LEVEL="WARNING",
    )
    url = f"http://127.0.0.1:{port}"
    with (
        subprocess.Popen([sys.executable, "-m", "services.segmenter"], env=env) as process,
        httpx.Client(
            base_url=url,
            trust_env=False,
            timeout=300,
            limits=httpx.Limits(max_connections=NUM_AT_ONCE),
        ) as http,
    ):
        try:
            wait_ready(http, process)
            yield http
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=120) == 0, "the segmenter drains"
        finally:
            process.kill()


def wait_ready(http: httpx.Client, process: "subprocess.Popen[bytes]") -> None:
    """Wait for readiness. Raises TimeoutError, or SystemExit if the process has ended."""
    deadline_s = time.monotonic() + 600
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise SystemExit(f"the segmenter ended with {process.returncode}")
        try:
            if http.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError("the segmenter was not ready within ten minutes")


def num_encoded(http: httpx.Client) -> int:
    """Return the number of pictures that a segmenter has encoded, from its metrics."""
    for line in http.get("/metrics").text.splitlines():
        if line.startswith('unspoken_batch_items_total{batcher="embed"}'):
            return int(float(line.split()[-1]))
    raise AssertionError("the service counts its pictures")


def free_port() -> int:
    """Return a free TCP port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---- memory ----------------------------------------------------------------------------------


def growth_figures(num_pictures: int, *, bound_mib: int = BOUND_MIB) -> dict[str, float]:
    """Measure the growth of resident memory over many pictures."""
    from services.segmenter.local_segmenter import LocalSegmenter

    engine = engine_of_wide_embeddings(bound_mib)
    process = psutil.Process()
    with LocalSegmenter(engine) as segmenter:
        for number in range(20):  # warm-up: one-time allocations do not count as growth
            segmenter.add_image(numbered_picture(-1 - number))
        gc.collect()
        before = process.memory_info().rss
        for number in range(num_pictures):
            segmenter.add_image(numbered_picture(number))
        gc.collect()
        growth = process.memory_info().rss - before
    bound = bound_mib * 1024 * 1024
    return {
        "growth_over_bound": round(growth / bound, 3),
        "held_over_bound": round(engine.cache.total_bytes / bound, 3),
        "pictures": num_pictures,
    }


def numbered_picture(number: int) -> Picture:
    """Return a picture that is different for each number."""
    return decode_picture(picture_file(random.Random(number).randbytes(3 * 16 * 16)))


def picture_file(pixels: bytes) -> bytes:
    """Encode pixels as a square PNG."""
    side = int((len(pixels) // 3) ** 0.5)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), pixels).save(buffer, format="PNG")
    return buffer.getvalue()


# ---- precision -------------------------------------------------------------------------------


def precision_figures(num_scenes: int) -> dict[str, float]:
    """Compare masks from cached embeddings with masks from exact ones."""
    from services.segmenter.local_segmenter import LocalSegmenter

    world = World.load(("twemoji",), "train")
    ious: list[float] = []
    kept, exact = small_engines()
    with LocalSegmenter(kept) as served, LocalSegmenter(exact) as reference:
        for number in range(num_scenes):
            scene = compose_scene(world, seed=FIRST_SEED + number)
            picture = decode_picture(png(scene.image))
            question = boxes_question([each.box_xyxy for each in scene.objects], scene.image)
            pair = [segmenter.segment(picture, question) for segmenter in (served, reference)]
            for one, other in zip(pair[0].results, pair[1].results, strict=True):
                masks = [each.instances[0].mask for each in (one, other)]
                drawn = [
                    decode_rle([mask.counts.encode()], mask.size)[0]
                    for mask in masks
                    if isinstance(mask, RleMask)
                ]
                ious.append(float(mask_iou(*drawn, if_empty=1.0)))
    return {
        "fp16_miou": round(float(np.mean(ious)), 5),
        "fp16_min_iou": round(min(ious), 4),
        "masks": len(ious),
    }


def boxes_question(boxes: Sequence[Sequence[float]], pixels: np.ndarray) -> SegmentQuestion:
    """Return a query of five boxes: the scene's objects, then its quarters."""
    height, width = pixels.shape[:2]
    quarters = [
        (x * width / 2, y * height / 2, (x + 1) * width / 2, (y + 1) * height / 2)
        for y in (0, 1)
        for x in (0, 1)
    ]
    chosen = [*boxes, *quarters, (width / 4, height / 4, 3 * width / 4, 3 * height / 4)]
    prompts = [PromptBox(x0=x0, y0=y0, x1=x1, y1=y1) for x0, y0, x1, y1 in chosen[:NUM_BOXES]]
    return SegmentQuestion(queries=tuple(SegmentQuery(boxes=(box,)) for box in prompts))


def png(pixels: np.ndarray) -> bytes:
    """Encode the picture as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


# ---- engines: these load torch ---------------------------------------------------------------


def small_engines() -> "tuple[SegmentEngine, SegmentEngine]":
    """Load the committed small weights twice: as served, and with exact embeddings."""
    import torch

    from services.segmenter.cache.embedding_cache import EmbeddingCache
    from services.segmenter.engine import build_engine
    from services.segmenter.loading import build_segmenter
    from services.segmenter.segment_engine import SegmentEngine
    from services.segmenter.settings import SegmenterSettings

    class ExactEngine(SegmentEngine):
        embedding_dtype = torch.float32

    torch.set_num_threads(1)
    settings = SegmenterSettings()
    kept = build_segmenter(settings, build_engine(settings))
    assert kept is not None, "the small profile has a segmenter"
    exact = ExactEngine(
        kept.loaded,
        model=kept.model,
        weights_sha256="0" * 64,
        text_space=kept.text_space,
        cache=EmbeddingCache(64),
        config=kept.config,
    )
    return kept, exact


def engine_of_wide_embeddings(bound_mib: int) -> "SegmentEngine":
    """Build a tiny network with random weights and embeddings of 128 KiB."""
    import torch

    from services.segmenter.answer.query_methods import SegmentConfig
    from services.segmenter.cache.embedding_cache import EmbeddingCache
    from services.segmenter.segment_engine import SegmentEngine
    from tests.fakes import FakeTextEncoder
    from unspoken.model.sam.checkpoint import LoadedSam, SemanticInfo
    from unspoken.model.sam.config import SemanticSamConfig, sam_config
    from unspoken.model.sam.semantic_sam import SemanticSam
    from unspoken.model.text_space import TextSpace
    from unspoken.wire.base import ModelInfo

    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = replace(sam_config("tiny"), image_size=256, patch_size=16, decoder_width=256)
    network = SemanticSam(SemanticSamConfig(sam=sizes)).eval().requires_grad_(requires_grad=False)
    loaded = LoadedSam(model=network, info=SemanticInfo(semantic_trained=False))
    return SegmentEngine(
        loaded,
        model=ModelInfo(name="random", kind="segmenter", revision="0"),
        weights_sha256="0" * 64,
        text_space=TextSpace.of(loaded, FakeTextEncoder().encode_texts),
        cache=EmbeddingCache(bound_mib),
        config=SegmentConfig(),
    )


if __name__ == "__main__":
    main()
