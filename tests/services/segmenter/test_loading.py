"""Loading of weights: the profile's, custom weights and deltas; invalid ones are refused."""

import hashlib
from pathlib import Path

import pytest
import torch

from services.segmenter.loading import build_segmenter
from services.segmenter.local_segmenter import LocalSegmenter
from services.segmenter.settings import SegmenterSettings
from tests.contracts import check_segmenter, picture_bytes
from tests.fakes import FakeDetector, FakeTextEncoder
from tests.services.segmenter.tiny import question, segment, tiny_sam
from unspoken.config.profiles import load_profile
from unspoken.errors import InvalidConfig, MissingWeights
from unspoken.imaging.images import decode_picture
from unspoken.model.sam.checkpoint import save_delta, save_weights

ENCODER = FakeTextEncoder()
SERVED = f"{ENCODER.model.name}@{ENCODER.model.revision}"


def settings(tmp_path: Path, **changes: object) -> SegmenterSettings:
    return SegmenterSettings(cache_dir=tmp_path / "cache", **changes)


def weights(tmp_path: Path, *, name: str = "model.safetensors", **info: object) -> Path:
    path = tmp_path / name
    sam = tiny_sam(**{"text_encoder": SERVED, **info})
    save_weights(sam.model, path, info=sam.info)
    return path


def models_file(tmp_path: Path, segmenter: str) -> Path:
    """Write a models.yaml whose profile `tiny` has this segmenter; no other entry is read."""
    other = "{name: x, source: 'file:x', revision: r, files: {x: null}}"
    path = tmp_path / "models.yaml"
    path.write_text(
        f"profiles: {{tiny: {{llm: {other}, detector: {other}, text_encoder: {other}, "
        f"segmenter: {segmenter}}}}}"
    )
    return path


def entry(path: Path, *, more: str = "") -> str:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return (
        f"{{name: tiny, source: 'file:{path.parent}', revision: r1, "
        f"files: {{{path.name}: {digest}}}{more}}}"
    )


def test_a_profile_without_a_segmenter_serves_none(tmp_path):
    path = models_file(tmp_path, "null")
    assert build_segmenter(settings(tmp_path, profile="tiny", models_file=path), ENCODER) is None


def test_official_sams_are_named_by_the_hash_of_metas_files():
    for name, file in (("base", "sam_vit_b_01ec64.pth"), ("thesis", "sam_vit_h_4b8939.pth")):
        segmenter = load_profile(name).segmenter
        assert segmenter is not None and segmenter in load_profile(name).sources
        digest = segmenter.files[file]
        assert digest is not None and len(digest) == 64 and len(segmenter.revision) == 40


def test_a_segmenter_that_is_not_fetched_stops_with_file_and_command(tmp_path):
    with pytest.raises(MissingWeights, match=r"sam_vit_b.*unspoken weights fetch base"):
        build_segmenter(settings(tmp_path, profile="base"), ENCODER)


def test_a_profiles_own_segmenter_holds_the_contract(tmp_path):
    path = weights(tmp_path)
    written = entry(path, more=", options: {bank: {points_per_side: 3}, score: cosine}")
    file = models_file(tmp_path, written)
    engine = build_segmenter(settings(tmp_path, profile="tiny", models_file=file), ENCODER)
    assert engine is not None and engine.model.revision == "r1"
    with LocalSegmenter(engine) as segmenter:
        check_segmenter(segmenter)


def test_weights_of_ones_own_stand_in_for_the_profiles(tmp_path):
    mine = weights(tmp_path, name="mine.safetensors", seed=3)
    engine = build_segmenter(
        settings(tmp_path, weights=mine, bank_points_per_side=2), ENCODER, detector=FakeDetector()
    )
    assert engine is not None and engine.model.name == "mine.safetensors"
    other = build_segmenter(settings(tmp_path, weights=weights(tmp_path)), ENCODER)
    assert other is not None and other.image_id("x") != engine.image_id("x")


def official(tmp_path: Path) -> Path:
    """Write a complete file without a trained head, as the base of a delta."""
    return weights(tmp_path, name="base.safetensors", trained=False)


def delta(tmp_path: Path) -> Path:
    """Write a delta: a head that was trained on `official`."""
    base = tiny_sam().model.state_dict()
    trained = tiny_sam(text_encoder=SERVED)
    with torch.no_grad():
        trained.model.mask_decoder.semantic_tokens.weight += 1
    path = tmp_path / "delta" / "delta.safetensors"
    save_delta(trained.model, path, base=base, info=trained.info)
    return path


def test_a_delta_is_served_on_top_of_the_profiles_sam(tmp_path):
    head = delta(tmp_path)
    file = models_file(tmp_path, entry(official(tmp_path)))
    engine = build_segmenter(
        settings(tmp_path, profile="tiny", models_file=file, weights=head), ENCODER
    )
    assert engine is not None
    reply = segment(
        engine,
        decode_picture(picture_bytes()),
        question({"text": "car", "threshold": 0}, method="bank"),
    )
    assert reply.method == "bank"


def test_a_delta_may_be_a_part_of_the_profile(tmp_path):
    head = delta(tmp_path)
    base = official(tmp_path)
    plain = models_file(tmp_path, entry(base))
    engine = build_segmenter(settings(tmp_path, profile="tiny", models_file=plain), ENCODER)
    with_head = models_file(tmp_path, entry(base, more=f", parts: {{delta: {part(head)}}}"))
    other = build_segmenter(settings(tmp_path, profile="tiny", models_file=with_head), ENCODER)
    assert engine is not None and other is not None
    assert engine.image_id("x") != other.image_id("x")
    assert other.model.revision == "r1 with d1"


def part(path: Path) -> str:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{{source: 'file:{path.parent}', revision: d1, files: {{{path.name}: {digest}}}}}"


def test_a_delta_without_its_sam_is_refused(tmp_path):
    head = delta(tmp_path)
    alone = models_file(tmp_path, "null")
    with pytest.raises(InvalidConfig, match="tiny has no segmenter"):
        build_segmenter(
            settings(tmp_path, profile="tiny", models_file=alone, weights=head), ENCODER
        )
    wrong = models_file(tmp_path, entry(weights(tmp_path, seed=9)))
    with pytest.raises(InvalidConfig, match="it needs the SAM"):
        build_segmenter(
            settings(tmp_path, profile="tiny", models_file=wrong, weights=head), ENCODER
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{score: logit}", "softmax or cosine"),
        ("{score: 3}", "must be a text"),
        ("{score_threshold: 2}", r"in \[0, 1\]"),
        ("{bank: {points: 3}}", "points_per_side"),
        ("{bank: 3}", "bank: must be an object"),
        ("{weights: other.safetensors}", "no Semantic-SAM weights"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path, options, message):
    file = models_file(tmp_path, entry(weights(tmp_path), more=f", options: {options}"))
    with pytest.raises((InvalidConfig, MissingWeights), match=message):
        build_segmenter(settings(tmp_path, profile="tiny", models_file=file), ENCODER)


def test_an_auto_method_that_this_service_cannot_do_stops_it(tmp_path):
    path = weights(tmp_path)
    with pytest.raises(InvalidConfig, match=r"AUTO_METHOD=detector needs SEGMENTER_DETECTOR_URL"):
        build_segmenter(settings(tmp_path, weights=path, auto_method="detector"), ENCODER)
    untrained = weights(tmp_path, trained=False)
    with pytest.raises(InvalidConfig, match="AUTO_METHOD=bank needs weights"):
        build_segmenter(settings(tmp_path, weights=untrained, auto_method="bank"), ENCODER)


def test_vectors_of_another_text_encoder_are_refused(tmp_path):
    path = weights(tmp_path, text_encoder="clip@openai")
    with pytest.raises(InvalidConfig, match=r"clip@openai.*fake-text-encoder@0"):
        build_segmenter(settings(tmp_path, weights=path), ENCODER)


def test_an_empty_variable_is_one_that_nobody_set(monkeypatch):
    monkeypatch.setenv("SEGMENTER_WEIGHTS", "")
    assert SegmenterSettings().weights is None
