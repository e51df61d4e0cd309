"""A workspace with a run: some commands continue it, others are refused."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.local.launcher import Stack, StackConfig
from cli.main import app
from cli.workspace import name_of_source
from tests.fakes import FakeDetector
from tests.worker.source_files import CAPTIONS, picture, write_pictures, write_table
from tests.worker.stage import Stage
from unspoken.errors import Conflict, NotFound
from unspoken.runs.notice import EMOJI_ONLY, describe_limits
from unspoken.runs.store import create_run, read_status
from unspoken.wire.runs import RunRequest
from worker.process.settings import WorkerSettings


def write_captioned(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        (folder / f"{name}.jpg").write_bytes(picture(index))
        (folder / f"{name}.txt").write_text(CAPTIONS[index])


@pytest.fixture
def stage(tmp_path):
    """Workspace `tmp_path` with a finished run `labels` of the folder A."""
    made = Stage(tmp_path)
    shutil.rmtree(made.data_dir)
    made.seen_data_dir = None
    made.dispatcher = made.new_dispatcher()
    write_captioned(tmp_path / "A", ["a", "b", "c"])
    create_run(tmp_path / "A", made.runs_dir, RunRequest(source=".", run_id="labels"))
    assert made.tick(3, run_id="labels").state == "done"
    return made


@pytest.fixture
def no_stack(monkeypatch):
    def refuse(*_arguments):
        raise AssertionError("no stack is needed")

    monkeypatch.setattr("cli.verbs.label.running_stack", refuse)


def run_cli(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def label(tmp_path, source, *options, name="labels"):
    return run_cli("label", source, "--workspace", tmp_path, "--name", name, *options)


def test_another_folder_is_refused_and_the_workspace_says_what_it_holds(tmp_path, stage, no_stack):
    write_captioned(tmp_path / "templates", ["x"])  # a folder with the name of an option
    result = label(tmp_path, tmp_path / "templates")
    assert isinstance(result.exception, Conflict)
    message = result.exception.message
    for told in (
        "'labels' (done, 3 of 3 pictures)",
        f"it labels {tmp_path}/A, not {tmp_path}/templates",
        "--workspace",
        "--name",
    ):
        assert told in message


@pytest.mark.parametrize(
    ("file", "field", "told"),
    [
        ("run.json", "options", "run.json cannot be read: options: is missing."),
        ("plan.json", "num_rows", "plan.json cannot be read: num_rows: is missing."),
    ],
)
def test_a_run_whose_files_do_not_parse_is_reported_with_the_file_the_field_and_advice(
    tmp_path, stage, no_stack, file, field, told
):
    path = stage.runs_dir / "labels" / file
    written = json.loads(path.read_bytes())
    del written[field]
    path.write_text(json.dumps(written))
    result = label(tmp_path, tmp_path / "A")
    message = result.exception.message
    assert told in message and message.endswith("start a run under another name")


def test_tables_of_the_same_name_are_told_apart(tmp_path, stage, no_stack):
    for place in ("one", "two"):
        names = write_pictures(tmp_path / place, 1)
        write_table(tmp_path / place / "data.csv", [{"path": names[0], "caption": CAPTIONS[0]}])
    create_run(tmp_path / "one", stage.runs_dir, RunRequest(source="data.csv", run_id="table"))
    result = label(tmp_path, tmp_path / "two/data.csv", name="table")
    assert isinstance(result.exception, Conflict) and "two/data.csv" in result.exception.message


def test_other_options_are_refused_by_their_names_on_the_command_line(tmp_path, stage, no_stack):
    result = label(tmp_path, tmp_path / "A", "--decoys", 7, "--filter", "language=de")
    assert isinstance(result.exception, Conflict)
    assert "its --decoys is 4, not 7" in result.exception.message
    assert "--filter is {'language': 'en'}, not {'language': 'de'}" in result.exception.message


def test_the_same_command_on_a_finished_run_tells_its_result_at_once(tmp_path, stage, no_stack):
    result = label(tmp_path, tmp_path / "A")
    assert result.exit_code == 0, result.exception
    assert "labels: done, 3 of 3 pictures" in result.output and "--name" not in result.output


def test_pictures_that_came_later_are_counted_with_what_to_do(tmp_path, stage, no_stack):
    write_captioned(tmp_path / "A", ["Aa", "Ab"])
    (tmp_path / "A/b.txt").write_text("A caption that is new")
    (tmp_path / "A/c.jpg").unlink()
    output = " ".join(label(tmp_path, tmp_path / "A").output.split())
    assert "2 pictures are new, 1 changed, 1 gone since it was planned" in output
    assert f"unspoken label {tmp_path}/A --workspace {tmp_path} --name labels-2" in output


def test_a_cancelled_run_says_how_to_go_on(tmp_path, stage, no_stack):
    create_run(tmp_path / "A", stage.runs_dir, RunRequest(source=".", run_id="second"))
    assert run_cli("cancel", "second", "--workspace", tmp_path).exit_code == 0
    result = label(tmp_path, tmp_path / "A", name="second")
    assert isinstance(result.exception, Conflict)
    assert "unspoken fork second" in result.exception.message


def test_a_retry_of_a_run_that_goes_on_is_refused_before_a_stack_starts(tmp_path, stage, no_stack):
    create_run(tmp_path / "A", stage.runs_dir, RunRequest(source=".", run_id="second"))
    result = run_cli("retry", "second", "--workspace", tmp_path)
    assert isinstance(result.exception, Conflict) and "planned" in result.exception.message


def test_workers_of_a_workspace_use_the_data_folder_of_each_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKER_DATA_DIR", "/a/folder/of/another/stack")
    seen = {}

    def note(_self, name, _module, *, environment, logs_dir):
        seen[name] = environment
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.local.launcher._Child.__init__", note)
    for moved in (None, tmp_path / "moved"):
        config = StackConfig(
            folder=tmp_path,
            data_dir=tmp_path / "data",
            runs_dir=tmp_path / "runs",
            moved_data_dir=moved,
            broker_url="redis://127.0.0.1:9",
        )
        with pytest.raises(KeyboardInterrupt), Stack(config):
            pass
        (environment,) = seen.values()
        monkeypatch.setattr("os.environ", dict(environment))
        assert WorkerSettings().data_dir == moved


def test_every_command_on_a_workspace_finds_the_pictures_by_itself(tmp_path, stage, no_stack):
    where = ("--workspace", tmp_path)
    (tmp_path / "data").mkdir(exist_ok=True)  # an empty one, as `unspoken up` makes it
    out = tmp_path / "exported"
    out.mkdir()
    for arguments in (
        ("status", "labels", *where),
        ("verify", "labels", "--source", *where),
        ("export", "webdataset", "labels", *where, "--out", out / "web"),
        ("export", "hugging-face", "labels", *where, "--out", out / "hf"),
        ("export", "label-studio", "labels", *where, "--out", out / "studio"),
        ("report", "labels", *where, "--out", out / "report"),
        ("report", "labels", *where),
    ):
        result = run_cli(*arguments)
        assert result.exit_code == 0, (arguments, result.exception, result.output)


def test_an_export_names_the_folder_that_its_pictures_were_in(tmp_path, stage):
    (tmp_path / "A").rename(tmp_path / "moved")
    export = ("export", "webdataset", "labels", "--workspace", tmp_path, "--out", tmp_path / "web")
    result = run_cli(*export)
    assert f"were in {tmp_path}/A, which is not there" in str(result.exception)
    result = run_cli(*export, "--moved-to", tmp_path / "moved")
    assert result.exit_code == 0


def test_a_workspace_with_its_data_folder_may_be_moved(tmp_path):
    made = Stage(tmp_path / "W")
    made.create()
    assert made.tick(3).state == "done"
    (tmp_path / "W").rename(tmp_path / "moved")
    for arguments in (
        ("verify", "r", "--source", "--workspace", tmp_path / "moved"),
        ("report", "r", "--workspace", tmp_path / "moved"),
    ):
        result = run_cli(*arguments)
        assert result.exit_code == 0, (arguments, result.exception, result.output)


def test_a_workspace_inside_of_the_labelled_folder_is_no_part_of_it(tmp_path, no_stack):
    made = Stage(tmp_path / "A/W")
    shutil.rmtree(made.data_dir)
    made.seen_data_dir = None
    made.dispatcher = made.new_dispatcher()
    write_captioned(tmp_path / "A", ["a", "b"])
    for run_id in ("labels", "labels-2"):
        create_run(tmp_path / "A", made.runs_dir, RunRequest(source=".", run_id=run_id))
        assert made.tick(3, run_id=run_id).total == 2
    result = label(tmp_path / "A/W", tmp_path / "A")
    assert result.exit_code == 0 and "--name" not in result.output


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("My pictures", "my-pictures"),
        ("photos/winter_2026/", "winter-2026"),
        ("captions_val2017.json", "captions-val2017"),
        ("00000.tar.gz", "00000"),
        ("data.v2/images", "images"),
        ("日本", "labels"),
    ],
)
def test_a_run_is_named_by_its_source(source, name):
    assert name_of_source(Path(source)) == name


def test_a_run_without_a_name_takes_that_of_its_source(tmp_path, no_stack):
    made = Stage(tmp_path / "W")
    shutil.rmtree(made.data_dir)
    made.seen_data_dir = None
    made.dispatcher = made.new_dispatcher()
    write_captioned(tmp_path / "My pictures", ["a", "b"])
    request = RunRequest(source=".", run_id="my-pictures")
    create_run(tmp_path / "My pictures", made.runs_dir, request)
    assert made.tick(3, run_id="my-pictures").state == "done"
    result = run_cli("label", tmp_path / "My pictures", "--workspace", tmp_path / "W")
    assert "my-pictures: done, 2 of 2 pictures" in result.output
    assert f"unspoken report my-pictures --workspace {tmp_path}/W" in result.output


def test_the_default_workspace_is_in_the_current_folder(tmp_path, monkeypatch):
    made = Stage(tmp_path / "unspoken-work")
    made.create()
    monkeypatch.chdir(tmp_path)
    assert "r: planned" in run_cli("status").output
    assert run_cli("status", "r").exit_code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("status", "absent"),
        ("report", "absent"),
        ("export", "coco", "absent", "--out", "x.json"),
        ("verify", "absent"),
        ("retry", "absent"),
        ("cancel", "absent"),
        ("fork", "../labels"),
        ("train", "smoke", "--run", "absent", "--out", "x"),
    ],
    ids=lambda words: words[0],
)
def test_a_run_that_is_not_there_is_refused_with_the_names_of_those_that_are(
    words, tmp_path, stage, no_stack
):
    result = run_cli(*words, "--workspace", tmp_path)
    assert isinstance(result.exception, NotFound)
    assert "It has labels" in result.exception.message


def test_results_are_printed_as_json_for_programs(tmp_path, stage, no_stack):
    where = ("--workspace", tmp_path, "--json")
    labelled = CliRunner().invoke(
        app, ["label", str(tmp_path / "A"), "--name", "labels", *map(str, where)]
    )
    assert json.loads(labelled.stdout)["state"] == "done"
    out = tmp_path / "coco.json"
    exported = run_cli("export", "coco", "labels", "--out", out, *where)
    told = json.loads(exported.stdout)
    assert told["run"] == "labels" and told["complete"] and told["counts"]["images"] == 3
    assert told["out"] == str(out)
    reported = json.loads(run_cli("report", "labels", *where).stdout)
    assert reported["counts"]["pictures"] == 3 and Path(reported["out"]).is_file()
    assert json.loads(run_cli("verify", "labels", *where).stdout)["run_id"] == "labels"


def test_an_unfinished_run_is_exported_with_a_warning_that_counts_what_is_missing(tmp_path):
    made = Stage(tmp_path)
    made.create()
    made.dispatcher.tick()
    run_id, chunk_ids, queue = made.publisher.messages[0]
    made.publisher.messages = [(run_id, chunk_ids[:1], queue)]
    made.work()
    made.dispatcher.tick()
    status = read_status(made.runs_dir, "r")
    assert status.state == "running" and 0 < status.done < status.total
    missing = f"only {status.done} of {status.total} pictures are done"
    where = ("--workspace", tmp_path)
    exported = run_cli("export", "coco", "r", *where, "--out", tmp_path / "coco.json")
    assert exported.exit_code == 0 and f"warning: the run is running: {missing}" in exported.stderr
    assert missing in run_cli("report", "r", *where).stderr
    assert missing in (tmp_path / "runs/r/report/index.html").read_text()
    as_json = run_cli("export", "webdataset", "r", *where, "--out", tmp_path / "web", "--json")
    assert json.loads(as_json.stdout)["complete"] is False


class SmallDetector(FakeDetector):
    model = FakeDetector.model.model_copy(update={"revision": "small-world-2"})


def test_card_report_and_summary_say_that_the_small_models_know_emoji_art_only(tmp_path, no_stack):
    made = Stage(tmp_path, detector=SmallDetector())
    made.create()
    assert made.tick(3).state == "done"
    where = ("--workspace", tmp_path)
    assert EMOJI_ONLY in (made.runs_dir / "r/dataset/README.md").read_text()
    assert run_cli("report", "r", *where).exit_code == 0
    assert EMOJI_ONLY in (tmp_path / "runs/r/report/index.html").read_text()
    create_run(made.data_dir / "in", made.runs_dir, RunRequest(source=".", run_id="in"))
    assert made.tick(3, run_id="in").state == "done"
    assert EMOJI_ONLY in label(tmp_path, made.data_dir / "in", name="in").stderr
    assert describe_limits(["0"]) == ""


def test_a_report_is_replaced_and_is_no_part_of_a_source_around_the_workspace(tmp_path, no_stack):
    made = Stage(tmp_path / "A/W")
    shutil.rmtree(made.data_dir)
    made.seen_data_dir = None
    made.dispatcher = made.new_dispatcher()
    write_captioned(tmp_path / "A", ["a", "b"])
    create_run(tmp_path / "A", made.runs_dir, RunRequest(source=".", run_id="a"))
    assert made.tick(3, run_id="a").total == 2
    for _ in range(2):
        assert run_cli("report", "a", "--workspace", tmp_path / "A/W").exit_code == 0
    result = run_cli("label", tmp_path / "A", "--workspace", tmp_path / "A/W")
    assert result.exit_code == 0 and "changed" not in result.output
    assert run_cli("verify", "a", "--workspace", tmp_path / "A/W").exit_code == 0
