"""Lists the project's files whose functions one picture's labelling enters.

`python -m tests.worker.files_entered` labels one picture of a folder source with fake ports: from
the tick that plans the run to the published shard. The second run of a process is traced, when all
modules are imported and the caches that outlive a run are filled.
"""

import sys
import tempfile
import threading
from pathlib import Path

from tests.worker.source_files import CAPTIONS, picture
from tests.worker.stage import Stage
from unspoken.runs.ledger import Ledger
from unspoken.runs.store import create_run
from unspoken.wire.runs import RunRequest

REPOSITORY = Path(__file__).resolve().parents[2]


def trace_labelling(folder: Path) -> list[str]:
    """Label one picture twice; return the project's files that the second run enters, sorted."""
    stage = Stage(folder)
    source = stage.data_dir / "one"
    source.mkdir()
    (source / "0.jpg").write_bytes(picture(0))
    (source / "0.txt").write_text(CAPTIONS[0])
    entered: set[str] = set()

    def note(frame, event, _argument):
        if event == "call" and frame.f_code.co_name != "<module>":
            entered.add(frame.f_code.co_filename)

    # Set before the first run, because that run starts threads which the second one uses again.
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        for run_id in ("first", "second"):
            create_run(stage.data_dir, stage.runs_dir, RunRequest(source="one", run_id=run_id))
            entered.clear()
            stage.dispatcher.tick()
            stage.work()
            files = set(entered)
            stage.dispatcher.tick()  # finishes the run, which is not part of the count
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert Ledger(stage.runs_dir / "second").committed(0)
    paths = (Path(name) for name in files)
    inside = {path.relative_to(REPOSITORY) for path in paths if path.is_relative_to(REPOSITORY)}
    return sorted(path.as_posix() for path in inside if path.parts[0] not in ("tests", ".venv"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        files = trace_labelling(Path(folder))
    sys.stdout.write("\n".join([*files, f"{len(files)} files"]) + "\n")
