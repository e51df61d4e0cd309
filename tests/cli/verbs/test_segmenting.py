"""`unspoken segment`: an overlay with the masks, the reply as JSON, and clear errors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.segmenter import local_segmenter, open_segmenter
from cli.segmenting import describe_reply, read_question, segment_file
from services.segmenter.app import create_app
from services.segmenter.local_segmenter import LocalSegmenter
from services.segmenter.settings import SegmenterSettings
from tests.contracts import picture_bytes
from tests.fakes import FakeSegmenter, FakeTextEncoder
from tests.worker.service import serve
from unspoken.errors import Conflict, InvalidInput, Unreachable
from unspoken.wire.segment import SegmentReply


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "street.png"
    path.write_bytes(picture_bytes())
    return path


def test_an_overlay_and_the_reply_are_written_and_the_picture_is_left_alone(picture, tmp_path):
    before = picture.read_bytes()
    with LocalSegmenter(FakeSegmenter()) as segmenter:
        question = read_question(picture, ["car", "wheel"], threshold=0)
        reply = segment_file(question, out=tmp_path, segmenter=segmenter)
    assert picture.read_bytes() == before
    written = json.loads((tmp_path / "street-masks.json").read_text())
    assert [result["text"] for result in written["results"]] == ["car", "wheel"]
    assert SegmentReply.model_validate(written) == reply
    drawn = np.asarray(Image.open(tmp_path / "street-masks.png"))
    assert drawn.shape == (64 * 6, 96 * 6, 3)
    assert describe_reply(reply)[0].startswith("car: 1 found: ")


def test_a_text_that_finds_nothing_is_said_so(picture, tmp_path):
    with LocalSegmenter(FakeSegmenter()) as segmenter:
        question = read_question(picture, ["car"], threshold=1)
        reply = segment_file(question, out=tmp_path, segmenter=segmenter)
    assert describe_reply(reply) == ["car: none found (by bank)"]


def test_a_service_is_asked_where_a_url_is_given(picture, tmp_path):
    app = create_app(FakeTextEncoder(), segmenter=FakeSegmenter())
    with serve(app) as url, open_segmenter(url) as segmenter:
        question = read_question(picture, ["car"], method="bank", threshold=0)
        reply = segment_file(question, out=tmp_path, segmenter=segmenter)
    assert reply.method == "bank" and reply.results[0].instances


def test_a_file_that_is_none_is_an_error_of_the_caller(tmp_path):
    with pytest.raises(InvalidInput, match=r"no\.png does not exist"):
        read_question(tmp_path / "no.png", ["car"])
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(InvalidInput, match=r"no\.png: not a picture"):
        read_question(tmp_path / "no.png", ["car"])


def test_the_command_reaches_a_service_and_writes_beside(picture, tmp_path):
    app = create_app(FakeTextEncoder(), segmenter=FakeSegmenter())
    arguments = [str(picture), "car", "wheel", "--out", str(tmp_path / "out"), "--threshold", "0"]
    with serve(app) as url:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "segment", *arguments, "--url", url],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert "car: 1 found" in done.stdout and "wheel: 1 found" in done.stdout
    assert (tmp_path / "out" / "street-masks.png").is_file()


@pytest.mark.parametrize("address", ["localhost:9", "localhost", "ftp://localhost"])
def test_an_address_of_another_form_is_told_before_anything_is_sent(picture, tmp_path, address):
    message = r"Write it like http://127\.0\.0\.1:8000"
    with pytest.raises(InvalidInput, match=message), open_segmenter(address):
        pass


def test_a_service_that_is_not_there_is_named(picture, tmp_path):
    with (
        open_segmenter("http://user:secret@127.0.0.1:9") as segmenter,
        pytest.raises(Unreachable, match=r"could not be reached at http://\*\*\*@127\.0\.0\.1:9"),
    ):
        segment_file(read_question(picture, ["car"]), out=tmp_path, segmenter=segmenter)


def test_a_profile_without_a_segmenter_is_refused_with_what_to_choose(tmp_path):
    models = tmp_path / "models.yaml"
    entry = {
        "name": "absent",
        "source": "wheel:absent/model",
        "revision": "1",
        "files": {"f": "0" * 64},
    }
    bare = dict.fromkeys(("llm", "detector", "text_encoder"), entry)
    models.write_text(json.dumps({"profiles": {"bare": bare}}))
    settings = SegmenterSettings(profile="bare", models_file=models)
    message = r"the profile bare has no segmenter.*UNSPOKEN_PROFILE"
    with pytest.raises(Conflict, match=message), local_segmenter(settings):
        pass


@pytest.mark.parametrize(("text", "threshold"), [("x" * 300, None), ("car", 2)])
def test_a_query_that_cannot_be_is_an_error_of_the_caller(picture, text, threshold):
    with pytest.raises(InvalidInput, match=r"text: must have|threshold: must be"):
        read_question(picture, [text], threshold=threshold)
