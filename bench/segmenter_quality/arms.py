"""The compared networks: the committed weights, the same without training on labels, the controls.

A module of its own because other benchmarks use the committed weights.
"""

from pathlib import Path

import torch

import smallworld
from unspoken.model.sam.checkpoint import LoadedSam, SemanticInfo
from unspoken.model.sam.semantic_sam import is_new

WEIGHTS = Path(smallworld.__path__[0], "weights", "segmenter", "model.safetensors")
STYLE = "twemoji"
SAM = "sam.safetensors"
ARMS = ("own", "true_labels", "named_only", "unmixed")


def fresh_tokens(loaded: LoadedSam) -> LoadedSam:
    """Return the same network with a newly initialised semantic head, untrained on labels."""
    torch.manual_seed(0)
    model = type(loaded.model)(loaded.model.config)
    trained = loaded.model.state_dict()
    fresh = model.state_dict()
    model.load_state_dict(
        {name: fresh[name] if is_new(name) else tensor for name, tensor in trained.items()}
    )
    model.mask_decoder.start_new_tokens()
    info = SemanticInfo(text_templates=loaded.info.text_templates)
    return LoadedSam(model=model.eval(), info=info)
