"""The demo's summary and pictures, from rows made of the truth."""

import json
from pathlib import Path

import pytest
from PIL import Image

from cli.demo.demo import bias_page, draw_rows, summarise
from smallworld.shards import write_shards
from tests.smallworld.tiny_world import tiny_world
from tests.unspoken.runs.rows import annotation, candidate, labelled_row
from unspoken.runs.dataset.picture_files import PictureFiles, Place
from unspoken.runs.dataset.rows import Row
from unspoken.wire.proposals import PhraseSource
from unspoken.wire.runs import RunStatus


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "shards"
    write_shards(folder, tiny_world(), num_scenes=6, seed=3)
    return folder


def true_rows(shards: Path, *, shift_px: int = 0) -> list[Row]:
    """Return the row of a perfect pipeline, with boxes moved by `shift_px`."""
    rows = []
    for index, line in enumerate((shards / "00000.truth.jsonl").read_text().splitlines()):
        truth = json.loads(line)
        found = tuple(
            annotation(
                number,
                tuple(side + shift_px for side in each["box_xyxy"]),
                each["label"],
                0.9,
                named=each["label"] in truth["named"],
            )
            for number, each in enumerate(truth["objects"])
        )
        update = {
            "key": truth["key"], "source_member": f"{truth['key']}.jpg", "annotations": found,
        }  # fmt: skip
        rows.append(labelled_row(index).model_copy(update=update))
    return rows


def status(rows: list[Row]) -> RunStatus:
    return RunStatus(
        run_id="demo",
        state="done",
        total=len(rows),
        done=len(rows),
        labelled=len(rows),
        dropped={"language": 2},
        failed={},
        chunks_total=1,
        chunks_done=1,
        attempts=1,
        output="",
    )


def test_perfect_boxes_are_all_right_and_all_found(shards):
    rows = true_rows(shards)
    summary = summarise(rows, status(rows), shards, seconds=1.5)
    assert summary["images"] == summary["labelled"] == 6
    assert summary["dropped"] == {"language": 2}
    assert summary["implied_precision"] == summary["implied_recall"] == 1.0
    assert summary["named_precision"] in (None, 1.0)
    assert summary["annotations"] == sum(len(row.annotations) for row in rows)


def test_boxes_in_the_wrong_place_are_wrong(shards):
    rows = true_rows(shards, shift_px=500)
    summary = summarise(rows, status(rows), shards, seconds=1.5)
    assert summary["implied_precision"] == summary["implied_recall"] == 0.0


def reader(shards: Path):
    files = PictureFiles(shards)
    return lambda row: files.read(Place.of(row)._replace(shard=Path(row.source_shard).name))


def test_every_labelled_picture_is_drawn_with_its_caption_below(shards, tmp_path):
    rows = true_rows(shards)
    written = draw_rows(rows, reader(shards), tmp_path / "pictures")
    assert len(written) == len(rows)
    with Image.open(written[0]) as picture:
        assert picture.height > picture.width >= 576


def test_the_first_drawn_picture_has_the_most_boxes(shards, tmp_path):
    rows = true_rows(shards)
    rows[0] = rows[0].model_copy(update={"annotations": ()})
    written = draw_rows(rows, reader(shards), tmp_path / "pictures")
    boxes = {Path(row.key).name: len(row.kept) for row in rows if row.status == "labelled"}
    assert [boxes[path.stem] for path in written] == sorted(boxes.values(), reverse=True)
    assert boxes[written[0].stem] > boxes[Path(rows[0].key).name] == 0


def test_the_page_on_bias_says_how_often_a_proposal_is_truly_there(shards):
    source = (PhraseSource(template="scene", model="fake-llm"),)
    rows = true_rows(shards)
    shown = {each.label for each in rows[0].annotations}
    label = sorted(shown)[0]
    proposed = (candidate(0, label, sources=source), candidate(1, "volcano", sources=source))
    rows = [row.model_copy(update={"candidates": proposed}) for row in rows]
    there = sum(label in {each.label for each in row.annotations} for row in rows)
    page = bias_page(rows, shards, box_threshold=0.5)
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {label} |")]
    assert line.endswith(f"| {there} of 6 |")
    (line,) = [line for line in page.splitlines() if line.startswith("| volcano |")]
    assert line.endswith("| 0 of 6 |")
