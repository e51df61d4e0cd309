"""Encode a picture once for all its text prompts.

Both Grounding-DINO implementations have the backbone as one module that returns (features,
positions), and they call it again for every text prompt.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def encoding_once(backbone: Any) -> Iterator[None]:
    """Within the block, run the module for its first input only, then return that result again."""
    encode = backbone.forward
    answer: tuple[list[Any], list[Any]] | None = None

    def encode_once(*args: Any, **kwargs: Any) -> tuple[list[Any], list[Any]]:
        nonlocal answer
        if answer is None:
            answer = encode(*args, **kwargs)
        features, positions = answer
        return list(features), list(positions)  # copies: the network appends a level to them

    backbone.forward = encode_once
    try:
        yield
    finally:
        del backbone.forward
