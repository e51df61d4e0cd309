"""AdamW with parameter groups: new weights, SAM's decoder and its encoder have their own rates.

Biases, norms, embeddings and the logit scale have no weight decay. Earlier encoder layers have
lower rates (layer-wise decay: BEiT, arXiv:2106.08254).
"""

import re
from collections.abc import Iterable

import torch
from torch import nn

from training.sam.recipe import SamRecipe
from training.trainer import cosine, scale_rates
from unspoken.model.sam.conv_stem import MIX_PREFIX
from unspoken.model.sam.semantic_sam import SemanticSam, is_new

_BLOCK = re.compile(r"image_encoder\.blocks\.(\d+)\.")


def build_optimizer(model: SemanticSam, recipe: SamRecipe) -> torch.optim.AdamW:
    """Build AdamW over the trainable parameters; each group stores its `base_lr`."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and not name.endswith(("pos_embed", "_token.weight"))
        decay = recipe.weight_decay if decays and "_tokens." not in name else 0.0
        groups.setdefault((learning_rate(name, model, recipe), decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": lr, "base_lr": lr, "weight_decay": decay}
            for (lr, decay), parameters in groups.items()
        ],
        betas=(0.9, 0.999),
    )


def learning_rate(name: str, model: SemanticSam, recipe: SamRecipe) -> float:
    """Return the peak learning rate of one parameter."""
    if name.endswith("logit_scale"):
        return recipe.lr_scale
    if is_new(name):
        return recipe.lr_new
    if name.startswith(MIX_PREFIX):
        return recipe.lr_mix
    if not name.startswith("image_encoder."):
        return recipe.lr_decoder
    depth = model.config.sam.encoder_depth
    block = _BLOCK.match(name)
    is_stem = name.startswith(("image_encoder.patch_embed", "image_encoder.pos_embed"))
    layer = int(block.group(1)) + 1 if block else (0 if is_stem else depth + 1)
    return recipe.lr_encoder * recipe.layer_decay ** (depth + 1 - layer)


def set_rates(optimizer: torch.optim.Optimizer, step: int, recipe: SamRecipe) -> float:
    """Set rates by warmup and cosine decay to `final_lr_share`; return the factor on peak rates."""
    warmup = min(1.0, (step + 1) / recipe.warmup_steps)
    low = recipe.final_lr_share
    factor = warmup * (low + (1 - low) * cosine(step / max(1, recipe.steps)))
    scale_rates(optimizer, factor)
    return factor


def clip_gradients(model: SemanticSam, recipe: SamRecipe) -> dict[str, float]:
    """Clip gradients of new and old weights separately; return both norms.

    With one common norm, large gradients of new weights would shrink those of old weights.
    """

    def clip(parameters: Iterable[nn.Parameter], limit: float) -> float:
        return float(nn.utils.clip_grad_norm_(list(parameters), limit))

    learned = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return {
        "norm_new": clip((p for n, p in learned if is_new(n)), recipe.clip_new),
        "norm_old": clip((p for n, p in learned if not is_new(n)), recipe.clip_old),
    }
