"""Losses of the semantic tokens: contrast of the label's vector with the step's other labels.

The contrast is that of CLIP (arXiv:2103.00020) in both directions. Masks of one label share its
text as their positive, as in UniCL (arXiv:2204.03610).

The text vectors are frozen, so a label shared by many boxes is only one candidate
(`batch_contrast`). Therefore the loss can reach zero, and a duplicate is never its own negative.
Synonyms of a mask's label are ignored: they count neither as right nor as wrong, because their
texts differ although they name the same thing.

Legend: N masks (over all ranks), U distinct labels of the step, D width of the text space.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NEVER = -1e4  # logit of a pair that is neither right nor wrong


@dataclass(frozen=True, kw_only=True)
class SemanticLossConfig:
    """Weights of the terms."""

    contrast_weight: float = 1.0
    regression_weight: float = 0.1
    """Weight of 1 - cosine. Contrast alone only ranks labels; it does not set the cosine itself."""
    similarity_weight: float = 1.0
    ignored_cosine: float = 0.9
    """Labels whose vectors have at least this cosine are treated as synonyms."""


class Labels(NamedTuple):
    """The labels of a step, as input of the losses."""

    names: tuple[str, ...]  # U, sorted
    vectors: Tensor  # (U, D) unit length
    right: Tensor  # (N, U) bool: the label of a mask, and its alternatives
    ignored: Tensor  # (N, U) bool: pairs left out of the loss

    def to(self, device: torch.device) -> "Labels":
        """Move the tensors to a device."""
        vectors, right, ignored = (each.to(device) for each in self[1:])
        return Labels(self.names, vectors, right, ignored)


def collect_labels(
    masks: Sequence[Sequence[str]],
    *,
    vectors: dict[str, Tensor],
    are_synonyms: Callable[[str, str], bool],
    extra: Sequence[str] = (),
    negatives: Sequence[Sequence[str]] | None = None,
    config: SemanticLossConfig,
) -> Labels:
    """Collect the labels of a step with their right and ignored pairs.

    masks: N of (label, its alternatives ...).
    extra: negative labels for all masks, usually labels that no mask has.
    negatives: N of labels that the mask's own picture does not show. They are wrong for that mask
    and ignored for masks of other pictures, unless a mask has the label or it is in `extra`.
    """
    shared = {name for each in masks for name in each} | set(extra)
    own = [frozenset(each) - shared for each in negatives or ()]
    names = tuple(sorted(shared.union(*own)))
    index = {name: place for place, name in enumerate(names)}
    table = torch.stack([vectors[name] for name in names]) if names else torch.zeros(0, 0)
    right = torch.zeros(len(masks), len(names), dtype=torch.bool)
    for row, each in enumerate(masks):
        right[row, [index[name] for name in each]] = True
    near = table @ table.t() >= config.ignored_cosine if len(names) else right.new_zeros(0, 0)
    for first, name in enumerate(names):
        for second in range(first):
            if are_synonyms(name, names[second]):
                near[first, second] = near[second, first] = True
    ignored = (right.float() @ near.float()) > 0 if len(names) else right.clone()
    for row, absent in enumerate(own):
        strange = [index[name] for name in names if name not in shared and name not in absent]
        ignored[row, strange] = True
    return Labels(names, table, right, ignored & ~right)


def semantic_loss(
    mask_embedding: Tensor,
    similarity: Tensor,
    labels: Labels,
    *,
    scale: Tensor,
    config: SemanticLossConfig,
) -> dict[str, Tensor]:
    """Return all weighted terms by name.

    mask_embedding: (N, D) unit length; similarity: (N,) predicted. Without masks the terms are zero
    but still connected to the autograd graph.
    """
    if not len(mask_embedding):
        nothing = mask_embedding.sum() + similarity.sum()
        return {"contrast": nothing, "regression": nothing, "similarity": nothing}
    cosines = mask_embedding @ labels.vectors.t()  # (N, U)
    right = labels.right.float()
    own = (cosines * right).sum(1) / right.sum(1)  # (N,) mean over the accepted labels
    return {
        "contrast": config.contrast_weight
        * batch_contrast(scale * cosines, right=labels.right, ignored=labels.ignored),
        "regression": config.regression_weight * (1 - own).mean(),
        "similarity": config.similarity_weight * F.mse_loss(similarity, own.detach()),
    }


def batch_contrast(logits: Tensor, *, right: Tensor, ignored: Tensor) -> Tensor:
    """Return the mean of the mask-to-text and text-to-mask contrastive losses: (N, U) -> ().

    The target probability is shared equally among a mask's right labels, and among a label's masks.
    Labels without a mask (extra negatives) are not part of the text-to-mask loss.
    """
    logits = logits.masked_fill(ignored, NEVER)
    target = right.float()
    to_text = -(target / target.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    carried = right.any(0)
    columns, wanted = logits[:, carried], target[:, carried]
    to_mask = -(wanted / wanted.sum(0) * columns.log_softmax(0)).sum(0).mean()
    return 0.5 * (to_text + to_mask)


def centred(vectors: Tensor, mean: Tensor) -> Tensor:
    """Subtract the mean of all texts and normalise again: (U, D), (D,) -> (U, D)."""
    return F.normalize(vectors - mean, dim=-1)
