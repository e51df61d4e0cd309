"""Text vectors of a dataset's labels as training targets, and their synonyms."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.sam.semantic_losses import Labels, SemanticLossConfig, centred, collect_labels
from unspoken.text.lexicon import load_lexicon


class LabelVectors:
    """Frozen text vectors by label, centred if the recipe says so.

    vectors: label -> (D,) unit length; counts: label -> number of boxes with this label. The centre
    is the mean over the labels in `counts`, because hard negatives have vectors but no boxes.
    """

    def __init__(
        self,
        vectors: Mapping[str, np.ndarray],
        counts: Mapping[str, int],
        *,
        center: bool,
        config: SemanticLossConfig,
    ) -> None:
        table = torch.from_numpy(np.stack([vectors[name] for name in sorted(vectors)])).float()
        carried = torch.tensor([name in counts for name in sorted(vectors)])
        self.mean: Tensor | None = table[carried].mean(0) if center else None
        if self.mean is not None:
            table = centred(table, self.mean)
        self.vectors = dict(zip(sorted(vectors), F.normalize(table, dim=-1), strict=True))
        self._config = config
        self._lexicon = load_lexicon()
        self._names = sorted(counts)
        shares = np.array([counts[name] for name in self._names], float)
        self._shares = shares / max(shares.sum(), 1.0)

    def collect(
        self,
        masks: Sequence[Sequence[str]],
        *,
        extra: Sequence[str] = (),
        negatives: Sequence[Sequence[str]] | None = None,
    ) -> Labels:
        """Return the labels of a step; see `collect_labels`."""
        return collect_labels(
            masks,
            vectors=self.vectors,
            are_synonyms=self._are_synonyms,
            extra=extra,
            negatives=negatives,
            config=self._config,
        )

    def draw(self, count: int, *, seed: Sequence[int]) -> list[str]:
        """Draw labels by frequency, as extra negatives."""
        if not count:
            return []
        rng = np.random.default_rng(list(seed))
        return [self._names[i] for i in rng.choice(len(self._names), count, p=self._shares)]

    def _are_synonyms(self, first: str, second: str) -> bool:
        lexicon = self._lexicon
        return lexicon.head(second) in lexicon.synonyms_of(lexicon.head(first))
