"""What the semantic tokens are taught: their label's vector against the other labels of the step.

The text vectors are frozen, so a label that many boxes share stands once among the candidates
(`batch_contrast`): the floor of the loss is zero, and a duplicate is never its own negative. Labels
that mean the same, or that stand as alternates on one box, are neither right nor wrong to each
other. science.md 2.2 has the reasons and the toy measurements.

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
    """Of 1 - cosine: contrast alone sets angles among labels, not the angle to the label itself."""
    similarity_weight: float = 1.0
    ignored_cosine: float = 0.9
    """Labels whose vectors are this close are taken for one meaning."""


class Labels(NamedTuple):
    """The labels of a step as the losses need them."""

    names: tuple[str, ...]  # U, sorted
    vectors: Tensor  # (U, D) unit length
    right: Tensor  # (N, U) bool: the label of a mask, and its alternates
    ignored: Tensor  # (N, U) bool: neither right nor wrong

    def to(self, device: torch.device) -> "Labels":
        """The tensors on a device."""
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
    """masks: N of (label, its alternates ...). extra: labels that no mask carries, as negatives.

    negatives: N of what a mask's own picture does not show: wrong for that mask, and nothing to
    the masks of other pictures unless one of them carries it, or it is `extra`.
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
    """All weighted terms by name. mask_embedding: (N, D) unit length; similarity: (N,) predicted.

    No masks give terms of zero that still belong to the graph.
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
    """Mask to text and text to mask, half each: (N, U) -> ().

    A mask's right labels share its mass equally; so do a label's masks. Labels that no mask
    carries (extra negatives) have no row of their own the other way.
    """
    logits = logits.masked_fill(ignored, NEVER)
    target = right.float()
    to_text = -(target / target.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    carried = right.any(0)
    columns, wanted = logits[:, carried], target[:, carried]
    to_mask = -(wanted / wanted.sum(0) * columns.log_softmax(0)).sum(0).mean()
    return 0.5 * (to_text + to_mask)


def centred(vectors: Tensor, mean: Tensor) -> Tensor:
    """Take the mean of all texts off and make unit length again: (U, D), (D,) -> (U, D)."""
    return F.normalize(vectors - mean, dim=-1)
