"""What docs/operations.md tells an operator to do, done."""

from typer.testing import CliRunner

from stack.cli import app
from tests.worker.stage import Stage
from unspoken.runs.store import cancel_run, read_status
from unspoken.runs.verify import verify_run


def test_an_ended_run_whose_status_is_removed_is_checked_and_mended(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    assert stage.tick(3).state == "done"
    manifest = (tmp_path / "runs/r/dataset/manifest.json").read_bytes()
    (tmp_path / "runs/r/dataset/shard-000001.parquet").write_bytes(b"spoilt")
    assert not verify_run(stage.runs_dir, "r").is_right
    (tmp_path / "runs/r/status.json").unlink()
    stage.dispatcher = stage.new_dispatcher()
    assert stage.tick(4).state == "done"
    assert verify_run(stage.runs_dir, "r").is_right
    assert (tmp_path / "runs/r/dataset/manifest.json").read_bytes() == manifest


def test_a_run_that_was_cancelled_by_mistake_goes_on(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.dispatcher.tick()
    cancel_run(stage.runs_dir, "r")
    assert stage.tick().state == "cancelled"
    (tmp_path / "runs/r/cancelled").unlink()
    stage.dispatcher = stage.new_dispatcher()
    assert stage.tick(3).state == "done"


def test_a_run_may_be_cancelled_from_the_command_line(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    result = CliRunner().invoke(app, ["cancel", "r", "--dir", str(tmp_path)])
    assert result.exit_code == 0 and result.output.startswith("r: cancelled")
    assert read_status(stage.runs_dir, "r").state == "cancelled"


def test_a_record_of_a_later_version_that_says_more_does_not_make_its_shard_spoilt(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.tick(1)
    record = tmp_path / "runs/r/dataset/shard-000001.json"
    record.write_text(record.read_text().replace("{", '{"mood": "good",', 1))
    stage.dispatcher = stage.new_dispatcher()
    assert stage.tick(2).state == "done" and stage.doorbell.rung == [0, 1, 2]
