"""Stand-ins for the ports: quick, deterministic, and honest about the contract."""

import hashlib
import threading
from collections.abc import Callable, Sequence

import numpy as np

from unspoken.errors import InvalidInput
from unspoken.images import Picture
from unspoken.schemas import (
    EMBEDDING_DIM,
    Box,
    Detection,
    DetectionResult,
    ModelInfo,
    Phrase,
    PhraseSource,
    Proposal,
)


class FakePrompter:
    """Every word of the caption of three letters or more is named; 'wheel' is always implied."""

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
        )


class FakeDetector:
    """One box a phrase, placed and scored by the hash of picture and phrase."""

    model = ModelInfo(name="fake-detector", kind="detector", revision="0")
    box_threshold = 0.3

    def __init__(self, *, before: Callable[[Picture, Sequence[str]], None] | None = None) -> None:
        self.num_calls = 0
        self._before = before
        self._lock = threading.Lock()

    def detect(
        self, picture: Picture, phrases: Sequence[str], *, box_threshold: float | None = None
    ) -> DetectionResult:
        threshold = self.box_threshold if box_threshold is None else box_threshold
        if self._before is not None:
            self._before(picture, phrases)
        with self._lock:
            self.num_calls += 1
        found = []
        for index, phrase in enumerate(phrases):
            if any(ord(character) < 32 for character in phrase) or not phrase.strip(" .?"):
                raise InvalidInput(f"phrases[{index}] has nothing to look for")
            digest = hashlib.sha256(picture.sha256.encode() + phrase.encode()).digest()
            height, width = picture.size_hw
            x0, y0 = digest[0] / 512 * width, digest[1] / 512 * height
            box = Box(x0=x0, y0=y0, x1=x0 + width / 3, y1=y0 + height / 3)
            score = digest[2] / 255
            if score >= threshold:
                found.append(Detection(phrase_index=index, phrase=phrase, box=box, score=score))
        found.sort(key=lambda detection: -detection.score)
        return DetectionResult(detections=tuple(found), num_chunks=1 if phrases else 0)


class FakeTextEncoder:
    """A unit vector from the text's hash."""

    model = ModelInfo(name="fake-text-encoder", kind="text_encoder", revision="0")

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        rows = []
        for text in texts:
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
            row = np.random.default_rng(seed).normal(size=EMBEDDING_DIM)
            rows.append(row / np.linalg.norm(row))
        return np.asarray(rows, dtype=np.float32).reshape(len(texts), EMBEDDING_DIM)
