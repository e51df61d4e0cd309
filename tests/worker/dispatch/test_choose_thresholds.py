"""Runs with thresholds chosen by decoys, from the first chunk to the decided dataset."""

import json

import numpy as np
import pytest

from tests.fakes import FakeDetector, FakeTextEncoder
from tests.worker.label.test_pipeline import ports, source_rows
from tests.worker.source_files import CAPTIONS
from tests.worker.stage import Stage
from unspoken.errors import EngineFailure, ServiceUnavailable
from unspoken.runs.dataset.false_discovery import UNDECIDED
from unspoken.runs.dataset.manifest import read_labels, read_thresholds
from unspoken.runs.dataset.shards import iter_rows
from unspoken.runs.plan import LabelConfig, read_plan
from unspoken.runs.store import cancel_run, read_run, retry_failed
from unspoken.text.lexicon import load_lexicon
from unspoken.wire.detections import DetectionResult
from unspoken.wire.label_options import LabelOptions
from worker.dispatch.choose_thresholds import decide_row
from worker.label.decoys import VOCABULARY
from worker.label.merging import fixed_thresholds
from worker.label.pipeline import label_chunk

FIXED = LabelConfig(named_threshold=0.3, implied_margin=0.2)
AUTO = FIXED.model_copy(update={"options": LabelOptions(box_threshold="auto")})
SAID = {word.strip(".,!").lower() for caption in CAPTIONS for word in caption.split()}


class KnowingDetector(FakeDetector):
    """A fake detector that multiplies the scores of decoys by .4."""

    def detect(self, picture, phrases, *, box_threshold=None):
        found = super().detect(picture, phrases, box_threshold=0.0)
        scaled = [
            each.model_copy(update={"score": each.score * 0.4})
            if each.phrase in VOCABULARY and each.phrase not in SAID
            else each
            for each in found.detections
        ]
        lowest = self.box_threshold if box_threshold is None else box_threshold
        left = sorted((each for each in scaled if each.score >= lowest), key=lambda d: -d.score)
        return DetectionResult(detections=tuple(left), num_chunks=found.num_chunks)


class AwayTextEncoder(FakeTextEncoder):
    """A fake that can be unavailable; a run that needs it cannot finish."""

    away = False

    def encode_texts(self, texts):
        if self.away:
            raise ServiceUnavailable("gone")
        return super().encode_texts(texts)


def auto_stage(folder, *, detector=None, text_encoder=None, **what):
    stage = Stage(folder, detector=detector or KnowingDetector(), text_encoder=text_encoder)
    stage.create(box_threshold="auto", **what)
    return stage


def undecided_rows(stage, run_id="r"):
    return list(iter_rows(stage.runs_dir / run_id / "undecided"))


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_boxes_that_may_yet_count_are_ranked_and_the_decision_drops_those_unlike_their_label():
    options = LabelOptions(crop_check=True)
    fixed = label_chunk(source_rows(6), ports(), FIXED.model_copy(update={"options": options}))
    options = LabelOptions(crop_check=True, box_threshold="auto")
    config, thresholds = AUTO.model_copy(update={"options": options}), fixed_thresholds(FIXED)
    undecided = label_chunk(source_rows(6), ports(), config)
    for box in (box for row in undecided for box in row.annotations):
        assert (box.clip_rank is not None) == (box.drop_reason == UNDECIDED and not box.decoy)
    decided = [
        decide_row(row, config, thresholds=thresholds, lexicon=load_lexicon()) for row in undecided
    ]
    assert [row.kept for row in decided] == [row.kept for row in fixed]
    reasons = [[box.drop_reason for box in row.annotations] for row in fixed]
    assert [[box.drop_reason for box in row.annotations] for row in decided] == reasons
    assert "unlike_its_label" in {reason for row in reasons for reason in row}


def test_decided_by_a_runs_own_thresholds_a_row_is_what_that_run_writes():
    fixed = label_chunk(source_rows(6), ports(), FIXED)
    undecided = label_chunk(source_rows(6), ports(), AUTO)
    assert not any(row.kept for row in undecided) and any(row.kept for row in fixed)
    thresholds = fixed_thresholds(FIXED)
    decided = [
        decide_row(row, AUTO, thresholds=thresholds, lexicon=load_lexicon()) for row in undecided
    ]
    assert decided == fixed


def test_a_source_without_a_threshold_keeps_no_box():
    thresholds = {"named": None, "implied": 0.0, "part": None}
    rows = label_chunk(source_rows(6), ports(), AUTO)
    decided = [decide_row(row, AUTO, thresholds=thresholds, lexicon=load_lexicon()) for row in rows]
    kept = [annotation for row in decided for annotation in row.kept]
    assert kept and not any(annotation.named for annotation in kept)


def test_an_auto_run_ends_with_the_thresholds_that_its_decoys_chose(tmp_path):
    stage = auto_stage(tmp_path)
    status = stage.tick(3)
    assert (status.state, status.done, status.chunks_done) == ("done", 12, 3)
    dataset = tmp_path / "runs/r/dataset"
    chosen = read_thresholds(dataset)
    assert (chosen.false_discovery_rate, chosen.run_id) == (0.1, "r")
    assert chosen.decoys == sum(each.decoy for row in stage.rows() for each in row.candidates)
    thresholds = chosen.by_source()
    assert thresholds["named"] is not None and thresholds["part"] is None
    kept = [annotation for row in stage.rows() for annotation in row.kept]
    assert any(annotation.named for annotation in kept)
    assert all(a.score >= thresholds["named" if a.named else "implied"] for a in kept)
    assert not any(row.kept for row in undecided_rows(stage))
    reasons = {a.drop_reason for row in undecided_rows(stage) for a in row.annotations}
    assert UNDECIDED in reasons
    card = (dataset / "README.md").read_text(encoding="utf-8")
    assert f"| named | {thresholds['named']:.3f} |" in card
    assert "| part | none: no box is kept |" in card
    assert "](false-discoveries.svg)" in card and (dataset / "false-discoveries.svg").is_file()
    shards = json.loads((dataset / "manifest.json").read_text())["shards"]
    assert [shard["num_rows"] for shard in shards] == [4, 4, 4]


def test_a_stricter_rate_keeps_fewer_boxes(tmp_path):
    kept = []
    for rate in (0.5, 0.1, 0.05):
        stage = auto_stage(tmp_path / str(rate), false_discovery_rate=rate)
        assert stage.tick(3).state == "done"
        kept.append(sum(len(row.kept) for row in stage.rows()))
    assert kept[0] >= kept[1] >= kept[2] and kept[0] > kept[2]


def test_where_decoys_score_like_everything_nothing_is_kept(tmp_path):
    stage = auto_stage(tmp_path, detector=FakeDetector(), false_discovery_rate=0.01)
    assert stage.tick(3).state == "done"
    assert not any(row.kept for row in stage.rows())
    card = (tmp_path / "runs/r/dataset/README.md").read_text(encoding="utf-8")
    assert "| named | none: no box is kept |" in card


def test_an_end_that_was_stopped_is_done_again_to_the_same_bytes(tmp_path):
    stage = auto_stage(tmp_path)
    stage.tick(3)
    dataset = tmp_path / "runs/r/dataset"
    whole = bytes_of(dataset)
    (dataset / "manifest.json").unlink()
    (dataset / "shard-000001.parquet").write_bytes(b"half")
    (dataset / "shard-000002.json").unlink()
    (dataset / ".shard-000002.parquet.0123.tmp").write_bytes(b"half")
    (tmp_path / "runs/r/status.json").unlink()
    stage.dispatcher = stage.new_dispatcher()
    assert stage.tick(2).state == "done"
    assert bytes_of(dataset) == whole


def test_a_run_with_a_number_writes_no_undecided_shard(tmp_path):
    stage = Stage(tmp_path)
    stage.create(box_threshold=0.25)
    stage.tick(3)
    assert not (tmp_path / "runs/r/undecided").exists()
    assert read_thresholds(tmp_path / "runs/r/dataset") is None
    assert not (tmp_path / "runs/r/dataset/false-discoveries.svg").exists()
    assert read_plan(tmp_path / "runs/r").config.named_threshold == 0.25


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_retry_takes_the_thresholds_of_the_run_that_it_completes(tmp_path, cancelled):
    broken = [True]

    def refuse(picture, phrases):
        if broken and "horse" in phrases:
            raise EngineFailure("not now")

    encoder = AwayTextEncoder()
    encoder.away = cancelled
    stage = auto_stage(tmp_path, detector=KnowingDetector(before=refuse), text_encoder=encoder)
    stage.tick(3)
    if cancelled:
        cancel_run(stage.runs_dir, "r")
        stage.tick(1)
    encoder.away = False
    broken.clear()
    again = retry_failed(stage.runs_dir, "r").run_id
    stage.tick(3, run_id=again)
    assert read_run(stage.runs_dir, again).options.false_discovery_rate == 0.1
    chosen = read_thresholds(stage.runs_dir / again / "dataset")
    assert [(row.source_row, row.status) for row in stage.rows(again)] == [(1, "labelled")]
    if cancelled:  # before it was finished
        assert chosen.run_id == again
    else:
        assert chosen == read_thresholds(stage.runs_dir / "r/dataset")
        card = (stage.runs_dir / again / "dataset/README.md").read_text(encoding="utf-8")
        assert "of run r, which this completes" in card


def test_the_vectors_hold_every_label_that_any_threshold_keeps(tmp_path):
    stage = auto_stage(tmp_path)
    stage.tick(3)
    labels = read_labels(tmp_path / "runs/r/dataset")
    found = {a.label for row in undecided_rows(stage) for a in row.annotations if not a.decoy}
    assert found == set(labels)
    assert all(np.linalg.norm(vector) == pytest.approx(1, abs=1e-5) for vector in labels.values())
