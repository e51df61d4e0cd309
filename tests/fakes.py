"""Fakes of the ports: fast, deterministic, and conforming to the contracts."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.segmenter.answer.planning import Detected, QueryPlan, QueryPlanner
from services.segmenter.cache.disk_tier import DiskTier, Stored
from services.segmenter.cache.embedding_cache import EmbeddingCache, public_id
from services.segmenter.cache.image_tiers import MISS
from unspoken.errors import InvalidInput
from unspoken.imaging.images import Picture
from unspoken.imaging.masks import encode_rle
from unspoken.timings import Timings
from unspoken.wire.base import ErrorBody, ModelInfo
from unspoken.wire.crops import Crop
from unspoken.wire.detections import Detection, DetectionResult
from unspoken.wire.pictures import Box
from unspoken.wire.proposals import Phrase, PhraseSource, Proposal
from unspoken.wire.segment import (
    CacheState,
    Instance,
    QueryResult,
    RleMask,
    SegmentedImage,
    SegmentQuery,
    SegmentReply,
)
from unspoken.wire.texts import EMBEDDING_DIM


class FakePrompter:
    """Proposes each caption word of three or more letters as named, and 'wheel' as implied."""

    model = ModelInfo(name="fake-llm", kind="llm", revision="0")

    def __init__(self, *, before: Callable[[Sequence[str]], None] | None = None) -> None:
        self.num_calls = 0
        self.num_captions = 0
        self._before = before
        self._lock = threading.Lock()

    def propose(
        self, captions: Sequence[str], *, templates: Sequence[str] | None = None
    ) -> list[Proposal]:
        if templates is not None and any(template != "parts" for template in templates):
            raise InvalidInput(f"unknown template in {list(templates)}; known: parts")
        if self._before is not None:
            self._before(captions)
        with self._lock:
            self.num_calls += 1
            self.num_captions += len(captions)
        return [self._propose(caption) for caption in captions]

    def _propose(self, caption: str) -> Proposal:
        words = [word.strip(".,!").lower() for word in caption.split()]
        named = list(dict.fromkeys(w for w in words if len(w) >= 3 and w.isascii() and w.isalpha()))
        phrases = [(text, True) for text in named[:8]]
        if "wheel" not in named:
            phrases.append(("wheel", False))
        return Proposal(
            phrases=tuple(
                Phrase(
                    text=text,
                    named=is_named,
                    sources=(PhraseSource(template="parts", model="fake-llm", rank=rank),),
                )
                for rank, (text, is_named) in enumerate(phrases)
            ),
            raw_texts={"parts": ", ".join(text for text, _ in phrases)},
            prompt_sha256="fake-prompts",
        )


class FakeDetector:
    """Returns one box per phrase, with place and score from the hash of picture and phrase."""

    model = ModelInfo(name="fake-detector", kind="detector", revision="0")
    box_threshold = 0.3

    def __init__(self, *, before: Callable[[Picture, Sequence[str]], None] | None = None) -> None:
        self.num_calls = 0
        self._before = before
        self._lock = threading.Lock()

    def detect(
        self,
        picture: Picture,
        phrases: Sequence[str],
        *,
        box_threshold: float | None = None,
        independent: bool = False,
    ) -> DetectionResult:
        threshold = self.box_threshold if box_threshold is None else box_threshold
        if self._before is not None:
            self._before(picture, phrases)
        _ = picture.pixels  # as an engine would, which fails for a damaged picture
        with self._lock:
            self.num_calls += 1
        bad = [
            {"phrase_index": index, "problem": "has nothing to look for"}
            for index, phrase in enumerate(phrases)
            if any(ord(character) < 32 for character in phrase) or not phrase.strip(" .?")
        ]
        if bad:
            raise InvalidInput("phrases have nothing to look for", details={"phrases": bad})
        found = []
        for index, phrase in enumerate(phrases):
            digest = hashlib.sha256(picture.sha256.encode() + phrase.encode()).digest()
            height, width = picture.size_hw
            x0, y0 = digest[0] / 512 * width, digest[1] / 512 * height
            box = Box(x0=x0, y0=y0, x1=x0 + width / 3, y1=y0 + height / 3)
            score = digest[2] / 255
            if score >= threshold:
                found.append(Detection(phrase_index=index, phrase=phrase, box=box, score=score))
        found.sort(key=lambda detection: -detection.score)
        num_chunks = len(phrases) if independent else min(len(phrases), 1)
        return DetectionResult(detections=tuple(found), num_chunks=num_chunks)


@dataclass(eq=False)
class FakeImage:
    """A cached image of the fake segmenter."""

    id: str
    sha256: str
    size_hw: tuple[int, int]
    encoded: bytes = b""
    bank: object | None = None
    num_bytes: int = 1000


@dataclass
class FakeContent:
    """A reply of the fake segmenter, without the cache's state and times."""

    reply: SegmentReply

    def to_json(self, *, cache: CacheState, timings: Timings) -> bytes:
        changes = {"cache": cache, "timings_ms": timings.as_ms()}
        return self.reply.model_copy(update=changes).model_dump_json().encode()


class FakeSegmenter:
    """An engine that returns one instance per query, from the hash of picture and text."""

    model = ModelInfo(name="fake-segmenter", kind="segmenter", revision="0")

    def __init__(
        self, *, before: Callable[[Picture], None] | None = None, disk: DiskTier | None = None
    ) -> None:
        self.cache = EmbeddingCache[FakeImage](capacity_mib=1)
        self.disk = disk
        self.planner = QueryPlanner(
            model_name=self.model.name, is_trained=True, detector=FakeDetector(), auto_method="bank"
        )
        self.queries = self
        self.num_embedded = 0
        self._before = before

    def image_id(self, content_sha256: str) -> str:
        return public_id(content_sha256, weights_sha256="0", preprocessing="0", dtype="0")

    def embed(self, picture: Picture) -> FakeImage:
        if self._before is not None:
            self._before(picture)
        _ = picture.pixels  # as an engine would, which fails for a damaged picture
        self.num_embedded += 1
        image_id = self.image_id(picture.sha256)
        return FakeImage(image_id, picture.sha256, picture.size_hw, picture.encoded)

    def pack(self, entry: FakeImage) -> dict[str, np.ndarray]:
        return {"encoded": np.frombuffer(entry.encoded, dtype=np.uint8)}

    def unpack(self, stored: Stored, *, sha256: str, size_hw: tuple[int, int]) -> FakeImage:
        return FakeImage(stored.id, sha256, size_hw, stored.arrays["encoded"].tobytes())

    def text_targets(self, texts: Sequence[str]) -> np.ndarray:
        return FakeTextEncoder().encode_texts([f"target of {text}" for text in texts])

    def bank_steps(self, entry: FakeImage) -> Iterator[None]:
        entry.bank = "built"
        yield from ()

    def answer(self, entry: FakeImage, plan: QueryPlan, detected: Detected | None) -> FakeContent:
        height, width = entry.size_hw
        results = []
        for index, query in enumerate(plan.question.queries):
            if index in plan.problems:
                error = ErrorBody(error=InvalidInput.code, message=plan.problems[index])
                results.append(
                    QueryResult(query_index=index, text=query.text, error=error, instances=[])
                )
                continue
            results.append(
                QueryResult(
                    query_index=index,
                    text=query.text,
                    method="prompts" if query.is_prompted else plan.method,
                    threshold=query.threshold or 0,
                    instances=self._instances(query, entry, plan.question.output.mask),
                )
            )
        return FakeContent(
            SegmentReply(
                image=SegmentedImage(id=entry.id, width=width, height=height),
                model=self.model,
                method=plan.method,
                cache=MISS,
                results=results,
                timings_ms={},
            )
        )

    def warm_up(self) -> None:
        pass

    def _instances(self, query: SegmentQuery, entry: FakeImage, form: str) -> list[Instance]:
        height, width = entry.size_hw
        digest = hashlib.sha256(entry.sha256.encode() + (query.text or "").encode()).digest()
        x0, y0 = digest[0] * width // 512, digest[1] * height // 512
        score = digest[2] / 255
        if score < (query.threshold or 0):
            return []
        mask = np.zeros((height, width), dtype=bool)
        mask[y0 : y0 + height // 3 + 1, x0 : x0 + width // 3 + 1] = True
        (counts,) = encode_rle(mask[None])
        return [
            Instance(
                box=Box(x0=x0, y0=y0, x1=x0 + width // 3 + 1, y1=y0 + height // 3 + 1),
                score=score,
                prompt_index=0 if query.is_prompted else None,
                mask_index=0 if query.is_prompted else None,
                predicted_iou=0.9,
                similarity=0.5,
                area=int(mask.sum()),
                mask=RleMask(size=entry.size_hw, counts=counts.decode()) if form == "rle" else None,
            )
        ]


class StepwiseSegmenter(FakeSegmenter):
    """A fake whose banks take several steps; `before_step` is called with the image before each."""

    def __init__(
        self,
        *,
        num_steps: int,
        before_step: Callable[[FakeImage], None],
        before: Callable[[Picture], None] | None = None,
    ) -> None:
        super().__init__(before=before)
        self._num_steps = num_steps
        self._before_step = before_step

    def bank_steps(self, entry: FakeImage) -> Iterator[None]:
        for _ in range(self._num_steps - 1):
            self._before_step(entry)
            yield
        self._before_step(entry)
        entry.bank = "built"


class FakeCropRanker:
    """Ranks a label by the table, or by the hash of picture and label."""

    model = ModelInfo(name="fake-text-encoder", kind="text_encoder", revision="0")

    def __init__(self, ranks: Mapping[str, int] | None = None) -> None:
        self.asked: list[tuple[Sequence[Crop], Sequence[str]]] = []
        self._ranks = ranks or {}

    def rank_crops(
        self, picture: Picture, crops: Sequence[Crop], labels: Sequence[str]
    ) -> list[int]:
        self.asked.append((crops, labels))
        height, width = picture.size_hw
        if any(crop.box.x0 >= width or crop.box.y0 >= height for crop in crops):
            raise InvalidInput("box 0 is outside of the picture")
        _ = picture.pixels
        return [self._rank(picture, labels[crop.label_index], len(labels)) for crop in crops]

    def _rank(self, picture: Picture, label: str, num_labels: int) -> int:
        digest = hashlib.sha256(picture.sha256.encode() + label.encode()).digest()
        return self._ranks.get(label, 1 + digest[3] % min(10, num_labels))


class FakeTextEncoder:
    """Returns a unit vector from the text's hash."""

    model = ModelInfo(name="fake-text-encoder", kind="text_encoder", revision="0")

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        rows = []
        for text in texts:
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
            row = np.random.default_rng(seed).normal(size=EMBEDDING_DIM)
            rows.append(row / np.linalg.norm(row))
        return np.asarray(rows, dtype=np.float32).reshape(len(texts), EMBEDDING_DIM)
