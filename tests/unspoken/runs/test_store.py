import base64
import tarfile

import pytest

from tests.worker.source_files import picture
from unspoken.errors import Conflict, InvalidInput, NotFound
from unspoken.runs.store import (
    cancel_run,
    create_run,
    list_runs,
    read_run,
    read_status,
    retry_failed,
    write_status,
)
from unspoken.wire.filters import FilterConfig
from unspoken.wire.pictures import ImageInput
from unspoken.wire.runs import InlineItem, RunRequest


@pytest.fixture
def data_dir(tmp_path):
    (tmp_path / "data/in").mkdir(parents=True)
    return tmp_path / "data"


@pytest.fixture
def runs_dir(tmp_path):
    return tmp_path / "runs"


def item(seed=1, **what):
    image = ImageInput(base64=base64.b64encode(picture(seed)).decode())
    return InlineItem(caption="A dog", image=image, **what)


def test_no_runs_are_an_empty_list(runs_dir):
    assert list_runs(runs_dir) == []


def test_a_new_run_waits_for_the_dispatcher(data_dir, runs_dir):
    status = create_run(data_dir, runs_dir, RunRequest(source="in"))
    assert (status.state, status.done) == ("planned", 0)
    assert list_runs(runs_dir) == [status] == [read_status(runs_dir, status.run_id)]


def test_inline_items_become_a_source_shard(data_dir, runs_dir):
    create_run(data_dir, runs_dir, RunRequest(items=[item(1, key="a"), item(2)], run_id="r"))
    with tarfile.open(runs_dir / "r/source/00000.tar") as tar:
        assert tar.getnames() == [
            *("a.jpg", "a.txt", "a.json"),
            *("000001.jpg", "000001.txt", "000001.json"),
        ]


def test_the_same_request_again_is_the_same_run_and_another_one_a_conflict(data_dir, runs_dir):
    first = create_run(data_dir, runs_dir, RunRequest(source="in", run_id="r"))
    assert create_run(data_dir, runs_dir, RunRequest(source="in", run_id="r")) == first
    with pytest.raises(Conflict):
        create_run(data_dir, runs_dir, RunRequest(source="in", run_id="r", num_decoys=0))


@pytest.mark.parametrize(
    ("source", "error"),
    [("../x", InvalidInput), ("/etc", InvalidInput), ("none", NotFound), ("in\0", InvalidInput)],
)
def test_a_source_outside_the_data_folder_or_not_there_is_refused(
    data_dir, runs_dir, source, error
):
    with pytest.raises(error):
        create_run(data_dir, runs_dir, RunRequest(source=source))
    assert list_runs(runs_dir) == []


def test_a_link_out_of_the_data_folder_is_refused(data_dir, runs_dir, tmp_path):
    (data_dir / "link").symlink_to(tmp_path)
    with pytest.raises(InvalidInput, match="not inside"):
        create_run(data_dir, runs_dir, RunRequest(source="link"))


@pytest.mark.parametrize("image", ["%%%", ""])
def test_an_inline_picture_that_is_no_base64_leaves_nothing_behind(data_dir, runs_dir, image):
    bad = InlineItem(caption="A dog", image=ImageInput(base64=image))
    with pytest.raises(InvalidInput, match=r"items\[1\]"):
        create_run(data_dir, runs_dir, RunRequest(items=[item(), bad]))
    assert list(runs_dir.iterdir()) == []


def test_repeated_keys_are_refused(data_dir, runs_dir):
    with pytest.raises(InvalidInput, match="repeated"):
        create_run(data_dir, runs_dir, RunRequest(items=[item(key="a"), item(key="a")]))


@pytest.mark.parametrize("run_id", ["nobody", "../data", "a/b", ""])
def test_an_unknown_or_wandering_id_is_refused(data_dir, runs_dir, run_id):
    runs_dir.mkdir()
    with pytest.raises((NotFound, InvalidInput)):
        read_status(runs_dir, run_id)


def test_a_cancelled_run_stays_cancelled_whatever_the_dispatcher_saw(data_dir, runs_dir):
    status = create_run(data_dir, runs_dir, RunRequest(source="in", run_id="r"))
    assert cancel_run(runs_dir, "r").state == "cancelled"
    write_status(runs_dir, status.model_copy(update={"state": "running"}))
    assert read_status(runs_dir, "r").state == "cancelled"


def test_a_run_that_is_done_cannot_be_cancelled_any_more(data_dir, runs_dir):
    status = create_run(data_dir, runs_dir, RunRequest(source="in", run_id="r"))
    write_status(runs_dir, status.model_copy(update={"state": "done"}))
    assert cancel_run(runs_dir, "r").state == "done"


def test_failures_are_retried_by_a_run_of_their_own(data_dir, runs_dir):
    status = create_run(data_dir, runs_dir, RunRequest(items=[item()], run_id="r"))
    with pytest.raises(Conflict, match="planned"):
        retry_failed(runs_dir, "r")
    write_status(runs_dir, status.model_copy(update={"state": "done"}))
    with pytest.raises(InvalidInput, match="no failed"):
        retry_failed(runs_dir, "r")
    failed = {"engine_failure": 1}
    write_status(runs_dir, status.model_copy(update={"state": "done", "failed": failed}))
    again = retry_failed(runs_dir, "r")
    assert read_run(runs_dir, again.run_id).retry_of == "r"
    assert (runs_dir / again.run_id / "source/00000.tar").is_file()


def test_options_that_are_given_with_their_default_values_do_not_change_the_request(
    data_dir, runs_dir
):
    create_run(data_dir, runs_dir, RunRequest(source="in", run_id="r"))
    spelled_out = RunRequest(source="in", run_id="r", num_decoys=4, filters=FilterConfig())
    assert create_run(data_dir, runs_dir, spelled_out).run_id == "r"


def test_a_conflict_names_each_option_that_differs_and_no_other(data_dir, runs_dir):
    create_run(data_dir, runs_dir, RunRequest(source="in", run_id="r", box_threshold="auto"))
    other = RunRequest(
        source="in", run_id="r", templates=["parts"], filters=FilterConfig(max_aspect=None)
    )
    with pytest.raises(Conflict) as raised:
        create_run(data_dir, runs_dir, other)
    assert raised.value.details["differences"] == {
        "box_threshold": "its box_threshold is 'auto', not None",
        "false_discovery_rate": "its false_discovery_rate is 0.1, not None",
        "templates": "its templates is None, not ['parts']",
        "filters": "its filters is {'max_aspect': 3.0}, not {'max_aspect': None}",
    }


def test_inline_items_that_differ_are_another_request(data_dir, runs_dir):
    create_run(data_dir, runs_dir, RunRequest(items=[item(1)], run_id="r"))
    assert create_run(data_dir, runs_dir, RunRequest(items=[item(1)], run_id="r")).run_id == "r"
    with pytest.raises(Conflict, match="other items"):
        create_run(data_dir, runs_dir, RunRequest(items=[item(2)], run_id="r"))
    with pytest.raises(Conflict, match="its num_decoys is 4, not 1"):
        create_run(data_dir, runs_dir, RunRequest(items=[item(1)], run_id="r", num_decoys=1))


def spoil_by_folder(file):
    file.unlink()
    file.mkdir()


def spoil_by_loop(file):
    file.unlink()
    file.symlink_to(file)


SPOILERS = [
    pytest.param(spoil_by_folder, id="folder"),
    pytest.param(spoil_by_loop, id="loop"),
    pytest.param(lambda file: file.write_bytes(b"\0" * 512), id="zeros"),
    pytest.param(lambda file: file.write_bytes(b"\xff{"), id="garbage"),
]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_run_that_cannot_be_read_is_listed_with_the_reason_beside_the_others(
    data_dir, runs_dir, spoil
):
    for run_id in ("a", "bad", "z"):
        create_run(data_dir, runs_dir, RunRequest(source="in", run_id=run_id))
    spoil(runs_dir / "bad/run.json")
    listed = list_runs(runs_dir)
    assert [status.run_id for status in listed] == ["z", "a", "bad"]
    assert listed[-1].state == "failed" and "cannot be read" in listed[-1].message


@pytest.mark.parametrize("spoil", SPOILERS[:2])
def test_a_status_that_cannot_be_read_hides_no_other(data_dir, runs_dir, spoil):
    for run_id in ("a", "bad"):
        status = create_run(data_dir, runs_dir, RunRequest(source="in", run_id=run_id))
        write_status(runs_dir, status)
    spoil(runs_dir / "bad/status.json")
    listed = list_runs(runs_dir)
    assert [(status.run_id, status.state) for status in listed] == [
        ("a", "planned"),
        ("bad", "failed"),
    ]


def test_a_cancelled_run_waits_for_nothing(data_dir, runs_dir):
    create_run(data_dir, runs_dir, RunRequest(source="in", run_id="r"))
    cancelled = cancel_run(runs_dir, "r")
    assert (cancelled.state, cancelled.message) == ("cancelled", "")


def test_a_source_that_is_not_there_is_answered_with_the_folder_and_what_it_holds(
    data_dir, runs_dir
):
    for index in range(12):
        (data_dir / f"table-{index:02d}.csv").touch()
    with pytest.raises(NotFound) as caught:
        create_run(data_dir, runs_dir, RunRequest(source="nope"))
    message = str(caught.value)
    assert f"{data_dir}, which contains 'in', 'table-00.csv'" in message
    assert message.endswith("and 3 more")


def test_a_run_of_another_data_folder_is_another_run(data_dir, runs_dir, tmp_path):
    (tmp_path / "other/in").mkdir(parents=True)
    request = RunRequest(source="in", run_id="r")
    create_run(data_dir, runs_dir, request)
    with pytest.raises(Conflict, match=r"it labels .*/data/in, not .*/other/in"):
        create_run(tmp_path / "other", runs_dir, request)
