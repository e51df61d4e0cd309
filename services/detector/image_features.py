"""A picture goes through the image backbone once, however many chunks of phrases are asked.

Both codes of Grounding-DINO hold the backbone as one module that answers (features, positions), and
call it again for every text prompt.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def encoding_once(backbone: Any) -> Iterator[None]:
    """Within the block the module runs for its first input only and then repeats that answer."""
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
