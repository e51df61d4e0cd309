"""Comparing a source with the plan of a run."""

import tarfile

import pytest

from tests.worker.source_files import CAPTIONS, add, picture, write_shard
from tests.worker.stage import Stage
from unspoken.runs.location import locate_source
from unspoken.runs.store import read_run
from worker.sources.source_changes import SourceChanges, compare_source


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    with tarfile.open(stage.data_dir / "in/00001.tar", "w") as tar:
        add(tar, "a.jpg", picture(50))
        add(tar, "a.txt", CAPTIONS[0].encode())
        add(tar, "b.txt", b"A caption whose picture is missing")
    stage.create()
    stage.dispatcher.tick()
    return stage


def changes(stage):
    location = locate_source(read_run(stage.runs_dir, "r"), runs_dir=stage.runs_dir)
    return compare_source(stage.runs_dir / "r", location)


def test_an_unchanged_source_has_no_changes(stage):
    assert not changes(stage)


def test_a_removed_file_counts_its_pictures_and_not_its_rows_without_one(stage):
    (stage.data_dir / "in/00001.tar").unlink()
    assert changes(stage) == SourceChanges(gone=1)


def test_new_changed_and_removed_pictures_are_counted_apart(stage):
    captions = [CAPTIONS[0], "A new caption of a known picture", *CAPTIONS[2:10]]
    write_shard(stage.data_dir / "in/00000.tar", captions)
    write_shard(stage.data_dir / "in/00002.tar", CAPTIONS[:3], first_seed=200)
    assert changes(stage) == SourceChanges(new=3, changed=1, gone=2)
