"""Naming accuracy: the label nearest to a mask's vector, and calibration of the similarity head.

Objects are prompted by their true box or a click, so that naming is measured apart from detection.
Accuracy is given over all objects, as the mean over classes, and for groups of classes. The groups
are: classes that captions of the training data name, seldom name or never name, and held-out ones.

Legend: N objects, V words of the vocabulary.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.stats import rankdata, spearmanr

Group = Literal["named", "seldom_named", "never_named", "held_out"]
SELDOM = 10
"""Labels that captions name fewer times than this are `seldom_named`."""


@dataclass
class Named:
    """Naming results over all pictures; each list has one entry per object."""

    labels: list[str] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    """Rank of the right word by cosine among the vocabulary; 0 is best."""
    cosines: list[float] = field(default_factory=list)
    """Cosine of the mask's vector with the right word's vector."""
    similarity: list[float] = field(default_factory=list)
    """The similarity head's prediction of that cosine."""

    def add(
        self,
        labels: Sequence[str],
        mask_embedding: np.ndarray,
        similarity: np.ndarray,
        *,
        vocabulary: Mapping[str, int],
        vectors: np.ndarray,
    ) -> None:
        """Add the results of one picture.

        labels: N labels of the vocabulary; mask_embedding: (N, D); vectors: (V, D).
        """
        if not len(labels):
            return
        cosines = mask_embedding @ vectors.T  # (N, V)
        right = cosines[np.arange(len(labels)), [vocabulary[label] for label in labels]]
        self.labels += labels
        self.ranks += [int(each) for each in (cosines > right[:, None]).sum(1)]
        self.cosines += [float(each) for each in right]
        self.similarity += [float(each) for each in similarity]

    def figures(self, groups: Mapping[str, Group]) -> dict[str, float | int | None]:
        """Return accuracies over all objects and per group, and the similarity head's figures."""
        right = np.array(self.ranks) == 0
        figures: dict[str, float | int | None] = {
            "objects": len(self.labels),
            "top1": _mean(right),
            "top5": _mean(np.array(self.ranks) < 5),
            "mean_per_class": _mean(list(per_class(self.labels, right).values())),
            "similarity_auroc": auroc(np.array(self.similarity), right),
            "similarity_spearman": _spearman(self.similarity, self.cosines),
            "mean_cosine": _mean(np.array(self.cosines)),
        }
        if not groups:  # no dataset was given
            return figures
        for group in ("named", "seldom_named", "never_named", "held_out"):
            inside = np.array([groups.get(label, "held_out") == group for label in self.labels])
            if inside.any():
                figures[f"{group}_top1"] = _mean(right[inside])
                figures[f"{group}_objects"] = int(inside.sum())
        return figures


def group_labels(named_counts: Mapping[str, int], labels: Iterable[str]) -> dict[str, Group]:
    """Group labels by how often captions name them.

    labels: labels of the training data; named_counts: how often captions name each.
    """

    def of(label: str) -> Group:
        count = named_counts.get(label, 0)
        if count == 0:
            return "never_named"
        return "seldom_named" if count < SELDOM else "named"

    return {label: of(label) for label in labels}


def per_class(labels: Sequence[str], right: np.ndarray) -> dict[str, float]:
    """Return the accuracy of each label."""
    counts = Counter(labels)
    hits = Counter(label for label, hit in zip(labels, right, strict=True) if hit)
    return {label: hits[label] / count for label, count in counts.items()}


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Return the area under the ROC curve; None without positives or without negatives."""
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return None
    ranks = rankdata(scores)
    above = ranks[positive].sum() - num_positive * (num_positive + 1) / 2
    return round(float(above / (num_positive * num_negative)), 4)


def _spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    if len(first) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return round(float(spearmanr(first, second).statistic), 4)


def _mean(values: np.ndarray | Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None
