"""Dispatcher and task together on real folders; the broker is a list in memory."""

import json
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from tests.fakes import FakeCropRanker, FakeDetector, FakePrompter, FakeTextEncoder
from tests.worker.source_files import (
    CAPTIONS,
    write_coco,
    write_pictures,
    write_shard,
    write_table,
)
from tests.worker.stage import Stage
from unspoken.errors import Conflict, EngineFailure, ServiceUnavailable
from unspoken.runs.dataset.manifest import read_labels
from unspoken.runs.dataset.shards import shard_name
from unspoken.runs.plan import read_plan
from unspoken.runs.store import cancel_run, create_run, list_runs, read_status, retry_failed
from unspoken.wire.runs import RunRequest


def test_a_run_ends_with_every_row_once_labels_manifest_and_card(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    status = stage.tick(3)
    assert (status.state, status.done, status.chunks_done) == ("done", 12, 3)
    assert [row.source_row for row in stage.rows()] == list(range(12))
    dataset = tmp_path / "runs/r/dataset"
    kept = {a.label for row in stage.rows() for a in row.kept}
    assert kept and kept <= set(read_labels(dataset))
    assert {"README.md", "contact-sheet.jpg", "manifest.json"} <= {
        p.name for p in dataset.iterdir()
    }
    assert stage.publisher.published == [0, 1, 2]


def test_the_same_run_elsewhere_has_the_same_shards_to_the_byte(tmp_path):
    shards = []
    for name in ("a", "b"):
        stage = Stage(tmp_path / name)
        stage.create()
        stage.tick(3)
        dataset = tmp_path / name / "runs/r/dataset"
        shards.append([(dataset / shard_name(i)).read_bytes() for i in range(3)])
        shards[-1].append((dataset / "manifest.json").read_bytes())
    assert shards[0] == shards[1]


def test_an_empty_folder_fails_the_run_with_what_is_missing(tmp_path):
    stage = Stage(tmp_path)
    (tmp_path / "data/empty").mkdir()
    create_run(stage.data_dir, stage.runs_dir, RunRequest(source="empty", run_id="r"))
    status = stage.tick()
    assert status.state == "failed" and "no .tar shards" in status.message


def test_a_picture_that_came_before_in_the_run_is_dropped_and_counted(tmp_path):
    stage = Stage(tmp_path)
    write_shard(stage.data_dir / "in/00001.tar", CAPTIONS[:2], first_seed=11)
    stage.create()
    assert stage.tick(3).dropped == {"duplicate": 1}
    assert [row.reason for row in stage.rows()[-2:]] == ["duplicate", None]


def test_the_filters_of_a_request_are_those_of_its_run(tmp_path):
    stage = Stage(tmp_path)
    stage.create(filters={"min_caption_words": 7, "language": None})
    few = sum(len(caption.split()) < 7 for caption in CAPTIONS)
    status = stage.tick(3)
    assert status.dropped == {"caption_too_short": few} and 0 < few < len(CAPTIONS)


def test_a_table_of_pictures_elsewhere_is_labelled_and_shown_on_the_sheet(tmp_path):
    stage = Stage(tmp_path)
    write_coco(stage.data_dir / "coco/notes/captions.json", [[each] for each in CAPTIONS[:3]])
    write_pictures(stage.data_dir / "coco/val", 3)
    request = RunRequest(source="coco/notes/captions.json", pictures="coco/val", run_id="r")
    create_run(stage.data_dir, stage.runs_dir, request)
    assert stage.tick(3).labelled == 3
    assert [row.source_member for row in stage.rows()] == [f"coco/val/{i}.jpg" for i in range(3)]
    tile = np.asarray(Image.open(tmp_path / "runs/r/dataset/contact-sheet.jpg"))[:288, :288]
    assert (tile != 255).mean() > 0.3


def test_a_picture_of_a_table_that_is_gone_makes_a_row_with_that_reason(tmp_path):
    stage = Stage(tmp_path)
    write_table(stage.data_dir / "t.csv", [{"path": "0.jpg", "text": CAPTIONS[0]}])
    write_pictures(stage.data_dir / "pics", 2)
    request = RunRequest(source="t.csv", pictures="pics", run_id="r")
    create_run(stage.data_dir, stage.runs_dir, request)
    stage.dispatcher.tick()
    (stage.data_dir / "pics/0.jpg").unlink()
    stage.work()
    assert stage.tick(2).failed == {"source_changed": 1}


def test_rows_of_a_torn_shard_have_failed_and_are_done_again_once_it_is_whole(tmp_path):
    stage = Stage(tmp_path)
    shard = stage.data_dir / "in/00000.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as tar:
        last = max(member.offset_data for member in tar)
    shard.write_bytes(whole[: last + 5])
    stage.create()
    assert stage.tick(3).failed == {"torn_shard": 1}
    shard.write_bytes(whole)
    again = retry_failed(stage.runs_dir, "r")
    stage.tick(3)
    assert [(row.source_row, row.status) for row in stage.rows(again.run_id)] == [(11, "labelled")]


def test_lost_messages_are_rung_again(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.publisher.lost = True
    stage.tick(1)
    stage.publisher.lost = False
    assert stage.tick(2).chunks_done == 3
    assert stage.tick().state == "done"


def test_the_queue_is_never_flooded(tmp_path):
    stage = Stage(tmp_path)
    create_run(stage.data_dir, stage.runs_dir, RunRequest(source="in", run_id="r", chunk_size=1))
    for _ in range(5):
        stage.dispatcher.tick()
    assert len(stage.publisher.messages) == 4


def test_a_broker_that_is_away_is_waited_for(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.publisher.down = True
    status = stage.tick(2)
    assert status.state == "running" and "no broker" in status.message
    stage.publisher.down = False
    assert stage.tick(3).state == "done"


def test_a_new_dispatcher_takes_up_where_the_last_one_died(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.tick(1)
    stage.dispatcher = stage.new_dispatcher()
    assert stage.tick(2).state == "done"
    assert stage.publisher.published == [0, 1, 2]


def test_a_shard_left_without_its_record_is_adopted_and_not_done_again(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.tick(1)
    (tmp_path / "runs/r/dataset/shard-000001.json").unlink()
    stage.dispatcher = stage.new_dispatcher()
    assert stage.tick(2).state == "done"
    assert stage.publisher.published == [0, 1, 2]


def test_a_shard_that_changed_on_disk_is_done_again_before_the_end(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.tick(1)
    (tmp_path / "runs/r/dataset/shard-000001.parquet").write_bytes(b"torn")
    assert stage.tick(4).state == "done"
    assert len(stage.rows()) == 12


def test_a_service_that_is_not_ready_costs_no_attempt(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.ready = False
    assert stage.tick(4).attempts == 0
    time.sleep(0.25)  # the chunks rest until then
    stage.ready = True
    assert stage.tick(3).state == "done"


def test_an_item_that_ends_its_worker_is_a_row_with_that_reason(tmp_path):
    calls = []

    def die(captions):
        if any("kitten" in caption for caption in captions):
            calls.append(len(captions))
            raise KeyError("as good as dead")

    stage = Stage(tmp_path, prompter=FakePrompter(before=die))
    stage.create()
    status = stage.tick(9)
    assert status.state == "done" and status.failed == {"poison": 1}
    assert status.labelled == 11
    # Suspects are retried alone at once: three attempts in all.
    assert calls == [4, 1, 1]


def test_failures_are_done_again_by_a_run_of_their_own(tmp_path):
    broken = [True]

    def refuse(picture, phrases):
        if broken and "horse" in phrases:
            raise EngineFailure("not now")

    stage = Stage(tmp_path, detector=FakeDetector(before=refuse))
    stage.create()
    assert stage.tick(3).failed == {"engine_failure": 1}
    broken.clear()
    again = retry_failed(stage.runs_dir, "r")
    stage.tick(3)
    assert read_status(stage.runs_dir, again.run_id).state == "done"
    rows = stage.rows(again.run_id)
    assert [(row.source_row, row.status) for row in rows] == [(1, "labelled")]


def test_a_cancelled_run_starts_no_further_chunk(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.dispatcher.tick()
    cancel_run(stage.runs_dir, "r")
    stage.work()
    assert stage.tick(2).state == "cancelled"
    assert stage.rows() == [] and not list((stage.ledger.run_dir / "attempts").iterdir())


def test_a_source_that_changed_makes_rows_with_that_reason(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    stage.dispatcher.tick()
    write_shard(tmp_path / "data/in/00000.tar", ["Another caption about a dog"] * 12)
    stage.work()
    assert stage.tick(2).failed == {"source_changed": 12}


def test_labels_wait_for_a_text_encoder_that_is_away(tmp_path):
    class Away(FakeTextEncoder):
        away = True

        def encode_texts(self, texts):
            if self.away:
                raise ServiceUnavailable("gone")
            return super().encode_texts(texts)

    encoder = Away()
    stage = Stage(tmp_path, text_encoder=encoder)
    stage.create()
    assert stage.tick(3).state == "finishing"
    encoder.away = False
    assert stage.tick().state == "done"


def test_folders_that_are_no_runs_do_not_stop_the_others(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    (stage.runs_dir / "other").mkdir()
    (stage.runs_dir / "bad").mkdir()
    (stage.runs_dir / "bad/run.json").write_text("{}")
    assert stage.tick(3).state == "done"
    assert [(each.run_id, each.state) for each in list_runs(stage.runs_dir)] == [
        ("r", "done"),
        ("bad", "failed"),
    ]


@pytest.mark.parametrize("name", ["My_Out", "out.v2"])
def test_a_caller_may_choose_the_folder_itself(tmp_path, name):
    stage = Stage(tmp_path)
    request = RunRequest(source="in/00000.tar", chunk_size=4)
    create_run(stage.data_dir, stage.runs_dir, request, run_id=name)
    stage.tick(3, run_id=name)
    assert read_status(stage.runs_dir, name).output == str(stage.runs_dir / name / "dataset")
    assert read_status(stage.runs_dir, name).state == "done"


def test_a_runs_templates_and_margin_are_in_its_plan(tmp_path):
    stage = Stage(tmp_path)
    stage.create(templates=["parts"], single_template_margin=0.2)
    assert stage.tick(4).state == "done"
    options = read_plan(stage.runs_dir / "r").config.options
    assert (options.templates, options.single_template_margin) == (("parts",), 0.2)


def test_a_run_that_asks_for_an_unknown_template_fails_before_any_picture_does(tmp_path):
    stage = Stage(tmp_path)
    stage.create(templates=["limericks"])
    status = stage.tick()
    assert (status.state, status.done) == ("failed", 0)
    assert "limericks" in status.message


def test_a_run_that_checks_crops_says_who_did_and_keeps_no_label_of_a_low_rank(tmp_path):
    stage = Stage(tmp_path)
    stage.create(crop_check=True)
    assert stage.tick(4).state == "done"
    assert read_plan(stage.runs_dir / "r").config.options.crop_check
    boxes = [annotation for row in stage.rows() for annotation in row.annotations]
    unlike = [box for box in boxes if box.drop_reason == "unlike_its_label"]
    assert unlike and all(box.clip_rank > 5 for box in unlike)
    assert all(box.clip_rank <= 5 for box in boxes if box.kept)
    dataset = stage.runs_dir / "r/dataset"
    card = (dataset / "README.md").read_text()
    assert "a rank of at most 5 for the content of the box" in card
    assert "| unlike_its_label |" in card
    models = json.loads((dataset / "manifest.json").read_text())["models_seen"]
    assert "fake-text-encoder@0" in json.dumps(models)


def test_a_run_that_checks_crops_fails_before_any_picture_where_nobody_can(tmp_path):
    class Blind(FakeCropRanker):
        def rank_crops(self, picture, crops, labels):
            raise Conflict("the text encoder knows no pictures")

    stage = Stage(tmp_path, ranker=Blind())
    stage.create(crop_check=True)
    status = stage.tick()
    assert (status.state, status.done) == ("failed", 0)
    assert "knows no pictures" in status.message
