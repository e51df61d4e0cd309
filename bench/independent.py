"""`python -m bench.independent`: the cost of a separate detector prompt for each phrase.

A few phrases are detected in a picture of 640 x 480: all in one text prompt, and with `independent`
each in its own prompt. The backbone runs once per picture in both cases. Times are CPU milliseconds
of one thread, so that other load on the machine hardly changes them.

small_phrases, small_together_ms, small_independent_ms   the trained small detector; medians per
              picture
small_phrase_ms   cost of each further independent phrase
base_...      the same for Grounding-DINO Swin-T at published sizes, random weights, in float32
"""

import json
import statistics
import time
from collections.abc import Sequence

import torch

from bench.detect import PHRASES, SHORT_SIDE_PX
from bench.shared.random_models import random_detector, street
from services.detector.engine import DetectorEngine, build_engine
from services.detector.settings import DetectorSettings

SMALL_ROUNDS = 9
BASE_ROUNDS = 1
BASE_PHRASES = PHRASES[:4]


def main() -> None:
    """Print one JSON line."""
    torch.set_num_threads(1)
    small = costs(build_engine(DetectorSettings()), PHRASES, rounds=SMALL_ROUNDS)
    base = costs(random_detector(short_side_px=SHORT_SIDE_PX), BASE_PHRASES, rounds=BASE_ROUNDS)
    figures = {f"small_{name}": value for name, value in small.items()}
    figures |= {f"base_{name}": value for name, value in base.items()}
    print(json.dumps({"bench": "independent", "figures": figures}))


def costs(engine: DetectorEngine, phrases: Sequence[str], *, rounds: int) -> dict[str, float]:
    """Return medians of both ways in turn, and the cost of a further independent phrase."""
    taken_s: dict[bool, list[float]] = {False: [], True: []}
    engine.detect(street(), phrases)  # the first call fills caches
    for _ in range(rounds):
        for independent, times in taken_s.items():
            started_s = time.process_time()
            engine.detect(street(), phrases, independent=independent)
            times.append(time.process_time() - started_s)
    together_s, independent_s = (statistics.median(each) for each in taken_s.values())
    return {
        "phrases": len(phrases),
        "together_ms": round(together_s * 1000, 1),
        "independent_ms": round(independent_s * 1000, 1),
        "phrase_ms": round((independent_s - together_s) * 1000 / (len(phrases) - 1), 1),
    }


if __name__ == "__main__":
    main()
