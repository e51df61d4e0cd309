"""The decode loop on tiny models of the architectures that profiles name, built from config."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
)

from services.llm.engine import load_generator
from services.llm.generator import Generator
from unspoken.config.profiles import ModelEntry
from unspoken.errors import InvalidConfig

PREFIX = "Caption: a b\nObjects: c, d\n\n"
SUFFIXES = [f"Caption: {'xy ' * n}z\nObjects:" for n in (1, 5, 2, 9, 3, 3, 7, 4, 6, 1, 8)]


def save_tokenizer(folder: Path) -> int:
    """Write a byte-level tokenizer without merges; return its vocabulary's size."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: index for index, char in enumerate(["</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    return len(vocabulary)


@pytest.fixture(scope="module", params=["bloom", "llama"])
def folder(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    size = save_tokenizer(folder)
    torch.manual_seed(3)
    if request.param == "bloom":
        config = BloomConfig(vocab_size=size, hidden_size=64, n_layer=2, n_head=4, eos_token_id=0)
        model = BloomForCausalLM(config)
    else:
        config = LlamaConfig(
            vocab_size=size,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            eos_token_id=0,
        )
        model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "embed" not in name:
            # With the small default weights every answer is the same.
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return folder


def load(folder: Path) -> Generator:
    entry = ModelEntry(
        profile="test",
        kind="llm",
        name=folder.name,
        source=f"file:{folder}",
        revision="0",
        files={"model.safetensors": None, "config.json": None},
        device="cpu",
        dtype="float32",
    )
    return load_generator(entry, cache_dir=folder, max_batch=8, max_new_tokens=12)


@pytest.fixture
def generator(folder) -> Generator:
    return load(folder)


def test_no_prompts_give_no_answers(generator):
    assert generator.generate([], prefix=PREFIX) == []


def test_a_kept_prefix_and_a_batch_change_no_token(generator):
    kept = generator.generate(SUFFIXES, prefix=PREFIX)
    computed = generator.generate(SUFFIXES, prefix=PREFIX, keep_prefix=False)
    alone = [generator.generate([s], prefix=PREFIX, keep_prefix=False)[0] for s in SUFFIXES]
    assert len({answer.tokens for answer in kept}) > 1
    assert [a.tokens for a in kept] == [a.tokens for a in alone]
    assert [a.tokens for a in computed] == [a.tokens for a in alone]


def test_a_prefix_is_computed_once_for_all_calls(generator):
    lengths: list[int] = []
    forward = generator._forward

    def counted(ids, **options):
        lengths.append(ids.shape[1])
        return forward(ids, **options)

    generator._forward = counted
    for prefix in (PREFIX, PREFIX * 2, PREFIX):
        generator.generate(SUFFIXES[:3], prefix=prefix)
    prefix_tokens = len(PREFIX)  # one a byte
    assert lengths.count(prefix_tokens) == 1 and lengths.count(2 * prefix_tokens) == 1


def test_an_answer_ends_where_the_model_says_that_its_turn_ends(folder, generator, tmp_path):
    usual = generator.generate(SUFFIXES, prefix=PREFIX)
    longest = max(range(len(usual)), key=lambda index: len(usual[index].tokens))
    assert len(usual[longest].tokens) > 1
    own = shutil.copytree(folder, tmp_path / "own")
    ends = {"eos_token_id": [0, usual[longest].tokens[0]]}
    (own / "generation_config.json").write_text(json.dumps(ends))
    ended = load(own).generate(SUFFIXES, prefix=PREFIX)[longest]
    assert ended.tokens == usual[longest].tokens[:1] and ended.text == ""


def test_the_plain_library_writes_the_same_tokens(folder, generator):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for suffix in SUFFIXES[:3]:
        ids = tokenizer(PREFIX + suffix, return_tensors="pt")["input_ids"]
        expected = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
        )[0, ids.shape[1] :].tolist()
        tokens = list(generator.generate([suffix], prefix=PREFIX)[0].tokens)
        assert tokens == expected[: len(tokens)]


def test_asking_again_gives_the_same_answer(generator):
    first = generator.generate(SUFFIXES[:3], prefix=PREFIX)
    assert generator.generate(SUFFIXES[:3], prefix=PREFIX) == first


def test_the_folder_says_what_it_is(folder):
    assert json.loads((folder / "config.json").read_text())["model_type"] in ("bloom", "llama")


def test_a_folder_of_another_kind_of_model_is_refused_by_its_name(tmp_path, folder):
    other = tmp_path / "t5"
    shutil.copytree(folder, other)
    T5Config().save_pretrained(other)
    with pytest.raises(InvalidConfig, match="'t5'; a language model must be one of"):
        load(other)


def test_weights_that_lack_a_part_of_the_model_are_refused_with_its_name(tmp_path, folder):
    other = tmp_path / "short"
    shutil.copytree(folder, other)
    weights = load_file(other / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layernorm" not in name.lower()}
    save_file(kept, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidConfig, match="do not fit"):
        load(other)
