"""Atomic writing of checkpoint files."""

from pathlib import Path

import torch


def save_checkpoint(content: dict[str, object], path: Path) -> None:
    """Write a temporary file, then rename it, so a killed process leaves the old file intact."""
    beside = path.with_suffix(".part")
    torch.save(content, beside)
    beside.replace(path)
