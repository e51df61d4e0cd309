"""The repair procedures of docs/how-to/troubleshooting.md, executed."""

from typer.testing import CliRunner

from cli.main import app
from tests.worker.source_files import CAPTIONS, write_shard
from tests.worker.stage import Stage
from unspoken.errors import Conflict
from unspoken.runs.dataset.verify import verify_run
from unspoken.runs.plan import _read_plan
from unspoken.runs.store import cancel_run, read_status


def test_an_ended_run_whose_status_is_removed_is_checked_and_mended(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    assert stage.tick(3).state == "done"
    manifest = (tmp_path / "runs/r/dataset/manifest.json").read_bytes()
    (tmp_path / "runs/r/dataset/shard-000001.parquet").write_bytes(b"spoilt")
    assert not verify_run(stage.runs_dir, "r").is_valid
    (tmp_path / "runs/r/status.json").unlink()
    stage.dispatcher = stage.new_dispatcher()
    assert stage.tick(4).state == "done"
    assert verify_run(stage.runs_dir, "r").is_valid
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
    result = CliRunner().invoke(app, ["cancel", "r", "--workspace", str(tmp_path)])
    assert result.exit_code == 0 and result.output.startswith("r: cancelled")
    assert read_status(stage.runs_dir, "r").state == "cancelled"


def test_a_run_that_has_ended_cannot_be_cancelled_and_stays_as_it_is(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.tick(3)
    result = CliRunner().invoke(app, ["cancel", "r", "--workspace", str(tmp_path)])
    assert isinstance(result.exception, Conflict) and "nothing to cancel" in str(result.exception)
    assert read_status(stage.runs_dir, "r").state == "done"


def test_a_record_of_a_later_version_that_says_more_does_not_make_its_shard_spoilt(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.tick(1)
    record = tmp_path / "runs/r/dataset/shard-000001.json"
    record.write_text(record.read_text().replace("{", '{"mood": "good",', 1))
    stage.dispatcher = stage.new_dispatcher()
    assert stage.tick(2).state == "done" and stage.publisher.published == [0, 1, 2]


def cut_chunks(stage):
    """Truncate the file of chunks, like a disk that lost its last pages; return the lost chunks."""
    (chunks,) = (stage.runs_dir / "r").glob("chunks-*.jsonl")
    lines = chunks.read_bytes().splitlines(keepends=True)
    chunks.unlink()
    chunks.write_bytes(b"".join(lines[:-1]))


def test_chunks_that_were_cut_short_are_planned_again_and_no_row_is_lost(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.dispatcher.tick()
    cut_chunks(stage)
    stage.publisher.messages.clear()
    _read_plan.cache_clear()  # another process reads the plan
    stage.dispatcher = stage.new_dispatcher()
    status = stage.tick(4)
    assert (status.state, status.total, status.labelled) == ("done", 12, 12)
    assert verify_run(stage.runs_dir, "r").is_valid


def test_chunks_that_were_cut_short_of_a_source_that_changed_fail_the_run_and_say_why(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.dispatcher.tick()
    cut_chunks(stage)
    write_shard(stage.data_dir / "in/00000.tar", CAPTIONS[:8])
    _read_plan.cache_clear()
    stage.dispatcher = stage.new_dispatcher()
    status = stage.tick(2)
    assert status.state == "failed" and "unspoken fork r" in status.message


def test_a_shard_that_is_not_in_the_plan_is_set_aside_before_the_end(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.tick(1)
    dataset = tmp_path / "runs/r/dataset"
    for ending in ("parquet", "json"):
        content = (dataset / f"shard-000001.{ending}").read_bytes()
        (dataset / f"shard-000009.{ending}").write_bytes(content)
    assert stage.tick(3).state == "done"
    assert len(stage.rows()) == 12 and verify_run(stage.runs_dir, "r").is_valid


def test_a_shard_that_is_not_in_the_plan_is_set_aside_where_thresholds_are_chosen(tmp_path):
    stage = Stage(tmp_path)
    stage.create(box_threshold="auto")
    stage.tick(1)
    for folder in ("dataset", "undecided"):
        (tmp_path / "runs/r" / folder / "shard-000009.parquet").write_bytes(b"stray")
    assert stage.tick(3).state == "done"
    assert verify_run(stage.runs_dir, "r").is_valid
