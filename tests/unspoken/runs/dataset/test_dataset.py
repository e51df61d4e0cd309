"""Shards, plan, manifest, card, export and the page that describes them."""

import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.ImageColor import getrgb

from tests.fakes import FakeTextEncoder
from tests.unspoken.runs.rows import labelled_row, plan, unlabelled_row
from tests.worker.source_files import picture
from unspoken.errors import Conflict, InvalidInput, NotFound, PlanDamaged
from unspoken.imaging.drawing import COLORS
from unspoken.runs.dataset.card import (
    BESIDE_CARD,
    render_card,
    write_card,
)
from unspoken.runs.dataset.manifest import (
    count_dataset,
    count_run,
    read_labels,
    write_labels,
    write_manifest,
)
from unspoken.runs.dataset.row_picture import SHEET_FILE, draw_contact_sheet
from unspoken.runs.dataset.shards import SCHEMA, iter_rows, read_shard, write_shard
from unspoken.runs.exports.coco import export_coco
from unspoken.runs.ledger import Ledger
from unspoken.runs.plan import (
    LabelConfig,
    ListedRow,
    make_plan,
    read_plan,
    write_plan,
)
from unspoken.wire.label_options import LabelOptions

ROWS = [
    labelled_row(0),
    labelled_row(1),
    unlabelled_row(2, status="dropped", reason="language"),
    unlabelled_row(3, status="failed", reason="engine_failure"),
]


@pytest.fixture
def run_dir(tmp_path):
    for name in ("attempts", "leases", "dataset"):
        (tmp_path / "run" / name).mkdir(parents=True)
    Ledger(tmp_path / "run").publish(0, ROWS, attempt=1, models={"llm": "fake-llm@0"})
    write_plan(tmp_path / "run", plan())
    return tmp_path / "run"


def test_a_row_comes_back_as_it_was_written(tmp_path):
    write_shard(tmp_path / "s.parquet", ROWS)
    assert read_shard(tmp_path / "s.parquet") == ROWS


def test_no_rows_are_a_shard_too(tmp_path):
    write_shard(tmp_path / "s.parquet", [])
    assert read_shard(tmp_path / "s.parquet") == []


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_shard(tmp_path / name, ROWS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_column_that_this_version_does_not_know_is_ignored(tmp_path):
    write_shard(tmp_path / "s.parquet", ROWS)
    table = pq.read_table(tmp_path / "s.parquet")
    table = table.append_column("colour", pa.array(["red"] * len(ROWS)))
    pq.write_table(table, tmp_path / "more.parquet")
    assert read_shard(tmp_path / "more.parquet") == ROWS


def test_a_shard_is_plain_parquet_that_names_its_fields(tmp_path):
    write_shard(tmp_path / "s.parquet", ROWS)
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.schema.names == SCHEMA.names
    assert table.schema.metadata[b"unspoken.format_version"] == b"1"


def config_of_chunks(chunk_size):
    return LabelConfig(named_threshold=0.3, options=LabelOptions(chunk_size=chunk_size))


def test_chunks_hold_each_row_once_and_never_cross_files():
    listing = [
        (name, [ListedRow(i, f"{i:024d}") for i in range(count)])
        for name, count in (("a", 5), ("b", 2))
    ]
    made = make_plan("r", listing, config=config_of_chunks(3), models={})
    assert [(c.source, c.rows) for c in made.chunks] == [
        ("a", (0, 1, 2)),
        ("a", (3, 4)),
        ("b", (0, 1)),
    ]
    with pytest.raises(InvalidInput, match="no rows"):
        make_plan("r", [], config=config_of_chunks(3), models={})


def test_a_retry_keeps_only_its_rows_in_a_chunk():
    rows = [ListedRow(i, f"{i:024d}") for i in (1, 2, 7)]
    made = make_plan("r", [("a", rows)], config=plan().config, models={})
    assert made.chunks[0].ranges == ((1, 3), (7, 8))
    assert made.chunks[0].rows == (1, 2, 7)


def test_a_plan_is_never_replaced_by_another(run_dir):
    write_plan(run_dir, plan())
    with pytest.raises(Conflict):
        write_plan(run_dir, plan(chunks=2))
    assert replace(read_plan(run_dir), chunks=plan().chunks) == plan()
    assert tuple(read_plan(run_dir).chunks) == plan().chunks


def cut_short(content):
    return content[: content.rindex(b"\n", 0, -1) + 1]


@pytest.mark.parametrize(
    "damage",
    [
        cut_short,
        lambda content: b"",
        lambda content: content.replace(b"00000.tar", b"00001.tar", 1),
    ],
    ids=["cut", "empty", "other"],
)
def test_chunks_that_are_not_the_planned_ones_are_refused(tmp_path, damage):
    write_plan(tmp_path, plan(chunks=3))
    (chunks,) = tmp_path.glob("chunks-*.jsonl")
    chunks.write_bytes(damage(chunks.read_bytes()))
    with pytest.raises(PlanDamaged, match=chunks.name):
        read_plan(tmp_path)
    write_plan(tmp_path, plan(chunks=3))  # planned again, the same
    assert read_plan(tmp_path).chunks[2] == plan(chunks=3).chunks[2]


def test_a_plan_of_another_version_is_refused_and_the_message_says_what_to_do(run_dir):
    (run_dir / "plan.json").write_text(json.dumps({"chunks": []}))
    with pytest.raises(PlanDamaged, match=r"run_id: is missing\. .*under another name$"):
        read_plan(run_dir)
    with pytest.raises(Conflict, match="unspoken fork"):
        write_plan(run_dir, plan())


def test_a_chunk_is_read_without_the_others(tmp_path):
    write_plan(tmp_path, plan(chunks=300))
    found = read_plan(tmp_path)
    assert len(found.chunks) == 300 and found.num_rows == 1200
    assert found.chunks[299] == found.chunks[-1] == plan(chunks=300).chunks[299]
    assert found.chunks[7:9] == plan(chunks=300).chunks[7:9]
    assert read_plan(tmp_path) is found
    with pytest.raises(IndexError):
        found.chunks[300]


def test_the_counts_tell_named_implied_and_decoys_apart():
    counts = count_dataset(ROWS, box_threshold=0.3)
    assert counts.summary() == {
        "rows": 4,
        "labelled": 2,
        "dropped": {"language": 1},
        "failed": {"engine_failure": 1},
        "annotations": 4,
        "implied_annotations": 2,
        "distinct_labels": 2,
        "boxes_not_kept": {},
        "phrases_asked": 4,
        "phrases_found": 4,
        "phrases_rejected": {"generic": 2},
        "phrases_absent": 2,
        "decoys_asked": 4,
        "decoys_answered": 2,
    }
    assert counts.false_answer_rate == 0.5
    assert count_dataset(ROWS, box_threshold=0.6).false_answer_rate == 0.0


def test_every_label_gets_one_vector_and_the_manifest_its_digest(run_dir):
    counts = count_run(run_dir, plan())
    write_labels(run_dir / "dataset", sorted(counts.stored_labels), FakeTextEncoder())
    labels = read_labels(run_dir / "dataset")
    assert sorted(labels) == ["car", "trailer", "vehicle", "wheel"]
    expected = FakeTextEncoder().encode_texts(["wheel"])[0]
    np.testing.assert_array_equal(labels["wheel"], expected)
    write_manifest(run_dir, plan(), counts)
    manifest = json.loads((run_dir / "dataset/manifest.json").read_text())
    assert manifest["counts"]["annotations"] == 4
    assert [shard["num_rows"] for shard in manifest["shards"]] == [4]
    assert manifest["labels"]["num_labels"] == 4
    assert "fake-text-encoder@0" in manifest["models_seen"]


def test_a_dataset_without_any_label_is_finished_too(tmp_path):
    write_labels(tmp_path, [], FakeTextEncoder())
    assert read_labels(tmp_path) == {}
    empty = count_dataset([], box_threshold=0.3)
    assert "share implied | -" in render_card(plan(), empty)


def test_the_card_says_what_was_dropped_found_and_falsely_answered(run_dir):
    card = render_card(plan(), count_run(run_dir, plan()))
    assert "| language | 1 |" in card and "| engine_failure | 1 |" in card
    assert "| share implied | 50.0% |" in card
    assert "| phrases absent (hard negatives) | 2 |" in card
    assert "| wheel | 2 | #################### | 100.0% |  |" in card
    assert "| teapot | 0 |  |  | 2 of 2 |" in card
    assert "decoy rate 50.0%" in card


def test_everything_that_the_card_shows_lies_beside_it(run_dir):
    counts = count_run(run_dir, plan())
    write_card(run_dir / "dataset", plan(), counts)
    card = (run_dir / "dataset/README.md").read_text(encoding="utf-8")
    assert counts.labels_per_picture == {2: 2}
    assert "| labels per labelled picture, mean | 2.0 |" in card
    for name in BESIDE_CARD:
        assert f"]({name})" in card
        assert (run_dir / "dataset" / name).is_file() or name == SHEET_FILE


def test_the_contact_sheet_draws_boxes_where_the_picture_can_be_read(tmp_path):
    def load(row):
        return {"key-0": picture(3, size=(100, 80)), "key-1": b"broken"}.get(row.key)

    assert draw_contact_sheet(tmp_path, ROWS, load) == 1
    pixels = np.asarray(Image.open(tmp_path / "contact-sheet.jpg")).astype(int)
    named = (abs(pixels - np.array(getrgb(COLORS["named"]))).sum(axis=2) < 60).sum()
    assert named > 300


def test_the_contact_sheet_shows_pictures_with_boxes_first(tmp_path):
    empty = ROWS[0].model_copy(update={"annotations": ()})
    grey = io.BytesIO()
    Image.new("RGB", (100, 80), "grey").save(grey, "PNG")
    draw_contact_sheet(tmp_path, [empty, ROWS[1]], lambda _row: grey.getvalue())
    sheet = np.asarray(Image.open(tmp_path / "contact-sheet.jpg")).astype(int)
    first, second = np.array_split(sheet, 2, axis=1)
    blue = np.array(getrgb(COLORS["named"]))
    picture_rows = slice(0, 200)  # the legend below has the colour too

    def count(part: np.ndarray) -> int:
        return int((abs(part[picture_rows] - blue).sum(axis=2) < 60).sum())

    assert count(first) > 300 > count(second)


def test_an_export_of_nothing_says_so(tmp_path):
    with pytest.raises(NotFound, match="no committed shards"):
        export_coco(tmp_path, tmp_path / "coco.json")


def test_a_shard_without_a_record_is_not_part_of_the_dataset(run_dir):
    write_shard(run_dir / "dataset/shard-000001.parquet", ROWS)
    assert len(list(iter_rows(run_dir / "dataset"))) == 4
