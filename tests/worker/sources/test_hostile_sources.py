"""Sources that once crashed the dispatcher or filled its memory: good rows are labelled."""

import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.worker.source_files import CAPTIONS, add, picture, write_pictures
from tests.worker.stage import Stage
from unspoken.runs.store import create_run, read_status
from unspoken.wire.runs import RunRequest

GIB = 1024**3


def latin1(*texts):
    return pa.array([text.encode("latin-1") for text in texts], pa.binary()).view(pa.string())


def write_tar(path, *, behind=b"", hole=0):
    """Write a tar of one sample, then a header and a sparse hole without disk usage."""
    with tarfile.open(path, "w") as tar:
        add(tar, "a.jpg", picture(70, size=(100, 80)))
        add(tar, "a.txt", CAPTIONS[0].encode())
        end = tar.offset
    with path.open("r+b") as file:
        file.seek(end)
        file.write(behind)
        if hole:
            file.truncate(end + len(behind) + hole)
    return path


def header(name, **fields):
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def latin1_table(data):
    names = write_pictures(data, 2)
    caption = latin1("the café at the old corner", CAPTIONS[1])
    pq.write_table(pa.table({"image": names, "caption": caption}), data / "t.parquet")
    return data / "t.parquet"


def latin1_beside(data):
    write_tar(data / "t.tar")
    with tarfile.open(data / "t.tar", "a") as tar:
        add(tar, "b.jpg", picture(71, size=(100, 80)))
    caption = latin1("the café", "the café at the old corner")
    pq.write_table(pa.table({"key": ["a", "b"], "caption": caption}), data / "t.parquet")
    return data / "t.tar"


def absurd_size(data):
    return write_tar(data / "t.tar", behind=header("b.jpg", size=2**80))


def long_name(data):
    behind = header("././@LongLink", type=tarfile.GNUTYPE_LONGNAME, size=GIB)
    return write_tar(data / "t.tar", behind=behind, hole=GIB + 4096)


def long_pax_header(data):
    return write_tar(
        data / "t.tar", behind=header("x", type=tarfile.XHDTYPE, size=GIB), hole=GIB + 4096
    )


@pytest.mark.parametrize(
    "write", [latin1_table, latin1_beside, absurd_size, long_name, long_pax_header]
)
def test_a_hostile_source_costs_its_bad_rows_and_no_other_run(tmp_path, write):
    stage = Stage(tmp_path)
    (stage.data_dir / "hostile").mkdir()
    source = write(stage.data_dir / "hostile").relative_to(stage.data_dir).as_posix()
    for run_id, path in (("bad", source), ("good", "in")):
        create_run(stage.data_dir, stage.runs_dir, RunRequest(source=path, run_id=run_id))
    status = stage.tick(4, run_id="bad")
    assert (status.state, status.total, status.labelled) == ("done", 2, 1)
    assert sum(status.failed.values()) == 1
    assert read_status(stage.runs_dir, "good").state == "done"
