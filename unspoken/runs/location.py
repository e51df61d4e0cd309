"""The place of a run's pictures. A run remembers its data folder, so that no command asks again."""

from dataclasses import dataclass
from pathlib import Path

from unspoken.errors import SourceAway
from unspoken.runs.store import Run, remembered_data_dir


@dataclass(frozen=True)
class SourceLocation:
    """The files of one run's source.

    root: folder that the run may read from, and none outside it. source: the file or folder that
    is labelled. pictures: folder that a table's paths are relative to; None for the table's own.
    """

    root: Path
    source: Path
    pictures: Path | None

    def check_present(self, *, may_be_empty: bool = False) -> None:
        """Raise SourceAway where the source, or its folder of pictures, is not there.

        An empty folder counts as absent too, because a disk that is not mounted looks like one.
        """
        for path in (self.source, *([self.pictures] if self.pictures else [])):
            if not path.exists() or not (may_be_empty or _holds_something(path)):
                raise SourceAway(
                    f"the run's source {path} is missing or empty: put it back (is a disk not "
                    "mounted?), or name the folder that it is in now with --data"
                )


def locate_source(run: Run, *, runs_dir: Path, data_dir: Path | None = None) -> SourceLocation:
    """Return the place of a run's source.

    data_dir: the data folder as this process sees it, where it differs from the recorded one:
    another mount point, or a source that was moved.
    """
    if run.source is None:
        folder = runs_dir / run.run_id / "source"
        return SourceLocation(folder, folder, None)
    root = (data_dir or remembered_data_dir(run, runs_dir)).resolve()
    pictures = None if run.pictures is None else root / run.pictures
    return SourceLocation(root, root / run.source, pictures)


def _holds_something(path: Path) -> bool:
    return not path.is_dir() or next(path.iterdir(), None) is not None
