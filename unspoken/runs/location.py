"""Location of a run's pictures. A run records its data folder, so later commands need not."""

from dataclasses import dataclass
from pathlib import Path

from unspoken.errors import SourceAway
from unspoken.runs.store import Run, remembered_data_dir


@dataclass(frozen=True)
class SourceLocation:
    """The files of one run's source.

    root: the only folder that the run may read from. source: the file or folder that is labelled.
    pictures: folder that a table's paths are relative to; None for the table's own.
    """

    root: Path
    source: Path
    pictures: Path | None

    def check_present(self, *, may_be_empty: bool = False) -> None:
        """Raise SourceAway if the source, or its folder of pictures, does not exist.

        An empty folder counts as missing too, because a disk that is not mounted looks like one.
        """
        for path in (self.source, *([self.pictures] if self.pictures else [])):
            if not path.exists() or not (may_be_empty or _holds_something(path)):
                raise SourceAway(
                    f"the run's source {path} is missing or empty: mount its disk or "
                    "restore it; if it was moved, give its new folder with --moved-to"
                )


def locate_source(run: Run, *, runs_dir: Path, data_dir: Path | None = None) -> SourceLocation:
    """Return the location of a run's source.

    data_dir: the data folder as this process sees it, if it differs from the recorded one because
    of another mount point or because the source was moved.
    """
    if run.source is None:
        folder = runs_dir / run.run_id / "source"
        return SourceLocation(folder, folder, None)
    root = (data_dir or remembered_data_dir(run, runs_dir)).resolve()
    pictures = None if run.pictures is None else root / run.pictures
    return SourceLocation(root, root / run.source, pictures)


def _holds_something(path: Path) -> bool:
    return not path.is_dir() or next(path.iterdir(), None) is not None
