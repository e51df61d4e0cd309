"""Number of files that a reader of one picture's labelling has to open.

`pytest -s` with this file prints them.
"""

import sys
import threading

import pytest

from tests.entered_files import EnteredFiles
from tests.worker.source_files import CAPTIONS, picture
from tests.worker.stage import Stage
from unspoken.runs.ledger import Ledger
from unspoken.runs.store import create_run
from unspoken.wire.runs import RunRequest
from worker.label import pipeline

MAX_FILES = 55


@pytest.fixture
def entered_files():
    recorder = EnteredFiles()
    pipeline._detector_threads.cache_clear()  # its threads started before the recorder
    threading.setprofile(recorder)
    sys.setprofile(recorder)
    yield recorder
    sys.setprofile(None)
    threading.setprofile(None)


def test_from_the_plan_to_the_shard_a_picture_of_a_folder_enters_at_most_55_files(
    tmp_path, entered_files
):
    stage = Stage(tmp_path)
    source = stage.data_dir / "one"
    source.mkdir()
    (source / "0.jpg").write_bytes(picture(0))
    (source / "0.txt").write_text(CAPTIONS[0])

    def label():
        stage.dispatcher.tick()
        stage.work()

    for run_id in ("first", "second"):  # the first fills the caches that outlive a run
        create_run(stage.data_dir, stage.runs_dir, RunRequest(source="one", run_id=run_id))
        files = entered_files.during(label)
        assert Ledger(stage.runs_dir / run_id).committed(0)
        stage.dispatcher.tick()  # finishes the run, which is not part of the count
    sys.stdout.write("\n".join(["", *sorted(files), f"{len(files)} files\n"]))
    assert {"worker/process/attempt.py", "worker/sources/folders.py"} < files
    assert len(files) <= MAX_FILES, sorted(files)
