"""A checkpoint that runs a program when it is unpickled, given to everything that reads `.pth`."""

import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from unspoken.errors import InvalidConfig


class Program:
    """Writes the canary's file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self._canary,)


def write_checkpoints(folder: Path, canary: Path) -> Iterator[Path]:
    """The program as a plain pickle (torch's old form), and in torch's zip."""
    program = pickle.dumps({"model": Program(canary)}, protocol=2)  # as torch writes it
    plain = folder / "plain.pth"
    plain.write_bytes(program)
    yield plain
    zipped = folder / "zipped.pth"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    yield zipped


def is_executed(folder: Path) -> bool:
    """Whether any reader ran it, or took it for a checkpoint."""
    from services.detector.groundingdino_backend import read_weights
    from unspoken.model.checkpoint import load_official_sam

    canary = folder / "canary"
    pickle.loads(pickle.dumps(Program(canary)))  # the program works where it is let
    assert canary.exists(), "the program does nothing: it proves nothing"
    canary.unlink()
    taken = False
    for path in write_checkpoints(folder, canary):
        for read in (load_official_sam, read_weights):
            try:
                read(path)
                taken = True
            except InvalidConfig:
                pass
    return taken or canary.exists()
