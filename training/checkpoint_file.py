"""A checkpoint on disk is whole or not there."""

from pathlib import Path

import torch


def save_checkpoint(content: dict[str, object], path: Path) -> None:
    """Write beside, then rename: a kill in between leaves the older checkpoint whole."""
    beside = path.with_suffix(".part")
    torch.save(content, beside)
    beside.replace(path)
