"""Records which of the project's files a call enters: those that its reader has to open."""

from collections.abc import Callable
from pathlib import Path
from types import FrameType

import unspoken

ROOT = Path(unspoken.__file__).parent.parent
FOLDERS = ("services/", "unspoken/", "worker/")


class EnteredFiles:
    """A profile function, for `sys.setprofile` and `threading.setprofile`.

    The latter only concerns threads that start after it.
    """

    def __init__(self) -> None:
        self._entered: set[str] | None = None

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and self._entered is not None and path.startswith(str(ROOT)):
            name = path.removeprefix(f"{ROOT}/")
            if name.startswith(FOLDERS) and frame.f_code.co_name != "<module>":
                self._entered.add(name)

    def during(self, call: Callable[[], object]) -> set[str]:
        """Return the files whose functions are entered while the call runs."""
        entered = self._entered = set()
        try:
            call()
        finally:
            self._entered = None
        return entered
