"""Sources with paths that lead outside, and checkpoints that contain programs."""

import re
import tarfile
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from tests.security.attacks.archives import VECTORS, judge, link, member, tar
from tests.security.attacks.pickles import is_executed
from unspoken.config.profiles import MODELS_FILE, load_profile
from unspoken.errors import InvalidConfig, InvalidInput, NotFound
from unspoken.runs.dataset.picture_files import PictureFiles, Place
from unspoken.runs.store import create_run, read_status
from unspoken.wire.runs import RunRequest

ROOT = Path(__file__).parents[2]
UNSAFE = re.compile(r"pickle\.loads?\(|allow_pickle=True|\.extractall\(|yaml\.load\(")
OUTSIDE = ["../outside", "/etc", "a/../../outside", "..", "\0", "a\0b", "../" * 50 + "etc/passwd"]


def test_no_source_leads_outside_of_its_folder():
    report = judge()
    assert report["vectors"] >= 25
    assert report["problems"] == []


def test_a_vector_that_unpacks_would_be_noticed(tmp_path):
    (tmp_path / "data").mkdir()
    path = tar(link("d", "../outside"), member("../outside.png"))(tmp_path / "data")
    with tarfile.open(path) as shard:
        shard.extractall(tmp_path / "data", filter="fully_trusted")
    assert (tmp_path / "outside.png").is_file()  # the goal of every vector in VECTORS
    assert len(VECTORS) >= 25


def test_a_packed_shard_is_not_unpacked_to_find_a_picture(tmp_path):
    VECTORS["gzip-bomb"](tmp_path)
    with pytest.raises(NotFound):
        PictureFiles(tmp_path).read(Place("shard.tar", "a.png"))


@pytest.mark.parametrize("source", OUTSIDE, ids=range(len(OUTSIDE)))
def test_a_run_reads_no_source_outside_of_the_data_folder(tmp_path, source):
    (tmp_path / "data").mkdir()
    with pytest.raises((InvalidInput, NotFound)):
        create_run(tmp_path / "data", tmp_path / "runs", RunRequest(source=source))


@pytest.mark.parametrize("run_id", ["../x", "/x", "a/b", ".", "..", "A", "a\0", "", "a" * 65])
def test_a_run_is_named_by_letters_digits_and_dashes(tmp_path, run_id):
    with pytest.raises(ValidationError):
        RunRequest(source="shards", run_id=run_id)
    with pytest.raises((NotFound, InvalidInput)):
        read_status(tmp_path, run_id)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../evil.bin": None}},
        {"files": {"/evil.bin": None}},
        {"files": {"a/../../evil.bin": None}},
        {"revision": "../../evil"},
        {"source": "hub:.."},
        {"source": "hub:../evil"},
        {"source": "hub:/evil"},
        {"source": "https://evil.example/model"},
    ],
    ids=range(8),
)
def test_a_profile_names_no_file_outside_of_its_folder(tmp_path, change):
    written = yaml.safe_load(MODELS_FILE.read_text())
    profile = written["profiles"]["small"]
    profile["detector"] = {**profile["detector"], **change}
    path = tmp_path / "models.yaml"
    path.write_text(yaml.safe_dump(written))
    with pytest.raises(InvalidConfig):
        load_profile("small", models_file=path)


def test_a_checkpoint_that_is_a_program_is_not_run(tmp_path):
    assert not is_executed(tmp_path)


def test_every_unpickling_of_ours_takes_tensors_only():
    rooms = ("unspoken", "services", "worker", "training", "experiments", "bench", "cli")
    for path in (file for room in rooms for file in (ROOT / room).rglob("*.py")):
        text = path.read_text()
        calls = re.findall(r"torch\.load\([^\n]*", text)
        assert all("weights_only=True" in call for call in calls), path
        assert not UNSAFE.search(text), path
