"""Parity of the two backends: same weights at the real Swin-T size give same boxes and scores.

The weights are random, with the published shapes, in the published `.pth` format. The names in
transformers follow its own conversion script (`convert_grounding_dino_to_hf.py`, which its wheel no
longer contains).
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoTokenizer,
    BertConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
)

from services.detector.engine import Backend
from services.detector.packing import pack_phrases
from services.detector.scoring import phrase_scores
from tests.services.detector.conftest import minilm_folder, shake
from unspoken.errors import InvalidConfig, MissingWeights

pytest.importorskip("groundingdino", reason="make setup installs groundingdino-py")
from services.detector.groundingdino_backend import (
    build_network,
    load_original_detector,
    load_weights,
    read_weights,
)
from services.detector.transformers_backend import load_hub_detector

SHORT_SIDE_PX = 192  # the least that has 900 places to look at; the network's size is real
FLOAT32_NOISE = 1e-4
"""Tolerance for two orders of summation through about thirty layers."""

# Original name -> name in transformers, for whole names after the parts below are replaced.
RENAMES = [
    (r"^backbone\.0\.patch_embed\.proj\.", r"SWIN.embeddings.patch_embeddings.projection."),
    (r"^backbone\.0\.patch_embed\.norm\.", r"SWIN.embeddings.norm."),
    (r"^backbone\.0\.norm(\d)\.", lambda m: f"STAGES.stage{int(m[1]) + 1}."),
    (r"^backbone\.0\.layers\.", r"SWIN.encoder.layers."),
    (r"(SWIN.*)\.norm1\.", r"\1.layernorm_before."),
    (r"(SWIN.*)\.norm2\.", r"\1.layernorm_after."),
    (r"(SWIN.*)\.attn\.proj\.", r"\1.attention.o_proj."),
    (r"(SWIN.*)\.attn\.qkv\.", r"\1.attention.QKV_proj."),
    (
        r"(SWIN.*)\.attn\.relative_position_bias_table$",
        r"\1.attention.relative_position_bias.relative_position_bias_table",
    ),
    (r"^bert\.", r"model.text_backbone."),
    (r"^feat_map\.", r"model.text_projection."),
    (r"^input_proj\.", r"model.input_proj_vision."),
    (r"^bbox_embed\.", r"bbox_embed."),
    (r"^transformer\.tgt_embed\.", r"model.query_position_embeddings."),
    (r"^transformer\.enc_out_bbox_embed\.", r"model.encoder_output_bbox_embed."),
    (r"^transformer\.decoder\.ref_point_head\.", r"model.decoder.reference_points_head."),
    (r"^transformer\.decoder\.norm\.", r"model.decoder.layer_norm."),
    (r"^transformer\.encoder\.layers\.(\d)\.", r"model.encoder.layers.\1.deformable_layer."),
    (r"(deformable_layer)\.norm1\.", r"\1.self_attn_layer_norm."),
    (r"(deformable_layer)\.norm2\.", r"\1.final_layer_norm."),
    (r"(deformable_layer)\.linear([12])\.", r"\1.fc\2."),
    (
        r"^transformer\.encoder\.text_layers\.(\d)\.",
        r"model.encoder.layers.\1.text_enhancer_layer.",
    ),
    (r"(text_enhancer_layer)\.linear([12])\.", r"\1.fc\2."),
    (r"(text_enhancer_layer)\.norm1\.", r"\1.layer_norm_before."),
    (r"(text_enhancer_layer)\.norm2\.", r"\1.layer_norm_after."),
    (r"^transformer\.encoder\.fusion_layers\.(\d)\.", r"model.encoder.layers.\1.fusion_layer."),
    (r"(fusion_layer)\.gamma_v$", r"\1.vision_param"),
    (r"(fusion_layer)\.gamma_l$", r"\1.text_param"),
    (r"(fusion_layer)\.layer_norm_v\.", r"\1.layer_norm_vision."),
    (r"(fusion_layer)\.layer_norm_l\.", r"\1.layer_norm_text."),
    (r"(fusion_layer\.attn\..*?)v_proj\.", r"\1vision_proj."),
    (r"(fusion_layer\.attn\..*?)l_proj\.", r"\1text_proj."),
    (r"^transformer\.decoder\.layers\.(\d)\.", r"model.decoder.layers.\1."),
    (r"(decoder\.layers\.\d)\.cross_attn\.", r"\1.encoder_attn."),
    (r"(decoder\.layers\.\d)\.norm1\.", r"\1.encoder_attn_layer_norm."),
    (r"(decoder\.layers\.\d)\.ca_text\.", r"\1.encoder_attn_text."),
    (r"(decoder\.layers\.\d)\.catext_norm\.", r"\1.encoder_attn_text_layer_norm."),
    (r"(decoder\.layers\.\d)\.norm2\.", r"\1.self_attn_layer_norm."),
    (r"(decoder\.layers\.\d)\.norm3\.", r"\1.final_layer_norm."),
    (r"(decoder\.layers\.\d)\.linear([12])\.", r"\1.fc\2."),
    (r"^transformer\.", r"model."),
    (r"^SWIN", r"model.backbone.conv_encoder.model.swin"),
    (r"^STAGES", r"model.backbone.conv_encoder.model.hidden_states_norms"),
]
# Not in transformers: BERT's pooler, and indices that transformers computes.
DROPPED = re.compile(r"^bert\.pooler\.|\.relative_position_index$")
# Not in the original: the final norm of Swin, which the detector does not use.
OWN = re.compile(r"\.swin\.layernorm\.")


def rename(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def convert(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    converted: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if DROPPED.search(name):
            continue
        renamed = rename(name)
        for joined, parts in (
            ("QKV_proj", ("q_proj", "k_proj", "v_proj")),
            ("in_proj_", ("query.", "key.", "value.")),
        ):
            if joined in renamed:
                pieces = zip(parts, tensor.chunk(3), strict=True)
                converted |= {renamed.replace(joined, part): piece for part, piece in pieces}
                break
        else:
            converted[renamed] = tensor
    return converted


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> tuple[Backend, Backend]:
    """Return the original network from a `.pth`, and transformers' from a folder as on the hub."""
    folder = tmp_path_factory.mktemp("parity")
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    tokenizer.save_pretrained(folder)
    # Two layers of BERT instead of twelve: the widths are the published ones.
    bert = BertConfig(num_hidden_layers=2)
    bert.save_pretrained(folder)
    torch.manual_seed(0)
    original = build_network("swin_T_224_1k", bert_config=bert, tokenizer=tokenizer)
    shake(original, scale=0.02)
    with torch.no_grad():
        # Random logits are so large that every sigmoid is 0 or 1; then no score could differ.
        original.transformer.decoder.norm.weight.mul_(0.05)
        original.transformer.enc_output_norm.weight.mul_(0.05)
    published = {f"module.{name}": tensor for name, tensor in original.state_dict().items()}
    published["module.label_enc.weight"] = torch.zeros(2, 2)  # the published files have it
    torch.save({"model": published}, folder / "groundingdino_swint.pth")

    hub_folder = folder / "hub"
    model = GroundingDinoForObjectDetection(GroundingDinoConfig(text_config=bert.to_dict()))
    converted = convert(original.state_dict())
    missing, unexpected = model.load_state_dict(converted, strict=False)
    assert not unexpected and all(OWN.search(name) for name in missing)
    model.save_pretrained(hub_folder)
    tokenizer.save_pretrained(hub_folder)
    GroundingDinoImageProcessor().save_pretrained(hub_folder)
    del model, original, published, converted
    return (
        load_original_detector(
            folder / "groundingdino_swint.pth",
            text_encoder_dir=folder,
            architecture="swin_T_224_1k",
            short_side_px=SHORT_SIDE_PX,
            device="cpu",
        ),
        load_hub_detector(hub_folder, short_side_px=SHORT_SIDE_PX, device="cpu", dtype="float32"),
    )


class Ranking:
    """Gives the second network the query locations that the first one ranked best.

    Among 900 random scores, about two are closer than float32 noise, so that the queries of both
    networks would be in different order. Therefore the scores are compared, and the order of the
    first network is used for both.
    """

    def __init__(self) -> None:
        self._topk = torch.topk
        self._seen: list[tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]] = []
        self.num_repeated = 0

    def record(self, values: torch.Tensor, k: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
        result = self._topk(values, k, dim=dim)
        self._seen.append((values, result))
        return result

    def repeat(self, values: torch.Tensor, k: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
        recorded, result = self._seen[self.num_repeated]
        assert (recorded - values).abs().max() < FLOAT32_NOISE
        assert recorded.std() > 100 * FLOAT32_NOISE
        self.num_repeated += 1
        return result


def test_both_backends_answer_the_same_boxes_and_scores(backends, pixels, monkeypatch):
    first, second = backends
    phrases = ["Red mug", "driver's seat", "ottoman", *[f"thing {i}" for i in range(40)]]
    chunks = pack_phrases(phrases, first.word_pieces)
    assert chunks == pack_phrases(phrases, second.word_pieces)
    ranking = Ranking()
    monkeypatch.setattr(torch, "topk", ranking.record)
    original = first.predict(pixels, chunks)
    monkeypatch.setattr(torch, "topk", ranking.repeat)
    ported = second.predict(pixels, chunks)
    assert ranking.num_repeated == len(chunks) == 2
    for chunk, raw, other in zip(chunks, original, ported, strict=True):
        assert raw.boxes_cxcywh_norm.shape == (900, 4)
        assert np.abs(raw.boxes_cxcywh_norm - other.boxes_cxcywh_norm).max() < FLOAT32_NOISE
        scores, others = (phrase_scores(each.token_scores, chunk.phrases) for each in (raw, other))
        assert np.abs(scores - others).max() < FLOAT32_NOISE
        # Check that the weights change boxes and scores; otherwise the test would prove nothing.
        assert raw.boxes_cxcywh_norm.std(axis=0).min() > 100 * FLOAT32_NOISE
        assert scores.std() > 100 * FLOAT32_NOISE
        assert ((scores > 0.01) & (scores < 0.99)).mean() > 0.9


def test_a_checkpoint_that_holds_code_is_not_run(tmp_path):
    class Mine:
        def __reduce__(self):
            return (Path(tmp_path / "was-run").touch, ())

    torch.save({"model": Mine()}, tmp_path / "evil.pth")
    with pytest.raises(InvalidConfig, match="more than tensors"):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "was-run").exists()


def test_a_checkpoint_of_another_network_is_refused():
    with pytest.raises(InvalidConfig, match="does not fit"):
        load_weights(torch.nn.Linear(2, 2), {"weight": torch.zeros(2, 2)}, source="a.pth")


def test_an_absent_checkpoint_and_an_unknown_architecture_stop_the_start(tmp_path):
    arguments = {"text_encoder_dir": minilm_folder(), "short_side_px": 160, "device": "cpu"}
    with pytest.raises(MissingWeights, match=r"none\.pth"):
        load_original_detector(tmp_path / "none.pth", architecture="swin_T_224_1k", **arguments)
    torch.save({}, tmp_path / "some.pth")
    with pytest.raises(InvalidConfig, match="architecture"):
        load_original_detector(tmp_path / "some.pth", architecture="swin_X", **arguments)


def test_a_folder_of_the_real_size_has_the_names_that_the_hub_has(backends, tmp_path_factory):
    # transformers 5 renamed Swin's modules; files written before must be what it reads and writes.
    (path,) = tmp_path_factory.getbasetemp().glob("parity[0-9]*/hub/model.safetensors")
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
    swin = "model.backbone.conv_encoder.model"
    assert f"{swin}.encoder.layers.0.blocks.0.attention.self.query.weight" in names
    assert f"{swin}.embeddings.patch_embeddings.projection.weight" in names
