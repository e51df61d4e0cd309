"""`unspoken embed` fills the disk tier and skips files that are no pictures."""

import subprocess
import sys
from pathlib import Path

import pytest

from cli.embedding import embed_files, picture_files
from services.segmenter.app import create_app
from services.segmenter.cache.disk_tier import DiskTier
from services.segmenter.local_segmenter import LocalSegmenter
from tests.contracts import picture_bytes
from tests.fakes import FakeSegmenter, FakeTextEncoder
from tests.worker.service import serve
from unspoken.config.settings import child_environment
from unspoken.errors import InvalidInput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write pictures at two depths, a file that is no picture, and a file that is ignored."""
    below = tmp_path / "pictures" / "below"
    below.mkdir(parents=True)
    (below / "a.PNG").write_bytes(picture_bytes())
    (below.parent / "b.png").write_bytes(picture_bytes(size=(64, 64)))
    (below.parent / "c.jpg").write_text("no picture")
    (below.parent / "c.txt").write_text("a caption")
    return below.parent


def test_a_folders_pictures_are_embedded_once_and_found_by_the_next_process(folder, tmp_path):
    paths = picture_files(folder)
    assert [path.name for path in paths] == ["b.png", "a.PNG", "c.jpg"]
    seen: list[int] = []
    with LocalSegmenter(FakeSegmenter(disk=DiskTier(tmp_path / "disk", 1))) as segmenter:
        first = embed_files(paths, segmenter, on_each=lambda: seen.append(1))
    assert (first.num_encoded, first.num_there, len(seen)) == (2, 0, 3)
    assert [path.name for path in first.refused] == ["c.jpg"]
    again = FakeSegmenter(disk=DiskTier(tmp_path / "disk", 1))
    with LocalSegmenter(again) as segmenter:
        second = embed_files(paths, segmenter, on_each=lambda: None)
    assert (second.num_encoded, second.num_there, again.num_embedded) == (0, 2, 0)


def test_a_folder_without_pictures_is_an_error_of_the_caller(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InvalidInput):
            picture_files(path)


def test_the_command_prewarms_a_service(folder):
    fake = FakeSegmenter()
    with serve(create_app(FakeTextEncoder(), segmenter=fake)) as url:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "embed", str(folder), "--url", url],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3 pictures: 2 encoded, 0 already cached, 1 skipped\n"
    assert "c.jpg" in done.stderr and fake.num_embedded == 2


def test_the_command_fills_the_disk_tier_with_the_small_weights(folder, tmp_path):
    command = [sys.executable, "-m", "cli.main", "embed", str(folder)]
    nowhere = subprocess.run(command, capture_output=True, text=True)
    assert nowhere.returncode == 2 and "SEGMENTER_DISK_CACHE_DIR" in nowhere.stderr
    for counted in ("2 encoded, 0 already cached", "0 encoded, 2 already cached"):
        done = subprocess.run(
            [*command, "--cache", str(tmp_path / "disk")],
            capture_output=True,
            text=True,
            env=child_environment(OMP_NUM_THREADS="1"),
        )
        assert done.returncode == 0, done.stderr
        assert counted in done.stdout
