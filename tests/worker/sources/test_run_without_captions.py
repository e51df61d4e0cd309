"""The notice of a run without captions: in the status, on card and page, and in the terminal."""

import json
import shutil

import pytest

from cli.status_view import describe, render
from tests.cli.test_status_view import printed
from tests.worker.source_files import picture
from tests.worker.stage import Stage
from unspoken.runs.exports.report import write_report
from worker.sources.caption_tables import find_caption_table

TABLES = {
    "metadata.jsonl": json.dumps({"file_name": "p0.jpg", "text": "A red car"}) + "\n",
    "captions.csv": "file_name,caption\np0.jpg,A red car\n",
    "captions.json": json.dumps(
        {
            "images": [{"id": 1, "file_name": "p0.jpg"}],
            "annotations": [{"image_id": 1, "caption": "A red car"}],
        }
    ),
}


def write_pictures(folder, count=6):
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"p{number}.jpg").write_bytes(picture(number))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("below", ["", "train"])
def test_a_table_of_captions_in_a_folder_is_found(tmp_path, name, below):
    write_pictures(tmp_path / "in" / below)
    (tmp_path / "in" / below / name).write_text(TABLES[name])
    (tmp_path / "in" / below / "notes.csv").write_text("a,b\n1,2\n")
    assert find_caption_table(tmp_path / "in", root=tmp_path) == tmp_path / "in" / below / name


def test_no_table_is_found_where_there_is_none_or_it_is_broken(tmp_path):
    write_pictures(tmp_path / "in")
    (tmp_path / "in/p0.json").write_text(TABLES["captions.json"])  # a picture's own side file
    (tmp_path / "in/notes.csv").write_text("a,b\n1,2\n")
    (tmp_path / "in/empty.csv").write_text("")
    (tmp_path / "in/torn.parquet").write_bytes(b"PAR1")
    (tmp_path / "in/other.json").write_text("[1")
    assert find_caption_table(tmp_path / "in", root=tmp_path) is None
    assert find_caption_table(tmp_path / "in/p0.jpg", root=tmp_path) is None


def test_a_run_whose_captions_are_elsewhere_names_their_file_wherever_it_is_told(tmp_path):
    stage = Stage(tmp_path)
    shutil.rmtree(stage.data_dir / "in")
    write_pictures(stage.data_dir / "in")
    (stage.data_dir / "in/captions.csv").write_text(TABLES["captions.csv"])
    stage.create()
    status = stage.tick(6)
    told = "all 6 rows dropped: caption_empty. captions.csv in this folder contains captions"
    assert status.state == "done" and status.notice.startswith(told)
    assert describe(status).startswith(f"r: done, {told}")
    assert printed(status).splitlines()[1].startswith(told)
    assert render(status)
    card = (tmp_path / "runs/r/dataset/README.md").read_text()
    assert card.index("Notice") < card.index("Boxes of objects")
    write_report(tmp_path / "runs/r", tmp_path / "report", pictures=stage.data_dir)
    page = (tmp_path / "report/index.html").read_text()
    assert "all 6 rows dropped: caption_empty" in page


def test_a_run_that_labels_its_rows_has_no_notice(tmp_path):
    stage = Stage(tmp_path)
    stage.create()
    status = stage.tick(6)
    assert (status.state, status.notice) == ("done", "")
    assert "Notice" not in (tmp_path / "runs/r/dataset/README.md").read_text()
