"""`POST /rank-crops`: a tiny real open_clip model through the real route, and bad input."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.torch import load_file, save_file

from services.segmenter.app import create_app
from services.segmenter.crop_engine import PROMPT, CropEngine, build_crop_engine
from services.segmenter.engine import build_engine
from services.segmenter.settings import SegmenterSettings
from tests.contracts import check_crop_ranker, picture_bytes
from tests.fakes import FakeCropRanker, FakeTextEncoder
from tests.services.segmenter.test_engine import models_file
from tests.serving import ready_client
from unspoken.client.port_clients import CropRankerClient
from unspoken.config.profiles import file_sha256
from unspoken.errors import Conflict, MissingWeights
from unspoken.imaging.crops import crop_windows
from unspoken.imaging.images import ONE_WHITE_PIXEL, decode_picture
from unspoken.model.image_tower import open_clip_image_tower
from unspoken.wire.crops import Crop

TINY = "unspoken-tiny-clip"
CONFIG = {
    "embed_dim": 768,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
LABELS = ["car", "wheel", "a red mug", "sky"]
PNG = picture_bytes()
IMAGE = {"base64": base64.b64encode(PNG).decode()}
BOX = {"x0": 8, "y0": 8, "x1": 60, "y1": 50}


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory) -> tuple[open_clip.CLIP, Path]:
    """Return a complete CLIP with random weights, and a folder with its file and a models.yaml."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / f"{TINY}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / f"{TINY}.json")
    torch.manual_seed(11)
    model = open_clip.CLIP(**CONFIG).eval()
    save_file(model.state_dict(), folder / "clip.safetensors")
    write_models_file(folder)
    return model, folder


def write_models_file(folder: Path) -> None:
    options = {"backend": "open_clip", "architecture": TINY, "weights": "clip.safetensors"}
    digest = file_sha256(folder / "clip.safetensors")
    models_file(folder, file="clip.safetensors", digest=digest, options=json.dumps(options))


def crop_engine(folder: Path) -> CropEngine | None:
    settings = SegmenterSettings(
        cache_dir=folder, profile="tiny", models_file=folder / "models.yaml"
    )
    return build_crop_engine(settings, build_engine(settings))


@contextmanager
def served(ranker) -> Iterator[TestClient]:
    app = create_app(FakeTextEncoder(), ranker=ranker)
    with ready_client(app) as client:
        yield client


def test_a_real_image_text_model_holds_the_contract(tiny_clip):
    check_crop_ranker(crop_engine(tiny_clip[1]))


def test_ranks_are_those_of_the_whole_open_clip_model(tiny_clip):
    model, folder = tiny_clip
    picture = decode_picture(PNG)
    # Square windows, because open_clip's own preprocessing treats them as ours does.
    boxes = np.array([(10, 10, 50, 50), (50, 10, 60, 20)])
    windows = crop_windows(boxes, picture.size_hw)
    prepare = open_clip.image_transform(32, is_train=False)
    cut = [Image.fromarray(picture.pixels[y0:y1, x0:x1]) for x0, y0, x1, y1 in windows.tolist()]
    tokens = open_clip.get_tokenizer(TINY)([PROMPT.format(label) for label in LABELS])
    with torch.inference_mode():
        crops = model.encode_image(torch.stack([prepare(crop) for crop in cut]), normalize=True)
        shares = (crops @ model.encode_text(tokens, normalize=True).T * 100).softmax(dim=1)
    expected = (shares.argsort(dim=1, descending=True).argsort(dim=1) + 1).tolist()  # (N, L)
    with served(crop_engine(folder)) as client:
        asked = [
            {"box": dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)), "label_index": label}
            for box in boxes.tolist()
            for label in range(len(LABELS))
        ]
        body = {"image": IMAGE, "crops": asked, "labels": LABELS}
        response = client.post("/rank-crops", json=body)
    assert response.status_code == 200, response.text
    reply = response.json()
    assert np.reshape(reply["ranks"], (2, len(LABELS))).tolist() == expected
    assert len({tuple(row) for row in expected}) > 1
    assert (reply["image"]["width"], reply["image"]["height"]) == (96, 64)
    assert reply["timings_ms"]["total"] >= reply["timings_ms"]["rank"] > 0


def test_the_image_tower_is_loaded_by_the_first_question_and_once(tiny_clip):
    engine = crop_engine(tiny_clip[1])
    loads = []
    counting = CropEngine(FakeTextEncoder(), lambda: loads.append(1) or engine._load())
    crop = Crop.model_validate({"box": BOX, "label_index": 0})
    picture = decode_picture(PNG)
    assert counting.rank_crops(picture, [], LABELS) == [] and not loads
    assert counting.rank_crops(picture, [crop], LABELS) == counting.rank_crops(
        picture, [crop], LABELS
    )
    assert loads == [1]


def test_the_smallest_picture_has_a_crop(tiny_clip):
    crop = Crop.model_validate({"box": {"x0": 0, "y0": 0, "x1": 1, "y1": 1}, "label_index": 0})
    ranks = crop_engine(tiny_clip[1]).rank_crops(decode_picture(ONE_WHITE_PIXEL), [crop], ["car"])
    assert ranks == [1]


def test_a_file_of_the_text_tower_alone_is_an_error_that_names_what_is_missing(tiny_clip, tmp_path):
    state = load_file(tiny_clip[1] / "clip.safetensors")
    text_only = {name: value for name, value in state.items() if not name.startswith("visual.")}
    save_file(text_only, tmp_path / "clip.safetensors")
    write_models_file(tmp_path)
    crop = Crop.model_validate({"box": BOX, "label_index": 0})
    with (
        served(crop_engine(tmp_path)) as http,
        pytest.raises(MissingWeights, match=r"class_embedding"),
    ):
        CropRankerClient(http).rank_crops(decode_picture(PNG), [crop], LABELS)


def test_the_default_profile_says_which_one_can_check_crops(tmp_path):
    settings = SegmenterSettings(cache_dir=tmp_path)
    assert build_crop_engine(settings, FakeTextEncoder()) is None
    crop = Crop.model_validate({"box": BOX, "label_index": 0})
    with served(None) as http, pytest.raises(Conflict, match=r"fake-text-encoder.*PROFILE=base"):
        CropRankerClient(http).rank_crops(decode_picture(PNG), [crop], LABELS)


def test_the_real_vit_l_14_has_every_weight_of_the_image_tower_where_it_is_read():
    architecture = "ViT-L-14-quickgelu"
    with torch.device("meta"):
        whole = open_clip.CLIP(**open_clip.get_model_config(architecture)).state_dict()
        tower = open_clip_image_tower(architecture)
    shapes = {name: value.shape for name, value in tower.state_dict().items()}
    assert shapes == {name: whole[f"visual.{name}"].shape for name in shapes}
    assert sum(value.numel() for value in tower.parameters()) == 303_966_208
    assert tower.image_size == (224, 224)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param({"crops": [{"box": BOX, "label_index": 0}] * 9}, "8", id="nine-crops"),
        pytest.param({"crops": [{"box": BOX, "label_index": 2}]}, "label_index", id="no-label"),
        pytest.param({"crops": [{"box": BOX, "label_index": -1}]}, "label_index", id="negative"),
        pytest.param({"crops": [{"box": BOX}]}, "label_index", id="no-index"),
        pytest.param({"crops": [{"box": {**BOX, "x0": 70}, "label_index": 0}]}, "x0 <", id="empty"),
        pytest.param(
            {"crops": [{"box": {**BOX, "x0": 700, "x1": 800}, "label_index": 0}]},
            "outside",
            id="outside",
        ),
        pytest.param({"labels": []}, "labels", id="no-labels"),
        pytest.param({"labels": ["car", "car"]}, "differ", id="label-twice"),
        pytest.param({"labels": ["x" * 257]}, "256", id="long-label"),
        pytest.param({"labels": [f"thing {i}" for i in range(1001)]}, "1000", id="1001-labels"),
        pytest.param({"image": {"base64": "#"}}, "base64", id="no-base64"),
        pytest.param({"image": {"id": "x"}}, "image", id="an-id"),
        pytest.param({"prompt": "x"}, "prompt", id="unknown-field"),
    ],
)
def test_bad_questions_are_422_that_name_the_trouble(change, says):
    body = {"image": IMAGE, "crops": [], "labels": ["car", "wheel"]} | change
    with served(FakeCropRanker()) as client:
        response = client.post("/rank-crops", json=body)
    assert response.status_code == 422
    assert says in json.dumps(response.json())


def test_json_and_both_forms_are_answered_alike():
    crops = [{"box": BOX, "label_index": 1}]
    form = {"files": {"image": ("a.png", PNG)}}
    sent = [
        {"json": {"image": IMAGE, "crops": crops, "labels": LABELS}},
        form | {"data": {"crops": json.dumps(crops), "labels": json.dumps(LABELS)}},
        form | {"data": {"crops": json.dumps(crops), "labels": LABELS}},
    ]
    with served(FakeCropRanker()) as client:
        replies = [client.post("/rank-crops", **body).raise_for_status().json() for body in sent]
    assert replies[0]["ranks"] == replies[1]["ranks"] == replies[2]["ranks"]
    assert {reply["image"]["sha256"] for reply in replies} == {replies[0]["image"]["sha256"]}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"crops": "[{", "labels": LABELS}, "JSON"),
        ({"crops": "[1]", "labels": LABELS}, "crops"),
        ({"labels": LABELS}, "crops"),
        ({"crops": "[]", "labels": LABELS, "label": "car"}, "labels"),
    ],
    ids=["no-json", "no-crops", "missing", "unknown-field"],
)
def test_a_bad_form_is_422_that_names_the_trouble(fields, says):
    with served(FakeCropRanker()) as client:
        reply = client.post("/rank-crops", files={"image": ("a.png", PNG)}, data=fields)
    assert reply.status_code == 422 and says in json.dumps(reply.json())


def test_a_body_that_is_no_json_is_422_and_bytes_that_are_no_picture_415():
    not_a_picture = {"base64": base64.b64encode(b"no picture").decode()}
    with served(FakeCropRanker()) as client:
        assert client.post("/rank-crops", content=b"\xff{").status_code == 422
        body = {"image": not_a_picture, "crops": [], "labels": ["car"]}
        assert client.post("/rank-crops", json=body).status_code == 415
