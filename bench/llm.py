"""Speed of the default language model in batches with a cached prefix, compared with one by one.

The fast way answers in batches of 8 and caches the few-shot prefix; the plain way does neither.
Prints one JSON line. Time is this process's CPU time, because cores may be shared. In fp32 both
give the same text, or first differ at a token where the two best logits are within NEAR_TIE_GAP.
"""

import json
import time
from collections.abc import Callable

import torch

from services.llm.engine import load_generator
from services.llm.generator import Generation, Generator
from services.llm.template_file import load_templates
from unspoken.config.profiles import load_profile
from unspoken.config.settings import default_cache_dir

NEAR_TIE_GAP = 1e-3
CAPTIONS = """
Red London bus crossing Westminster Bridge in the rain
Two cats asleep on a knitted blanket
Vintage Leica M3 film camera with case, excellent condition
Grandmother knitting by the fireplace
Mountain bike leaning against a brick wall
Bowl of ramen with egg and spring onion
Surfer walking along the beach at dawn, Bali
Abandoned lighthouse on a rocky island
Men's Waterproof Hiking Boots - Brown, Size 44
Blue parrot in a rainforest | HD Wallpaper
School children waiting for the bus
Wooden rowing boat on a misty lake
1965 Ford Mustang convertible for sale, Nevada
Close up of a honey bee on a sunflower
Modern kitchen with marble island and bar stools
Jazz saxophonist performing at a club in New Orleans
Snow covered pine trees near Lake Tahoe
Freshly baked sourdough bread on a wooden board
Firefighter carrying a hose
Antique typewriter on a desk with paper
Hot air balloons over Cappadocia at sunrise
Little girl blowing out birthday candles
Cargo ship entering the port of Rotterdam
Potted cactus on a window sill
Airplane taking off from Heathrow
Giraffe eating leaves in Kenya
Street musician playing the violin in Prague
Retro alarm clock on a bedside table
Windmill and tulips, Holland
Basketball player dunking during the final
Gaming laptop with RGB keyboard, 16 GB
Farm tractor ploughing a field
""".strip().splitlines()


def main() -> None:
    """Time both ways; print the figures as one JSON line."""
    torch.set_num_threads(1)
    entry = load_profile("small").llm
    generator = load_generator(entry, cache_dir=default_cache_dir())
    template = load_templates()["parts"]
    prefix = template.example_sets[0].prefix
    suffixes = [template.question(caption) for caption in CAPTIONS]

    def batched() -> list[Generation]:
        return generator.generate(suffixes, prefix=prefix)

    def one_by_one() -> list[Generation]:
        return [answer_alone(generator, suffix, prefix=prefix) for suffix in suffixes]

    generator.generate(suffixes[:1], prefix=prefix)  # warm-up; keeps the prefix
    batched_s, fast = timed(batched)
    alone_s, plain = timed(one_by_one)
    pairs = [(a, b) for a, b in zip(fast, plain, strict=True) if a.text != b.text]
    figures = {
        "speedup": round(alone_s / batched_s, 2),
        "same_text": round(1 - len(pairs) / len(fast), 4),
        "different": len(pairs),
        "near_ties": sum(differ_at_near_tie(a, b) for a, b in pairs),
        "batched_s": round(batched_s / len(fast), 3),
        "alone_s": round(alone_s / len(fast), 3),
        "captions": len(fast),
    }
    print(json.dumps({"bench": "llm", "figures": figures}))


def answer_alone(generator: Generator, suffix: str, *, prefix: str) -> Generation:
    """Answer one prompt, computing the whole few-shot prefix again."""
    return generator.generate([suffix], prefix=prefix, keep_prefix=False)[0]


def timed(run: Callable[[], list[Generation]]) -> tuple[float, list[Generation]]:
    """Run a function; return its CPU seconds and its answers."""
    started = time.process_time()
    answers = run()
    return time.process_time() - started, answers


def differ_at_near_tie(a: Generation, b: Generation) -> bool:
    """Return True if two answers first differ at a token whose best logits were nearly equal."""
    for token_a, token_b, gap in zip(a.tokens, b.tokens, a.gaps, strict=False):
        if token_a != token_b:
            return gap < NEAR_TIE_GAP
    return False


if __name__ == "__main__":
    main()
