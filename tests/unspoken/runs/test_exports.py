"""Exports, each loaded by the tool for its format."""

import contextlib
import io
import json
import shutil
import tarfile
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.unspoken.runs.pictured import HOSTILE, pictured_rows, write_run
from tests.unspoken.runs.rows import plan, unlabelled_row
from tests.worker.source_files import add, picture
from unspoken.errors import InvalidInput, NotFound
from unspoken.runs.dataset.picture_files import PictureFiles, Place
from unspoken.runs.exports.coco import export_coco
from unspoken.runs.exports.hugging_face import export_hugging_face
from unspoken.runs.exports.label_studio import export_label_studio
from unspoken.runs.exports.webdataset import export_webdataset
from unspoken.runs.ledger import Ledger
from unspoken.runs.plan import write_plan
from unspoken.runs.store import create_run
from unspoken.wire.runs import RunRequest

WITH_PICTURES = [export_webdataset, export_hugging_face, export_label_studio]


@pytest.fixture
def run_dir(tmp_path):
    return write_run(tmp_path, chunks=2)


def test_pycocotools_loads_the_boxes(run_dir, tmp_path):
    from pycocotools.coco import COCO

    counts = export_coco(run_dir, tmp_path / "coco.json")
    assert counts == {"images": 6, "annotations": 6, "categories": 4}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "coco.json"))
    (car,) = coco.loadCats(coco.getCatIds(catNms=["car"]))
    first = coco.loadAnns(coco.getAnnIds(imgIds=[1], catIds=[car["id"]]))[0]
    assert first["bbox"] == [10, 10, 80, 50] and first["area"] == 4000


# webdataset leaves closing its shards to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_loads_every_picture_with_its_annotations(run_dir, tmp_path):
    import webdataset

    out = tmp_path / "wds"
    counts = export_webdataset(run_dir, out, samples_per_shard=4)
    assert counts == {"shards": 2, "samples": 6, "annotations": 6}
    shards = [str(out / name) for name in ("00000.tar", "00001.tar")]
    dataset = webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8")
    samples = list(dataset.rename(image="jpg;png;webp", caption="txt", about="json"))
    assert [each["about"]["key"] for each in samples] == ["a.b", "a.c", "turned"] * 2
    assert all(each["image"].shape == (80, 100, 3) for each in samples)
    assert samples[1]["caption"] == HOSTILE
    assert samples[1]["about"]["annotations"][0]["box"] == [50.5, 0, 100, 40]
    assert samples[0]["about"]["annotations"][0]["alt_labels"] == ["vehicle"]
    assert samples[2]["about"]["annotations"] == []


def test_the_same_dataset_gives_the_same_shards(run_dir, tmp_path):
    for name in ("a", "b"):
        export_webdataset(run_dir, tmp_path / name)
    first, second = ((tmp_path / name / "00000.tar").read_bytes() for name in ("a", "b"))
    assert first == second


def test_a_picture_goes_out_as_it_is_unless_exif_turns_it(run_dir, tmp_path):
    export_webdataset(run_dir, tmp_path / "wds")
    with (
        tarfile.open(run_dir.parent.parent / "data/shards/00000.tar") as source,
        tarfile.open(tmp_path / "wds/00000.tar") as made,
    ):
        for member, name in (("0/a.b.jpg", "000000001.jpg"), ("0/a.c.png", "000000002.png")):
            assert source.extractfile(member).read() == made.extractfile(name).read()
        turned = Image.open(io.BytesIO(made.extractfile("000000003.jpg").read()))
    assert turned.size == (100, 80) and not turned.getexif()
    red, green, _ = np.asarray(turned)[10, 10]
    assert red > 200 and green < 60


def odd_run(folder):
    """Create a run over a folder with pictures that few readers accept unchanged."""
    image = Image.open(io.BytesIO(picture(5, size=(100, 80))))
    turned = b'<rdf:Description tiff:Orientation="8"/>'
    encoded = {}
    for name, kind, options in (
        ("a.gif", "GIF", {}),
        ("b.tiff", "TIFF", {}),
        ("c.jpg", "JPEG", {}),
        ("d.jpg", "JPEG", {"xmp": turned}),
    ):
        buffer = io.BytesIO()
        upright = image.transpose(Image.Transpose.ROTATE_270) if options else image
        upright.save(buffer, kind, quality=95, **options)
        encoded[name] = buffer.getvalue()
    encoded["c.jpg"] = b"\r\n" + encoded["c.jpg"]
    encoded["d2.jpg"] = encoded["c.jpg"][2:-2]
    (folder / "data/pics").mkdir(parents=True)
    for name, content in encoded.items():
        (folder / "data/pics" / name).write_bytes(content)
    files = {f"pics/{name}": content for name, content in encoded.items()}
    first, *others = pictured_rows(files, shard="pics")
    first = first.model_copy(update={"captions": ("A car", "A parked car")})
    create_run(folder / "data", folder / "runs", RunRequest(source="pics", run_id="run"))
    models = {"llm": "fake-llm@0", "detector": "fake-detector@0"}
    Ledger(folder / "runs/run").publish(0, [first, *others], attempt=1, models=models)
    write_plan(folder / "runs/run", plan())
    return folder / "runs/run"


@pytest.mark.parametrize("export", WITH_PICTURES)
def test_every_format_goes_out_as_files_that_any_reader_shows_upright(tmp_path, export):
    export(odd_run(tmp_path), tmp_path / "out")
    if export is export_webdataset:
        with tarfile.open(tmp_path / "out/00000.tar") as tar:
            files = [tar.extractfile(name).read() for name in tar.getnames() if "jpg" in name]
    elif export is export_hugging_face:
        (table,) = (tmp_path / "out/data").iterdir()
        files = [each["bytes"] for each in pq.read_table(table)["image"].to_pylist()]
    else:
        files = [path.read_bytes() for path in sorted((tmp_path / "out/pictures").iterdir())]
    assert len(files) == 5
    truth = np.asarray(Image.open(io.BytesIO(picture(5, size=(100, 80))))).astype(int)
    for encoded in files:
        assert encoded.startswith(b"\xff\xd8\xff") and encoded.endswith(b"\xff\xd9")
        shown = Image.open(io.BytesIO(encoded)).convert("RGB")
        assert shown.size == (100, 80) and "xmp" not in shown.info
        assert np.abs(np.asarray(shown).astype(int) - truth).mean() < 8


def test_each_of_several_captions_goes_out(tmp_path):
    run_dir = odd_run(tmp_path)
    export_webdataset(run_dir, tmp_path / "wds")
    export_hugging_face(run_dir, tmp_path / "hf")
    export_coco(run_dir, tmp_path / "coco.json")
    with tarfile.open(tmp_path / "wds/00000.tar") as tar:
        abouts = [json.load(tar.extractfile(n)) for n in tar.getnames() if n.endswith("json")]
    (table,) = (tmp_path / "hf/data").iterdir()
    images = json.loads((tmp_path / "coco.json").read_bytes())["images"]
    for captions in (
        [each["captions"] for each in abouts],
        pq.read_table(table)["captions"].to_pylist(),
        [each["captions"] for each in images],
    ):
        assert captions == [["A car", "A parked car"], *[["A car, parked"]] * 4]


def test_datasets_loads_pictures_and_boxes_with_their_class_names(run_dir, tmp_path):
    import datasets

    out = tmp_path / "hf"
    counts = export_hugging_face(run_dir, out, rows_per_file=4)
    assert counts == {"files": 2, "images": 6, "categories": 3}
    loaded = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert [each["image"].size for each in loaded] == [(100, 80)] * 6
    objects = loaded[0]["objects"]
    names = loaded.features["objects"]["category"].feature.names
    assert [names[each] for each in objects["category"]] == ["car", "wheel"]
    assert objects["bbox"] == [[10, 10, 80, 50], [20, 45, 15, 15]]
    assert objects["area"] == [4000, 225] and objects["alt_labels"] == [["vehicle"], []]
    assert objects["named"] == [True, False]
    assert loaded[1]["caption"] == HOSTILE
    ids = [number for each in loaded for number in each["objects"]["id"]]
    assert ids == list(range(1, 7))
    loaded.cleanup_cache_files()


def test_the_parquet_of_hugging_face_keeps_groups_that_a_reader_can_hold(run_dir, tmp_path):
    export_hugging_face(run_dir, tmp_path / "hf")
    (file,) = (tmp_path / "hf/data").iterdir()
    assert file.name == "train-00000-of-00001.parquet"
    assert pq.ParquetFile(file).metadata.num_rows == 6


def test_label_studio_gets_tasks_as_its_documentation_has_them(run_dir, tmp_path):
    counts = export_label_studio(run_dir, tmp_path / "ls")
    assert counts == {"tasks": 6, "boxes": 6, "labels": 3}
    tasks = json.loads((tmp_path / "ls/tasks.json").read_text(encoding="utf-8"))
    config = ElementTree.parse(tmp_path / "ls/labels.xml").getroot()
    control = config.find("RectangleLabels")
    labels = {each.get("value") for each in control}
    assert labels == {"car", "wheel", 'sp"oon & <b>'}
    for task in tasks:
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == "fake-detector@0"
        assert 0 <= prediction["score"] <= 1
        variables = {each.get("value", "").removeprefix("$") for each in config}
        assert variables & task["data"].keys() == {"image", "caption"}
        for region in prediction["result"]:
            assert region["type"] == "rectanglelabels"
            assert region["from_name"] == control.get("name")
            assert region["to_name"] == control.get("toName") == config.find("Image").get("name")
            value = region["value"]
            assert set(value["rectanglelabels"]) <= labels
            assert 0 <= value["x"] <= value["x"] + value["width"] <= 100
            assert 0 <= value["y"] <= value["y"] + value["height"] <= 100


def test_label_studios_percents_are_those_of_the_pixels(run_dir, tmp_path):
    export_label_studio(run_dir, tmp_path / "ls")
    tasks = json.loads((tmp_path / "ls/tasks.json").read_text(encoding="utf-8"))
    (region,) = tasks[1]["predictions"][0]["result"]
    value = {name: region["value"][name] for name in ("x", "y", "width", "height")}
    assert value == {"x": 50.5, "y": 0, "width": 49.5, "height": 50}
    assert (region["original_width"], region["original_height"]) == (100, 80)


def test_label_studios_pictures_are_where_its_local_storage_looks(run_dir, tmp_path):
    export_label_studio(run_dir, tmp_path / "ls")
    for task in json.loads((tmp_path / "ls/tasks.json").read_text(encoding="utf-8")):
        below = task["data"]["image"].removeprefix("/data/local-files/?d=")
        assert (tmp_path / below).is_file()
    export_label_studio(run_dir, tmp_path / "ls2", url_prefix="http://h:1/p/")
    text = (tmp_path / "ls2/tasks.json").read_text(encoding="utf-8")
    assert "http://h:1/p/000000001.jpg" in text


@pytest.mark.parametrize("export", WITH_PICTURES)
def test_an_export_goes_into_a_new_or_empty_folder_only(export, run_dir, tmp_path):
    (tmp_path / "out").mkdir()
    export(run_dir, tmp_path / "out")
    with pytest.raises(InvalidInput, match="is not an empty folder"):
        export(run_dir, tmp_path / "out")
    with pytest.raises(InvalidInput, match="must be a new folder"):
        export(run_dir, tmp_path / "no" / "where")


@pytest.mark.parametrize("export", WITH_PICTURES)
def test_an_export_that_misses_a_picture_leaves_nothing(export, run_dir, tmp_path):
    shard = run_dir.parent.parent / "data/shards/00001.tar"
    shutil.copyfile(shard.with_name("00000.tar"), shard)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(NotFound, match="no member '1/a"):
        export(run_dir, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_a_picture_that_changed_since_it_was_labelled_is_refused(run_dir, tmp_path):
    with tarfile.open(run_dir.parent.parent / "data/shards/00000.tar", "w") as tar:
        add(tar, "0/a.b.jpg", picture(77, size=(100, 80)))
    with pytest.raises(InvalidInput, match="same size in pixels and other content"):
        export_webdataset(run_dir, tmp_path / "out")


def test_pictures_of_a_table_are_found_from_the_root(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below/a.jpg").write_bytes(picture(1))
    files = PictureFiles(tmp_path)
    assert files.read(Place("below/table.csv", "below/a.jpg")).size_hw == (80, 96)
    with pytest.raises(NotFound):
        files.read(Place("below/table.csv", "a.jpg"))


def test_pictures_elsewhere_are_asked_for(run_dir, tmp_path):
    moved = tmp_path / "elsewhere"
    (tmp_path / "data").rename(moved)
    with pytest.raises(InvalidInput, match="--moved-to"):
        export_webdataset(run_dir, tmp_path / "out")
    assert export_webdataset(run_dir, tmp_path / "out", pictures=moved)["samples"] == 6


def test_a_dataset_without_a_labelled_row_is_an_empty_export_where_that_can_be_loaded(tmp_path):
    for name in ("attempts", "leases", "dataset", "source"):
        (tmp_path / "run" / name).mkdir(parents=True)
    dropped = [unlabelled_row(0, status="dropped", reason="language")]
    Ledger(tmp_path / "run").publish(0, dropped, attempt=1, models={})
    assert export_webdataset(tmp_path / "run", tmp_path / "wds")["samples"] == 0
    assert export_label_studio(tmp_path / "run", tmp_path / "ls")["tasks"] == 0
    with pytest.raises(NotFound, match="no labelled picture"):
        export_hugging_face(tmp_path / "run", tmp_path / "hf")
