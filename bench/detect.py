"""`python -m bench.detect`: speed of the served detector against the groundingdino-py package.

Both use Swin-T and BERT at their published sizes with random weights, a picture of 640 x 480 and
twelve phrases, at the same short side. They run alternately in one process. The served engine is
transformers' network with `dtype: auto` of models.yaml: bfloat16 if a probe finds it faster on this
machine. The package's predictor needs opencv, so the bench calls the package's network directly, in
the same way as that predictor.

speedup       seconds of the package's network divided by those of the served engine; target: at
              least 1.8 on a processor with avx512_bf16 or AMX, and at least 1.0 on any other
speedup_float32         the same for the engine in float32, as served on other processors
package_s, served_s, float32_s   median seconds per picture
"""

import json
import statistics
from collections.abc import Callable

import torch
from transformers import BertConfig

from bench.encode import seconds
from bench.shared.random_models import bert_tokenizer, random_detector, street
from services.detector.engine import DetectorEngine
from services.detector.groundingdino_backend import GroundingDinoBackend, build_network
from unspoken.compute.precision import faster_dtype
from unspoken.wire.base import ModelInfo

ROUNDS = 5
SHORT_SIDE_PX = 800
"""The published one."""
PHRASES = (
    *("dog", "leash", "tree", "bicycle", "wheel", "street lamp"),
    *("window", "roof", "bench", "bag", "shoe", "sign"),
)


def main() -> None:
    """Print one JSON line."""
    dtype = faster_dtype("cpu")
    engines = {
        "package_s": package_detector(),
        "served_s": random_detector(short_side_px=SHORT_SIDE_PX, dtype=dtype),
        "float32_s": random_detector(short_side_px=SHORT_SIDE_PX),
    }
    taken_s: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            taken_s[name].append(seconds(asked(engine)))
    medians_s = {name: statistics.median(times) for name, times in taken_s.items()}
    figures = {
        "speedup": round(medians_s["package_s"] / medians_s["served_s"], 2),
        "speedup_float32": round(medians_s["package_s"] / medians_s["float32_s"], 2),
        **{name: round(median_s, 2) for name, median_s in medians_s.items()},
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
    }
    print(json.dumps({"bench": "detect", "figures": figures}))


def asked(engine: DetectorEngine) -> Callable[[], object]:
    """Return a call that detects all phrases in one picture in one pass."""
    return lambda: engine.detect(street(), PHRASES, box_threshold=0.3)


def package_detector() -> DetectorEngine:
    """Build an engine on the package's network."""
    tokenizer = bert_tokenizer()
    torch.manual_seed(0)
    network = build_network("swin_T_224_1k", bert_config=BertConfig(), tokenizer=tokenizer)
    backend = GroundingDinoBackend(
        network, tokenizer=tokenizer, short_side_px=SHORT_SIDE_PX, device="cpu"
    )
    return DetectorEngine(
        backend, model=ModelInfo(name="groundingdino-py Swin-T", kind="detector", revision="0")
    )


if __name__ == "__main__":
    main()
