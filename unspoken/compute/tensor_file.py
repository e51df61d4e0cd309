"""Write safetensors files atomically, with the usual file mode."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to `path`, replacing an existing file. Raises OSError.

    safetensors creates files with mode 0600; this function uses the mode that the umask allows.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.touch()
        mode = draft.stat().st_mode & 0o777
        save_file(dict(tensors), draft, metadata=None if metadata is None else dict(metadata))
        draft.chmod(mode)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
