"""The convolutional stem: the detector's frozen features, mixed in at their own resolution."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.sam.starting_weights import read_stem
from unspoken.errors import InvalidConfig, MissingWeights
from unspoken.model.detector.grounding_dino import load_small_detector
from unspoken.model.sam.checkpoint import LoadedSam, SemanticInfo, load_weights, save_weights
from unspoken.model.sam.config import SemanticConfig, SemanticSamConfig, sam_config
from unspoken.model.sam.conv_stem import MIX_PREFIX, STEM_PREFIX, split_embedding
from unspoken.model.sam.semantic_sam import Prompts, SemanticSam

PLAIN = sam_config("tiny")
STEMMED = replace(PLAIN, stem="resnet10t")
DETECTOR = Path("smallworld/weights/detector")


def network(sam, *, train="decoder+encoder"):
    torch.manual_seed(0)
    return SemanticSam(SemanticSamConfig(sam=sam, semantic=SemanticConfig(train=train))).eval()


def stemmed():
    model = network(STEMMED)
    model.load_state_dict({**model.state_dict(), **read_stem(DETECTOR)})
    return model


def picture():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 64, 64), np.uint8))


def ask(model):
    prompts = Prompts(torch.zeros(1, dtype=torch.long), boxes=torch.tensor([[8.0, 8, 40, 50]]))
    with torch.no_grad():
        embedding = model.embed_images([picture()])
        return model.decode(embedding, prompts, multimask_output=False).mask_logits


def test_fine_features_change_nothing_until_their_mixes_learn():
    plain, with_stem = network(PLAIN), stemmed()
    with_stem.load_state_dict({**with_stem.state_dict(), **plain.state_dict()})
    assert not torch.allclose(ask(with_stem), ask(plain))
    torch.nn.init.zeros_(with_stem.image_encoder.mix.weight)
    assert torch.allclose(ask(with_stem), ask(plain), atol=1e-5)
    torch.nn.init.ones_(with_stem.image_encoder.mix_2.weight)
    assert not torch.allclose(ask(with_stem), ask(plain), atol=1e-2)


def test_an_embedding_gives_back_the_fine_features_where_they_were():
    model = stemmed()
    encoder = model.image_encoder
    for mix in (encoder.mix_2, encoder.mix_4):
        torch.nn.init.normal_(mix.weight)
    with torch.no_grad():
        embedding = model.embed_images([picture()])
        fine, middle, _ = encoder.stem(model.prepare([picture()]) * encoder.gain + encoder.shift)
        coarse, features = split_embedding(embedding)
        assert coarse.shape[1] == PLAIN.decoder_width
        assert torch.equal(features.of_stride_4, encoder.mix_4(middle))
        assert torch.equal(features.of_stride_2, encoder.mix_2(fine))


@pytest.mark.parametrize("train", ["new_only", "decoder", "decoder+encoder", "all"])
def test_the_stem_rests_and_its_mixes_learn_with_the_encoder(train):
    learned = network(STEMMED, train=train).choose_trained()
    assert not [name for name in learned if name.startswith(STEM_PREFIX)]
    mixes = [name for name in learned if name.startswith(MIX_PREFIX)]
    assert bool(mixes) == (train in ("decoder+encoder", "all"))


def test_a_stem_may_see_the_square_at_a_size_of_its_own():
    model, small = stemmed(), network(replace(STEMMED, stem_size=48))
    small.load_state_dict(model.state_dict())
    for encoder in (model.image_encoder, small.image_encoder):
        torch.nn.init.normal_(encoder.mix_2.weight, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Size] = []
    small.image_encoder.stem.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    with torch.no_grad():
        ours, theirs = small.embed_images([picture()]), model.embed_images([picture()])
    assert seen == [(1, 3, 48, 48)]
    assert ours.shape == theirs.shape and not torch.allclose(ours, theirs, atol=1e-2)


def test_a_stem_at_a_size_of_its_own_works_in_half_precision():
    model = network(replace(STEMMED, stem_size=48))
    model.load_state_dict(stemmed().state_dict())
    with torch.no_grad():
        exact = model.embed_images([picture()])
        with torch.autocast("cpu", torch.bfloat16):
            rough = model.embed_images([picture()])
    assert torch.allclose(rough.float(), exact, atol=0.1 * float(exact.abs().max()))


def test_the_stem_sees_what_the_detectors_backbone_sees(text_encoder_dir):
    model = stemmed()
    detector = load_small_detector(DETECTOR, text_encoder_dir=text_encoder_dir).model
    pixels = picture()[None] / 255
    encoder = model.image_encoder
    with torch.no_grad():
        *_, ours = encoder.stem(model.prepare([picture()]) * encoder.gain + encoder.shift)
        theirs = detector.model.backbone.conv_encoder.model((pixels - 0.5) / 0.25)
    assert torch.allclose(ours, theirs.feature_maps[0], atol=1e-4)


def test_a_stem_is_part_of_the_weights_file(tmp_path):
    model = stemmed()
    save_weights(model, tmp_path / "w.safetensors", info=SemanticInfo())
    loaded: LoadedSam = load_weights(tmp_path / "w.safetensors")
    assert loaded.model.config == model.config
    with torch.no_grad():
        assert torch.equal(loaded.model.embed_images([picture()]), model.embed_images([picture()]))


def test_patches_of_another_size_than_the_stems_cells_are_refused():
    with pytest.raises(InvalidConfig, match="cells of 8"):
        replace(STEMMED, patch_size=16)


def test_a_folder_without_detector_weights_is_named(tmp_path):
    with pytest.raises(MissingWeights, match=str(tmp_path)):
        read_stem(tmp_path)
