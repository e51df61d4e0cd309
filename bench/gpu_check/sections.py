"""The sections of `bench.gpu_check`: generators that yield figures by name."""

import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from segment_anything import SamPredictor, sam_model_registry
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    GroundingDinoConfig,
    LlamaConfig,
    PretrainedConfig,
)

from bench.detect import PHRASES
from bench.llm import CAPTIONS
from bench.segment import build_bank
from bench.segmenter_quality.arms import STYLE, WEIGHTS
from bench.shared.random_models import (
    bert_tokenizer,
    build_engine,
    random_detector,
    street,
    tiny_grounding_dino_config,
)
from bench.shared.served_segmenter import serve
from services.detector.engine import DetectorEngine
from services.detector.engine import build_engine as build_detector
from services.detector.groundingdino_backend import GroundingDinoBackend, build_network
from services.detector.settings import DetectorSettings
from services.llm.engine import load_generator
from services.llm.generator import Generator
from services.llm.settings import LlmSettings
from services.llm.template_file import load_templates
from services.segmenter.engine import build_engine as build_text_encoder
from services.segmenter.settings import SegmenterSettings
from training.data.batches import BatchConfig, BoxUnits, MaskUnits, TrainBatch
from training.evaluate import WORLD_SEED
from training.evaluation.pictures import TruePicture, scene_pictures
from training.sam.kept_embeddings import KeptEmbeddings
from training.sam.label_vectors import LabelVectors
from training.sam.recipe import readout
from training.sam.trainer import SamTrainer
from unspoken.compute.precision import computing_in, faster_dtype, prepare_device
from unspoken.config.settings import default_cache_dir
from unspoken.imaging.images import Picture, decode_picture
from unspoken.imaging.masks import mask_iou
from unspoken.model.sam.checkpoint import load_weights
from unspoken.model.sam.config import sam_config
from unspoken.model.sam.mask_upscaling import MaskUpscaler
from unspoken.model.sam.semantic_sam import Prompts, SemanticSam
from unspoken.model.text_space import background_words
from unspoken.wire.base import ModelInfo

Figures = dict[str, float | str]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDS = 12
WARM_REQUESTS = 200
LABELS = ("dog", "tree", "car", "house", "bicycle", "street lamp", "window", "wheel")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the networks, and numbers of pictures and captions."""

    sams: tuple[str, ...]
    detector: GroundingDinoConfig | None
    """None: Swin-T and BERT at their published sizes, against groundingdino-py."""
    short_side_px: int
    llms: Mapping[str, PretrainedConfig]
    num_scenes: int
    num_captions: int
    train_steps: int


PUBLISHED = Sizes(
    sams=("vit_b", "vit_h"),
    detector=None,
    short_side_px=800,
    llms={
        "smollm2_1_7b": LlamaConfig(
            vocab_size=49152,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=24,
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        ),
        "bloom_7b1": BloomConfig(
            vocab_size=250880, hidden_size=4096, n_layer=30, n_head=32, tie_word_embeddings=True
        ),
    },
    num_scenes=20,
    num_captions=len(CAPTIONS),
    train_steps=30,
)
TINY = Sizes(
    sams=("tiny",),
    detector=tiny_grounding_dino_config(),
    short_side_px=96,
    llms={
        "tiny_llama": LlamaConfig(
            vocab_size=49152,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=True,
        )
    },
    num_scenes=2,
    num_captions=2,
    train_steps=2,
)


# ---- the same answers as the CPU --------------------------------------------------------------


def parity(device: str, sizes: Sizes) -> Iterator[Figures]:
    """Compare the profile's networks, and SAM at its real size, with the CPU in float32."""
    pictures = [
        picture
        for picture in scene_pictures(
            num_scenes=sizes.num_scenes, first_seed=WORLD_SEED, style=STYLE
        )
        if picture.objects
    ]
    prepare_device(device)
    yield _mask_parity(device, pictures)
    yield _embedding_parity(device, sizes.sams[0])
    yield _box_parity(device, pictures)
    yield _text_parity(device, CAPTIONS[: min(8, sizes.num_captions)])


def _mask_parity(device: str, pictures: Sequence[TruePicture]) -> Figures:
    exact_network = load_weights(WEIGHTS).model.eval()
    network = load_weights(WEIGHTS).model.eval().to(device)
    exact = [_masks_of_boxes(exact_network, picture, torch.float32) for picture in pictures]
    figures: Figures = {}
    for dtype in DTYPES:
        overlaps = np.concatenate(
            [
                mask_iou(_masks_of_boxes(network, picture, dtype), masks)
                for picture, masks in zip(pictures, exact, strict=True)
            ]
        )
        figures[f"small_mask_iou_{_name(dtype)}"] = round(float(overlaps.mean()), 5)
        figures[f"small_mask_iou_least_{_name(dtype)}"] = round(float(overlaps.min()), 4)
    return figures


@torch.inference_mode()
def _masks_of_boxes(network: SemanticSam, picture: TruePicture, dtype: torch.dtype) -> np.ndarray:
    """Decode the masks of a picture's true boxes: (N, H, W) bool."""
    device = network.device
    upscaler = MaskUpscaler.of(picture.pixels, network.config.sam)
    boxes = np.array([each.box_xyxy for each in picture.objects])
    with computing_in(dtype, device=device.type):
        embedding = network.embed_images([upscaler.frame.to_input(picture.pixels)])
    index = torch.zeros(len(boxes), dtype=torch.long, device=device)
    prompts = Prompts(index, boxes=upscaler.frame.boxes_to_input(boxes).to(device))
    output = network.decode(embedding.float(), prompts, multimask_output=False)
    masks: np.ndarray = upscaler.masks(output.mask_logits[:, 0].cpu()).numpy()
    return masks


@torch.inference_mode()
def _embedding_parity(device: str, sam: str) -> Figures:
    texts = build_text_encoder(SegmenterSettings())
    network = build_engine(sam, texts).network
    image = torch.from_numpy(np.array(street().pixels)).permute(2, 0, 1)
    side = network.config.sam.image_size
    image = image[:, :side, :side]
    exact = network.embed_images([image])
    network.to(device)
    figures: Figures = {}
    for dtype in DTYPES:
        with computing_in(dtype, device=torch.device(device).type):
            embedding = network.embed_images([image]).float().cpu()
        error = float((embedding - exact).norm() / exact.norm())
        figures[f"{sam}_embedding_error_{_name(dtype)}"] = round(error, 6)
    return figures


def _box_parity(device: str, pictures: Sequence[TruePicture]) -> Figures:
    exact_engine = build_detector(DetectorSettings(device="cpu"))
    engine = build_detector(DetectorSettings(device=device))
    differences_px: list[float] = []
    missing = 0
    for true in pictures:
        picture = Picture.of_pixels(true.pixels)
        phrases = tuple(dict.fromkeys([each.label for each in true.objects] + list(LABELS)))
        exact, found = (_boxes(one, picture, phrases) for one in (exact_engine, engine))
        for phrase in phrases:
            missing += abs(len(exact[phrase]) - len(found[phrase]))
            differences_px += _distances_px(exact[phrase], found[phrase])
    return {
        "box_px_max": round(max(differences_px, default=0.0), 4),
        "box_missing": missing,
        "boxes": len(differences_px),
    }


def _boxes(
    engine: DetectorEngine, picture: Picture, phrases: Sequence[str]
) -> dict[str, list[list[float]]]:
    """Return the boxes of each phrase."""
    boxes: dict[str, list[list[float]]] = {phrase: [] for phrase in phrases}
    for each in engine.detect(picture, phrases).detections:
        boxes[each.phrase].append(each.box.to_list())
    return boxes


def _distances_px(exact: list[list[float]], found: list[list[float]]) -> list[float]:
    """Return, for each exact box, the largest coordinate difference to the nearest found box."""
    return [
        min(float(np.abs(np.subtract(one, other)).max()) for other in found)
        for one in exact
        if found
    ]


def _text_parity(device: str, captions: Sequence[str]) -> Figures:
    entry = replace(LlmSettings().read_profile().llm, dtype="float32")
    template = load_templates()["parts"]
    prefix = template.example_sets[0].prefix
    suffixes = [template.question(caption) for caption in captions]
    exact, found = (
        [
            answer.text
            for answer in load_generator(
                replace(entry, device=place), cache_dir=default_cache_dir()
            ).generate(suffixes, prefix=prefix)
        ]
        for place in ("cpu", device)
    )
    same = sum(a == b for a, b in zip(exact, found, strict=True))
    return {"llm_same_text": round(same / len(exact), 4)}


# ---- speed ------------------------------------------------------------------------------------


def encode(device: str, sizes: Sizes) -> Iterator[Figures]:
    """Time SAM's image encoder as served against the segment-anything package's predictor."""
    prepare_device(device)
    texts = build_text_encoder(SegmenterSettings())
    picture = street()
    served = _name(faster_dtype(device))
    yield {"encode_served_dtype": served}
    for sam in sizes.sams:
        taken_ms = {}
        for dtype in DTYPES:
            with torch.device(device):  # because creating ViT-H's random weights is slow on a CPU
                engine = build_engine(sam, texts, encoder_dtype=dtype)
            engine.network.to(device)
            taken_ms[_name(dtype)] = _median_ms(partial(engine.embed, picture), device)
            yield {f"encode_ms_{sam}_{_name(dtype)}": round(taken_ms[_name(dtype)], 2)}
        if sam in ("vit_b", "vit_h"):
            with torch.device(device):
                package = sam_model_registry[sam]().eval()
            predictor = SamPredictor(package.to(device))
            package_ms = _median_ms(partial(predictor.set_image, picture.pixels), device)
            yield {
                f"encode_ms_{sam}_package": round(package_ms, 2),
                f"encode_speedup_{sam}": round(package_ms / taken_ms[served], 2),
            }


def detect(device: str, sizes: Sizes) -> Iterator[Figures]:
    """Time Grounding-DINO as served against groundingdino-py, twelve phrases in one pass."""
    prepare_device(device)
    picture = street()
    taken_ms = {}
    for dtype in DTYPES[:2] if device == "cpu" else DTYPES:
        engine = random_detector(
            short_side_px=sizes.short_side_px, dtype=dtype, device=device, config=sizes.detector
        )
        ask = partial(engine.detect, picture, PHRASES, box_threshold=0.3)
        taken_ms[_name(dtype)] = _median_ms(ask, device)
        yield {f"detect_ms_{_name(dtype)}": round(taken_ms[_name(dtype)], 2)}
    if sizes.detector is None:
        package = _package_detector(device, short_side_px=sizes.short_side_px)
        ask = partial(package.detect, picture, PHRASES, box_threshold=0.3)
        package_ms = _median_ms(ask, device)
        speedup = package_ms / taken_ms[_name(faster_dtype(device))]
        yield {
            "detect_ms_package": round(package_ms, 2),
            "detect_speedup": round(speedup, 2),
        }


def _package_detector(device: str, *, short_side_px: int) -> DetectorEngine:
    torch.manual_seed(0)
    tokenizer = bert_tokenizer()
    network = build_network("swin_T_224_1k", bert_config=BertConfig(), tokenizer=tokenizer)
    backend = GroundingDinoBackend(
        network, tokenizer=tokenizer, short_side_px=short_side_px, device=device
    )
    return DetectorEngine(
        backend, model=ModelInfo(name="groundingdino-py Swin-T", kind="detector", revision="0")
    )


def llm(device: str, sizes: Sizes) -> Iterator[Figures]:
    """Time batched answers of one template: the profile's model, then real sizes at random."""
    template = load_templates()["parts"]
    prefix = template.example_sets[0].prefix
    suffixes = [template.question(caption) for caption in CAPTIONS[: sizes.num_captions]]
    entry = LlmSettings().read_profile().llm
    small = load_generator(replace(entry, device=device), cache_dir=default_cache_dir())
    for max_batch in (8, 32):
        small.max_batch = max_batch
        took_s, _ = _timed_answers(small, suffixes, prefix=prefix, device=device)
        yield {f"llm_captions_per_s_batch_{max_batch}": round(len(suffixes) / took_s, 2)}
    for name, config in sizes.llms.items():
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
        generator = Generator(model, small.tokenizer, max_batch=32, max_new_tokens=24)
        took_s, tokens = _timed_answers(generator, suffixes, prefix=prefix, device=device)
        yield {f"llm_tokens_per_s_{name}": round(tokens / took_s, 1)}
        del model, generator


def _timed_answers(
    generator: Generator, suffixes: Sequence[str], *, prefix: str, device: str
) -> tuple[float, int]:
    """Return (seconds, tokens written), with the prefix cached by a first call."""
    generator.generate(suffixes[:1], prefix=prefix)
    _wait(device)
    started_s = time.perf_counter()
    answers = generator.generate(suffixes, prefix=prefix)
    _wait(device)
    return time.perf_counter() - started_s, sum(len(answer.tokens) for answer in answers)


def segment(device: str, sizes: Sizes) -> Iterator[Figures]:
    """Time text queries over HTTP on a picture with a mask bank, and building a bank."""
    texts = build_text_encoder(SegmenterSettings(device=device))
    engine = build_engine(sizes.sams[0], texts)
    engine.network.to(device)
    words = itertools.cycle(background_words()[:100])
    with serve(engine, texts) as served:
        asked = [served.ask([next(words)], mask="rle") for _ in range(WARM_REQUESTS)]
    yield {"segment_warm_p50_ms": round(statistics.median(asked[WARM_REQUESTS // 4 :]) * 1000, 2)}
    build_bank(engine, _noise(1))
    _wait(device)
    started_s = time.perf_counter()
    build_bank(engine, _noise(2))
    _wait(device)
    yield {"bank_cold_ms": round((time.perf_counter() - started_s) * 1000, 1)}


def train(device: str, sizes: Sizes) -> Iterator[Figures]:
    """Time steps of the `readout` recipe; pictures are encoded before the timed steps."""
    recipe = readout()
    recipe = replace(recipe, network=replace(recipe.network, sam=sam_config(sizes.sams[0])))
    torch.manual_seed(0)
    model = SemanticSam(recipe.network).to(device)
    vectors = np.random.default_rng(0).normal(size=(len(LABELS), 768))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    label_vectors = LabelVectors(
        dict(zip(LABELS, vectors.astype("f4"), strict=True)),
        dict.fromkeys(LABELS, 1),
        center=False,
        config=recipe.semantic_loss,
    )
    batch = _batch(recipe.batch, side=recipe.network.sam.image_size)
    with tempfile.TemporaryDirectory() as folder:
        embeddings = KeptEmbeddings(Path(folder), model)
        trainer = SamTrainer(recipe, model, label_vectors=label_vectors, embeddings=embeddings)
        for _ in range(2):
            trainer.step([batch])
        _wait(device)
        started_s = time.perf_counter()
        for _ in range(sizes.train_steps):
            trainer.step([batch])
        _wait(device)
    steps_per_s = sizes.train_steps / (time.perf_counter() - started_s)
    yield {"train_steps_per_s": round(steps_per_s, 2)}


def _batch(config: BatchConfig, *, side: int) -> TrainBatch:
    """Return random boxes on as many pictures as a step of this recipe has."""
    generator = torch.Generator().manual_seed(0)
    num_boxes = config.boxes_per_step
    num_pictures = -(-num_boxes // config.boxes_per_picture)
    corners = torch.rand(num_boxes, 2, generator=generator) * side * 0.6
    sizes_px = side * (0.1 + 0.3 * torch.rand(num_boxes, 2, generator=generator))
    images = torch.randint(0, 255, (num_pictures, 3, side, side), generator=generator)
    none = torch.zeros(0)
    return TrainBatch(
        images=list(images.to(torch.uint8)),
        keys=tuple(f"picture-{number}" for number in range(num_pictures)),
        masks=MaskUnits(none.long(), none, none.bool(), none, none, none),
        boxes=BoxUnits(
            image_index=torch.arange(num_boxes) % num_pictures,
            boxes=torch.cat([corners, corners + sizes_px], dim=1),
            labels=tuple((LABELS[number % len(LABELS)],) for number in range(num_boxes)),
            negatives=((),) * num_boxes,
            noise=torch.randn(num_boxes, 4, generator=generator),
            draws=torch.rand(num_boxes, 2, generator=generator),
        ),
    )


SECTIONS: Mapping[str, Callable[[str, Sizes], Iterator[Figures]]] = {
    "encode": encode,
    "detect": detect,
    "segment": segment,
    "train": train,
    "llm": llm,
    "parity": parity,
}


# ---- clocks -----------------------------------------------------------------------------------


def _median_ms(run: Callable[[], object], device: str) -> float:
    """Return the median wall time of a synchronised call, after two warm-up calls."""
    taken_ms = []
    for _ in range(ROUNDS + 2):
        _wait(device)
        started_s = time.perf_counter()
        run()
        _wait(device)
        taken_ms.append((time.perf_counter() - started_s) * 1000)
    return statistics.median(taken_ms[2:])


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _noise(seed: int) -> Picture:
    """Return a new picture that no cache contains."""
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((640, 480)).save(buffer, format="JPEG")
    return decode_picture(buffer.getvalue())
