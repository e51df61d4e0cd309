"""A checkpoint that runs a program when it is unpickled, passed to every reader of `.pth` files."""

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
    """Write the program as a plain pickle (torch's old format), and in torch's zip format."""
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
    """Return True if a reader ran the program or accepted the file as a checkpoint."""
    from services.detector.groundingdino_backend import read_weights
    from unspoken.model.sam.checkpoint import load_official_sam

    canary = folder / "canary"
    pickle.loads(pickle.dumps(Program(canary)))  # check that the program works when it is allowed
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
