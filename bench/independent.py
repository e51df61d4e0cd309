"""`python -m bench.independent`: the cost of asking a detector for each phrase alone.

A picture of 640 x 480 and twelve phrases: all in one text prompt, and with `independent` each in
its own. The backbone runs once a picture in either case. Times are processor milliseconds of one
thread, so that other work on the machine hardly changes them.

small_together_ms, small_independent_ms   the small detector as trained; medians a picture
small_times   the second over the first
base_together_ms, base_independent_ms, base_times   the same of Grounding-DINO Swin-T at published
              sizes with random weights, in float32
"""

import json
import statistics
import time

import torch

from bench.detect import PHRASES, SHORT_SIDE_PX
from bench.segment import random_detector, street
from services.detector.engine import DetectorEngine, build_engine
from services.detector.settings import DetectorSettings

ROUNDS = {"small": 9, "base": 3}


def main() -> None:
    """Print one JSON line."""
    torch.set_num_threads(1)
    engines = {
        "small": build_engine(DetectorSettings()),
        "base": random_detector(short_side_px=SHORT_SIDE_PX),
    }
    figures: dict[str, float] = {"phrases": len(PHRASES)}
    for name, engine in engines.items():
        figures |= {f"{name}_{key}": value for key, value in costs(engine, ROUNDS[name]).items()}
    print(json.dumps({"bench": "independent", "figures": figures}))


def costs(engine: DetectorEngine, rounds: int) -> dict[str, float]:
    """Return medians of both ways in turn, and their ratio."""
    taken_s: dict[bool, list[float]] = {False: [], True: []}
    engine.detect(street(), PHRASES)  # the first call fills caches
    for _ in range(rounds):
        for independent, times in taken_s.items():
            started_s = time.process_time()
            engine.detect(street(), PHRASES, independent=independent)
            times.append(time.process_time() - started_s)
    together_s, independent_s = (statistics.median(each) for each in taken_s.values())
    return {
        "together_ms": round(together_s * 1000, 1),
        "independent_ms": round(independent_s * 1000, 1),
        "times": round(independent_s / together_s, 1),
    }


if __name__ == "__main__":
    main()
