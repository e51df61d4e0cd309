"""`unspoken verify` finds each kind of damage and reports nothing else."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.worker.stage import Stage
from unspoken.runs.dataset.verify import verify_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    stage = Stage(tmp_path_factory.mktemp("finished"))
    stage.create()
    assert stage.tick(4).state == "done"
    return stage


@pytest.fixture
def runs_dir(finished, tmp_path):
    shutil.copytree(finished.runs_dir, tmp_path / "runs")
    return tmp_path / "runs"


def test_a_finished_run_is_right_also_against_its_source(finished, runs_dir):
    verdict = verify_run(runs_dir, "r")
    assert verdict.is_valid, verdict.problems
    assert (verdict.chunks_committed, verdict.chunks_open, verdict.rows) == (3, 0, 12)
    arguments = [
        "verify",
        "r",
        "--workspace",
        str(runs_dir.parent),
        "--moved-to",
        str(finished.data_dir),
    ]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["source_checked"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a flipped bit": (lambda d: flip(d / "dataset/shard-000001.parquet"), "not match the hash"),
    "a lost shard": (
        lambda d: (d / "dataset/shard-000001.parquet").unlink(),
        "although its commit",
    ),
    "a lost record": (lambda d: (d / "dataset/shard-000001.json").unlink(), "shard-000001"),
    "a torn record": (
        lambda d: (d / "dataset/shard-000001.json").write_bytes(b'{"shard'),
        "not a valid commit record",
    ),
    "a shard too many": (
        lambda d: (d / "dataset/shard-000009.parquet").write_bytes(b"x"),
        "not in the plan",
    ),
    "another plan": (lambda d: flip(next(d.glob("chunks-*.jsonl"))), "does not match plan.json"),
    "other labels": (
        lambda d: flip(d / "dataset/labels.safetensors"),
        "labels.safetensors: does not match",
    ),
    "no manifest": (lambda d: (d / "dataset/manifest.json").unlink(), "not a valid manifest"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_named(runs_dir, damage):
    harm, words = DAMAGES[damage]
    harm(runs_dir / "r")
    result = CliRunner().invoke(app, ["verify", "r", "--workspace", str(runs_dir.parent)])
    assert result.exit_code == 1 and words in result.output


def test_shards_that_were_swapped_are_found_though_each_has_its_hash(runs_dir):
    dataset = runs_dir / "r/dataset"
    for ending in ("parquet", "json"):
        first, second = (dataset / f"shard-00000{i}.{ending}" for i in (0, 1))
        kept = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(kept)
    problems = verify_run(runs_dir, "r").problems
    assert sum("rows differ from the plan" in problem for problem in problems) == 2


def test_a_run_under_way_has_open_chunks_and_no_problem(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.dispatcher.tick()
    stage.publisher.messages.pop()
    stage.work()
    verdict = verify_run(stage.runs_dir, "r")
    assert verdict.is_valid and (verdict.chunks_committed, verdict.chunks_open) == (2, 1)


def test_rows_of_the_source_that_changed_are_found(finished, runs_dir, tmp_path):
    other = Stage(tmp_path / "other")
    flip(other.data_dir / "in/00000.tar")
    arguments = [
        "verify",
        "r",
        "--workspace",
        str(runs_dir.parent),
        "--moved-to",
        str(other.data_dir),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1 and "1 of 4 rows" in result.output
