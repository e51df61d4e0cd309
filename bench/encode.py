"""`python -m bench.encode`: speed of the served image encoder against the segment-anything package.

Both use ViT-B at its real size with the package's random weights and a picture of 640 x 480. They
run alternately in one process. The served engine uses `dtype: auto` of models.yaml: bfloat16 if a
probe finds it faster on this machine.

speedup         seconds of `SamPredictor.set_image` divided by those of the engine's `embed`; bar
                1.8 on a processor with avx512_bf16 or AMX, never below 1.0
speedup_float32 the same for the engine in float32, as served on other processors
package_s, served_s, float32_s   median seconds per picture
package_grown_mib, served_grown_mib   peak memory that a picture adds to a process, in float32
embedding_error          relative rms error of the served embedding against the package's
small_miou, small_least  effect of the served type on a trained network: IoU of the small SAM's
                masks of true boxes with those of float32, mean and minimum over 50 scenes
"""

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import torch
from segment_anything import SamPredictor, sam_model_registry

from bench.segmenter_quality.arms import STYLE, WEIGHTS
from bench.shared.random_models import build_engine, street
from services.segmenter.engine import build_engine as build_text_encoder
from services.segmenter.segment_engine import SegmentEngine
from services.segmenter.settings import SegmenterSettings
from tests.peak_memory import peak_kib
from training.evaluate import WORLD_SEED
from training.evaluation.pictures import scene_pictures
from unspoken.compute.precision import computing_in, faster_dtype
from unspoken.imaging.masks import mask_iou
from unspoken.model.sam.checkpoint import load_weights
from unspoken.model.sam.config import sam_config
from unspoken.model.sam.mask_upscaling import MaskUpscaler
from unspoken.model.sam.semantic_sam import Prompts, SemanticSam, build_image_encoder

ROUNDS = 5
NUM_SCENES = 50


def main() -> None:
    """Print one JSON line."""
    dtype = faster_dtype("cpu")
    torch.manual_seed(0)
    package = sam_model_registry["vit_b"]()
    predictor = SamPredictor(package)
    text_encoder = build_text_encoder(SegmenterSettings())
    engines = {
        "served_s": build_engine("vit_b", text_encoder, encoder_dtype=dtype),
        "float32_s": build_engine("vit_b", text_encoder),
    }
    for engine in engines.values():
        engine.network.load_state_dict(package.state_dict(), strict=False)
    picture = street()
    runs: dict[str, Callable[[], object]] = {
        "package_s": lambda: predictor.set_image(picture.pixels),
        **{name: partial(engine.embed, picture) for name, engine in engines.items()},
    }
    taken_s: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            taken_s[name].append(seconds(run))
    medians_s = {name: statistics.median(times) for name, times in taken_s.items()}
    figures = {
        "speedup": round(medians_s["package_s"] / medians_s["served_s"], 2),
        "speedup_float32": round(medians_s["package_s"] / medians_s["float32_s"], 2),
        **{name: round(median_s, 2) for name, median_s in medians_s.items()},
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        **{f"{name}_grown_mib": in_own_process(name) for name in ("package", "served")},
        "embedding_error": embedding_error(predictor, engines["served_s"]),
        **small_masks(dtype),
    }
    print(json.dumps({"bench": "encode", "figures": figures}))


def in_own_process(name: str) -> int:
    """Run `grown_mib` in a new process."""
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning) as pool:
        return pool.submit(grown_mib, name).result()


@torch.inference_mode()
def grown_mib(name: str) -> int:
    """Return the growth in MiB of this process's peak resident size by one picture."""
    package = sam_model_registry["vit_b"]().image_encoder
    encoder = package if name == "package" else build_image_encoder(sam_config("vit_b"))
    picture = torch.zeros(1, 3, encoder.img_size, encoder.img_size)
    before_kib = peak_kib()
    encoder(picture)
    return (peak_kib() - before_kib) // 1024


def embedding_error(predictor: SamPredictor, engine: SegmentEngine) -> float:
    """Return the relative rms error for the picture that the predictor encoded last."""
    exact = predictor.get_image_embedding()
    served = engine.embed(street()).embedding.float()
    return round(float((served - exact).norm() / exact.norm()), 4)


@torch.inference_mode()
def small_masks(dtype: torch.dtype) -> dict[str, float]:
    """Compare the small weights' masks of true boxes in this type with those in float32."""
    network = load_weights(WEIGHTS).model.eval()
    found: list[float] = []
    for picture in scene_pictures(num_scenes=NUM_SCENES, first_seed=WORLD_SEED, style=STYLE):
        if not picture.objects:
            continue
        boxes = np.array([each.box_xyxy for each in picture.objects])
        exact = masks_of_boxes(network, picture.pixels, boxes, torch.float32)
        rough = masks_of_boxes(network, picture.pixels, boxes, dtype)
        found += mask_iou(rough, exact).tolist()
    return {
        "small_miou": round(statistics.mean(found), 4),
        "small_least": round(min(found), 4),
    }


def masks_of_boxes(
    network: SemanticSam, pixels: np.ndarray, boxes_xyxy: np.ndarray, dtype: torch.dtype
) -> np.ndarray:
    """Decode masks of boxes: (N, H, W) bool."""
    upscaler = MaskUpscaler.of(pixels, network.config.sam)
    with computing_in(dtype, device="cpu"):
        embedding = network.embed_images([upscaler.frame.to_input(pixels)])
    index = torch.zeros(len(boxes_xyxy), dtype=torch.long)
    prompts = Prompts(index, boxes=upscaler.frame.boxes_to_input(boxes_xyxy))
    output = network.decode(embedding.float(), prompts, multimask_output=False)
    masks: np.ndarray = upscaler.masks(output.mask_logits[:, 0]).numpy()
    return masks


def seconds(run: Callable[[], object]) -> float:
    """Return the wall seconds of one call."""
    started_s = time.perf_counter()
    run()
    return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
