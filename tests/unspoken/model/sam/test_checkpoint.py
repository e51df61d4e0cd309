"""Semantic-SAM files: official, complete and delta files, and files that must be refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unspoken.errors import InvalidConfig, MissingWeights
from unspoken.model.sam.checkpoint import (
    FORMAT,
    SemanticInfo,
    interpolate,
    load_official_sam,
    load_weights,
    read_header,
    save_delta,
    save_weights,
)
from unspoken.model.sam.config import SemanticConfig, SemanticSamConfig, sam_config
from unspoken.model.sam.semantic_sam import SemanticSam, is_new

INFO = SemanticInfo(
    semantic_trained=True,
    text_encoder="minilm@1",
    text_templates=("a {}",),
    text_mean=torch.arange(768.0),
    history={"recipe": "smoke", "steps": 3},
)


@pytest.fixture
def model() -> SemanticSam:
    torch.manual_seed(0)
    semantic = SemanticConfig(token_attention="joint", train="decoder")
    return SemanticSam(SemanticSamConfig(sam=sam_config("tiny"), semantic=semantic)).eval()


def official(model: SemanticSam, path: Path) -> Path:
    """Write a file in Meta's published format: SAM's tensors, pickled."""
    torch.save({n: t for n, t in model.state_dict().items() if not is_new(n)}, path)
    return path


def same_tensors(first: SemanticSam, second: SemanticSam) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_a_whole_file_comes_back_with_all_that_was_said_of_it(
    model: SemanticSam, tmp_path: Path
) -> None:
    save_weights(model, tmp_path / "whole.safetensors", info=INFO)
    loaded = load_weights(tmp_path / "whole.safetensors")
    assert same_tensors(model, loaded.model)
    assert loaded.model.config == model.config
    assert loaded.info == INFO
    assert torch.equal(loaded.info.text_mean, INFO.text_mean)  # type: ignore[arg-type]


def test_half_precision_costs_half_the_bytes_and_little_else(
    model: SemanticSam, tmp_path: Path
) -> None:
    save_weights(model, tmp_path / "full.safetensors", info=INFO)
    save_weights(model, tmp_path / "half.safetensors", info=INFO, dtype=torch.float16)
    full, half = (tmp_path / f"{name}.safetensors" for name in ("full", "half"))
    assert half.stat().st_size < 0.55 * full.stat().st_size
    loaded = load_weights(half).model.state_dict()
    assert all(torch.allclose(loaded[n], t, atol=1e-3) for n, t in model.state_dict().items())


def test_a_delta_holds_only_what_differs_and_needs_its_own_sam(
    model: SemanticSam, tmp_path: Path
) -> None:
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.mask_decoder.mask_tokens.weight.add_(1)
    save_delta(model, tmp_path / "delta.safetensors", base=base, info=INFO)
    header = read_header(tmp_path / "delta.safetensors")
    assert header["base_sha256"] is not None
    assert same_tensors(model, load_weights(tmp_path / "delta.safetensors", base=base).model)
    whole = tmp_path / "whole.safetensors"
    save_weights(model, whole, info=INFO)
    assert (tmp_path / "delta.safetensors").stat().st_size < whole.stat().st_size
    with pytest.raises(InvalidConfig, match="needs the SAM that it was trained from"):
        load_weights(tmp_path / "delta.safetensors")
    other = base | {"image_encoder.pos_embed": base["image_encoder.pos_embed"] + 1}
    with pytest.raises(InvalidConfig, match="needs the SAM that it was trained from"):
        load_weights(tmp_path / "delta.safetensors", base=other)


def test_an_official_file_may_lack_exactly_the_new_tensors(
    model: SemanticSam, tmp_path: Path
) -> None:
    path = official(model, tmp_path / "sam.pth")
    loaded = load_official_sam(path, config=sam_config("tiny"))
    theirs = {n: t for n, t in model.state_dict().items() if not is_new(n)}
    assert all(torch.equal(loaded.model.state_dict()[n], t) for n, t in theirs.items())
    assert not loaded.info.semantic_trained
    decoder = loaded.model.mask_decoder
    assert torch.equal(decoder.similarity_token.weight, decoder.iou_token.weight)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda state: state.pop("mask_decoder.iou_token.weight"), "iou_token"),
        (lambda state: state.update(stranger=torch.zeros(1)), "stranger"),
        (
            lambda state: state.update({"mask_decoder.iou_token.weight": torch.zeros(2, 32)}),
            "other shape",
        ),
        (
            lambda state: state.update(
                {"mask_decoder.similarity_token.weight": torch.zeros(1, 32)}
            ),
            "semantic_heads",
        ),
    ],
    ids=["missing", "unknown", "misshapen", "half of the new ones"],
)
def test_any_other_difference_is_an_error_that_names_it(
    model: SemanticSam, tmp_path: Path, change: object, word: str
) -> None:
    state = {n: t for n, t in model.state_dict().items() if not is_new(n)}
    change(state)  # type: ignore[operator]
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(InvalidConfig, match=word):
        load_official_sam(tmp_path / "sam.pth", config=sam_config("tiny"))


def test_the_size_is_read_off_the_file(model: SemanticSam, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="width 32 and depth 2"):
        load_official_sam(official(model, tmp_path / "sam.pth"))


def test_a_pickle_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return (Path.touch, (canary,))  # type: ignore[return-value]

    torch.save({"x": Bomb()}, tmp_path / "sam.pth")
    with pytest.raises(Exception, match=r"weights_only|Unsupported|Weights only"):
        load_official_sam(tmp_path / "sam.pth")
    assert not canary.exists()


def test_a_file_that_is_not_there_or_not_ours_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match=r"nowhere\.safetensors"):
        load_weights(tmp_path / "nowhere.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InvalidConfig, match="not a Semantic-SAM of this project"):
        load_weights(tmp_path / "other.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"abc")
    with pytest.raises(InvalidConfig, match="not a safetensors"):
        load_weights(tmp_path / "torn.safetensors")


def test_interpolation_goes_from_sam_to_the_trained_weights(model: SemanticSam) -> None:
    sam = model.state_dict()
    trained = {name: tensor + 1 for name, tensor in sam.items()}
    name, new = "mask_decoder.mask_tokens.weight", "mask_decoder.semantic_tokens.weight"
    assert torch.equal(interpolate(sam, trained, 0.0)[name], sam[name])
    assert torch.allclose(interpolate(sam, trained, 0.25)[name], sam[name] + 0.25)
    assert torch.equal(interpolate(sam, trained, 0.25)[new], trained[new])
    with pytest.raises(InvalidConfig, match="alpha"):
        interpolate(sam, trained, 1.5)
    with pytest.raises(InvalidConfig, match="not two versions"):
        interpolate({n: t for n, t in sam.items() if n != name}, trained, 0.5)


@pytest.mark.parametrize("header", [None, "not JSON", "[]", '{"config": {}}'])
def test_a_file_with_a_spoilt_header_is_refused_with_its_path(
    tmp_path: Path, header: str | None
) -> None:
    metadata = {"format": FORMAT} | ({} if header is None else {"unspoken": header})
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(InvalidConfig, match=r"x\.safetensors has a header"):
        load_weights(tmp_path / "x.safetensors")
