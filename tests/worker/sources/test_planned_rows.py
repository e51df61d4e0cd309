"""Sources that change, move or disappear during a run."""

import io
import shutil
import tarfile
import time

import pytest

from tests.worker.source_files import CAPTIONS, picture, write_pictures, write_shard, write_table
from tests.worker.stage import Stage
from unspoken.runs.store import create_run, read_status, retry_failed
from unspoken.wire.runs import RunRequest


@pytest.fixture
def stage(tmp_path):
    made = Stage(tmp_path)
    shutil.rmtree(made.data_dir)
    return made


def write_captioned(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        (folder / f"{name}.jpg").write_bytes(picture(index))
        (folder / f"{name}.txt").write_text(CAPTIONS[index % len(CAPTIONS)])


def plan_only(stage, source, **what):
    """Create a run and let the dispatcher plan it; no chunk is worked on yet."""
    create_run(stage.data_dir, stage.runs_dir, RunRequest(source=source, run_id="r", **what))
    stage.dispatcher.tick()


def reasons(stage, run_id="r"):
    return {row.source_member: row.reason for row in stage.rows(run_id) if row.status == "failed"}


def test_of_a_folder_that_grew_and_changed_only_the_changed_rows_fail(stage):
    folder = stage.data_dir / "in"
    write_captioned(folder, [f"m{index:02d}" for index in range(12)])
    plan_only(stage, "in", chunk_size=4)
    write_captioned(folder, ["a-new-first-one"])
    (folder / "m03.txt").write_text("A caption that somebody wrote anew")
    (folder / "m07.jpg").write_bytes(picture(70, size=(120, 90)))
    (folder / "m10.jpg").unlink()
    stage.work()
    status = stage.tick(3)
    assert (status.state, status.total, status.labelled) == ("done", 12, 9)
    assert reasons(stage) == dict.fromkeys(["in/m03.jpg", "in/m07.jpg", ""], "source_changed")
    labelled = {row.source_member: row.caption for row in stage.rows() if row.status == "labelled"}
    assert labelled["in/m00.jpg"] == CAPTIONS[0] and labelled["in/m11.jpg"] == CAPTIONS[11]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_rows_that_moved_in_a_table_are_found(stage, ending):
    names = write_pictures(stage.data_dir / "in", 6)
    rows = [{"path": name, "caption": CAPTIONS[i]} for i, name in enumerate(names)]
    table = stage.data_dir / f"in/table.{ending}"
    write_table(table, rows)
    plan_only(stage, f"in/table.{ending}", chunk_size=2)
    write_table(
        table, [rows[5], {**rows[1], "caption": "Something else entirely"}, rows[0], *rows[2:]]
    )
    stage.work()
    status = stage.tick(3)
    assert (status.labelled, status.failed) == (5, {"source_changed": 1})
    assert reasons(stage) == {"in/1.jpg": "source_changed"}
    assert [row.key for row in stage.rows()] == [f"{i}-{i:06d}" for i in range(6)]


def test_rows_that_moved_in_a_tar_are_found(stage):
    shard = stage.data_dir / "in/00000.tar"
    write_shard(shard, CAPTIONS[:6], columns=[{"LANGUAGE": "en", "punsafe": 0.01}] * 6)
    plan_only(stage, "in", chunk_size=2)
    whole = shard.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(whole)) as old, tarfile.open(shard, "w") as new:
        kept = [each for each in old if not each.name.startswith("0000000001.")]
        for member in kept:
            new.addfile(member, old.extractfile(member))
    stage.work()
    status = stage.tick(3)
    assert (status.labelled, status.failed) == (5, {"source_changed": 1})


def test_a_retry_labels_the_changed_rows_where_they_are_now(stage):
    folder = stage.data_dir / "in"
    write_captioned(folder, [f"m{index:02d}" for index in range(6)])
    plan_only(stage, "in", chunk_size=3)
    (folder / "m03.txt").write_text("A painter stands near the quiet harbour")
    stage.work()
    assert stage.tick(3).failed == {"source_changed": 1}
    write_captioned(folder, ["a-new-first-one"])
    again = retry_failed(stage.runs_dir, "r")
    stage.tick(3)
    assert [(row.source_member, row.status) for row in stage.rows(again.run_id)] == [
        ("in/m03.jpg", "labelled")
    ]


def test_a_run_remembers_its_data_folder(stage, tmp_path):
    """`retry` or `up` on the workspace of an interrupted `label` of a folder elsewhere."""
    elsewhere = tmp_path / "my-pictures"
    write_captioned(elsewhere, [f"m{index:02d}" for index in range(6)])
    create_run(elsewhere, stage.runs_dir, RunRequest(source=".", run_id="r", chunk_size=3))
    stage.dispatcher.tick()
    (tmp_path / "data").mkdir(exist_ok=True)
    stage.seen_data_dir = None
    stage.dispatcher = stage.new_dispatcher()
    status = stage.tick(4)
    assert (status.state, status.labelled, status.failed) == ("done", 6, {})


def test_a_run_that_was_moved_is_found_in_the_folder_that_a_process_is_told(stage, tmp_path):
    write_captioned(stage.data_dir / "in", ["a", "b"])
    plan_only(stage, "in")
    stage.data_dir.rename(tmp_path / "moved")
    stage.seen_data_dir = tmp_path / "moved"
    stage.dispatcher = stage.new_dispatcher()
    assert stage.tick(4).labelled == 2


@pytest.mark.parametrize("mount_point_is_left", [True, False])
def test_a_run_waits_for_a_source_that_is_away(stage, tmp_path, mount_point_is_left):
    write_captioned(stage.data_dir, ["a", "b", "c"])
    plan_only(stage, ".", chunk_size=2)
    stage.data_dir.rename(tmp_path / "away")
    if mount_point_is_left:
        stage.data_dir.mkdir()
    stage.work()
    stage.dispatcher.tick()
    status = read_status(stage.runs_dir, "r")
    assert status.state == "running" and status.done == 0
    assert status.message.startswith(f"paused: the run's source {stage.data_dir} is missing")
    if mount_point_is_left:
        stage.data_dir.rmdir()
    (tmp_path / "away").rename(stage.data_dir)
    for _ in range(9):
        time.sleep(0.25)  # a chunk that met an error is left alone for a lease's life
        stage.tick()
    status = read_status(stage.runs_dir, "r")
    assert (status.state, status.labelled, status.failed) == ("done", 3, {})


def test_a_run_whose_source_is_away_before_it_is_planned_waits(stage, tmp_path):
    write_captioned(stage.data_dir / "in", ["a"])
    create_run(stage.data_dir, stage.runs_dir, RunRequest(source="in", run_id="r"))
    (stage.data_dir / "in").rename(tmp_path / "away")
    assert stage.tick().state == "planned"
    (tmp_path / "away").rename(stage.data_dir / "in")
    assert stage.tick(4).state == "done"


def test_a_file_that_is_refused_keeps_its_reason(stage, tmp_path):
    write_shard(stage.data_dir / "in/00000.tar", CAPTIONS[:2])
    write_shard(tmp_path / "elsewhere/x.tar", CAPTIONS[2:4])
    (stage.data_dir / "in/link.tar").symlink_to(tmp_path / "elsewhere/x.tar")
    (stage.data_dir / "in/caf\udce9.tar").write_bytes(b"")
    plan_only(stage, "in")
    stage.work()
    status = stage.tick(3)
    assert (status.state, status.labelled, status.failed) == ("done", 2, {"bad_shard": 2})
    details = sorted(row.detail for row in stage.rows() if row.status == "failed")
    assert details[0] == "link.tar leads out of the data folder" and "not UTF-8" in details[1]
