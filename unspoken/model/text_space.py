"""Scores of texts for masks, from the similarity of text embeddings and mask embeddings.

`softmax`: the text's share among itself, the query's negatives and a fixed background vocabulary.
`cosine`: the plain cosine; zero if a negative has an equal or higher cosine. In both, a text's
score depends only on the query and the mask, and not on the other queries of a request.

Legend: N masks, Q queries, K distinct texts, B background words, D text width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple

import numpy as np
import torch
from cachetools import LRUCache

from unspoken.model.mask_bank import MaskBank
from unspoken.model.sam.checkpoint import LoadedSam, SemanticInfo
from unspoken.text.lexicon import load_lexicon

Score = Literal["softmax", "cosine"]


@cache
def background_words() -> tuple[str, ...]:
    """Return the background vocabulary in the package's data."""
    text = files("unspoken").joinpath("data/background.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(dict.fromkeys(" ".join(lines).split()))


@dataclass(frozen=True, kw_only=True)
class TextSpaceConfig:
    """Options of scoring."""

    score: Score = "softmax"
    background: tuple[str, ...] = field(default_factory=background_words)
    cache_entries: int = 16_384
    """Number of text embeddings in the cache."""


class TextQuery(NamedTuple):
    """A text, and negatives: texts that a mask must not match better."""

    text: str
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class _KnownText:
    """A text's embedding, and the indices of background words with the same meaning."""

    vector: np.ndarray  # (D,) float32, unit length
    own_words: tuple[int, ...]


@dataclass(frozen=True)
class Rivals:
    """The background's terms of the softmax for N masks: each word's, and sums without one."""

    powers: np.ndarray  # (B, N)
    without: np.ndarray  # (B + 1, N): sum over all other words; last row: over all words

    @classmethod
    def of(cls, powers: np.ndarray) -> "Rivals":
        """Compute the sums without each word from (B, N) terms.

        They are cumulative sums from both ends, because subtracting a dominant term from the total
        would leave rounding errors.
        """
        nothing = np.zeros((1, powers.shape[1]), dtype=powers.dtype)
        before = np.concatenate([nothing, powers.cumsum(0)])  # (B + 1, N)
        after = np.concatenate([powers[::-1].cumsum(0)[::-1][1:], nothing, nothing])[: len(before)]
        return cls(powers, before + after)

    @property
    def num_bytes(self) -> int:
        """Memory of the arrays, in bytes."""
        return self.powers.nbytes + self.without.nbytes

    def against(self, own_words: Sequence[tuple[int, ...]]) -> np.ndarray:
        """Return (Q, N): for each query, the sum over all words except its own."""
        last = len(self.powers)
        sums = self.without[[words[0] if words else last for words in own_words]]
        for row, words in enumerate(own_words):
            if len(words) > 1:
                sums[row] = np.delete(self.powers, words, axis=0).sum(0)
        return np.asarray(sums)


class TextSpace:
    """Scores texts in the embedding space that a network's masks and texts share.

    It is not thread-safe: use it from one inference thread only.
    """

    def __init__(
        self,
        encode_texts: Callable[[Sequence[str]], np.ndarray],
        *,
        info: SemanticInfo,
        scale: float,
        config: TextSpaceConfig = TextSpaceConfig(),
    ) -> None:
        self.config = config
        self._encode_texts = encode_texts
        self._templates = info.text_templates
        self._mean = None if info.text_mean is None else info.text_mean.float().cpu().numpy()
        self._scale = scale
        self._known: LRUCache[str, _KnownText] = LRUCache(config.cache_entries)
        self._background: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        loaded: LoadedSam,
        encode_texts: Callable[[Sequence[str]], np.ndarray],
        config: TextSpaceConfig = TextSpaceConfig(),
    ) -> "TextSpace":
        """Return the text space of a loaded network."""
        scale = float(loaded.model.mask_decoder.scale().detach())
        return cls(encode_texts, info=loaded.info, scale=scale, config=config)

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Return (K, D) float32, unit length: the training targets of masks with these labels."""
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        return np.stack([known.vector for known in self._learn(texts)])

    def rivals_of(self, mask_embedding: np.ndarray) -> Rivals | None:
        """Return the background's terms for mask embeddings, (N, D); None for `cosine` or no masks.

        They are the same for all texts, so the caller can cache them with the masks.
        """
        if self.config.score == "cosine" or not len(mask_embedding):
            return None
        if self._background is None:
            self._background = self._embed(self.config.background)
        if not len(self._background):
            return Rivals.of(np.zeros((0, len(mask_embedding)), dtype=np.float32))
        return Rivals.of(self._power(_product(self._background, mask_embedding)))

    def scores(
        self,
        mask_embedding: np.ndarray,
        queries: Sequence[TextQuery],
        *,
        rivals: Rivals | None = None,
    ) -> np.ndarray:
        """Score Q queries for N masks, (N, D) -> (Q, N) in [0, 1].

        rivals: result of `rivals_of` these masks, if cached.
        """
        if not queries or not len(mask_embedding):
            return np.zeros((len(queries), len(mask_embedding)), dtype=np.float32)
        known = self._learn([query.text for query in queries])
        cosines = _product(np.stack([each.vector for each in known]), mask_embedding)  # (Q, N)
        negatives = self._negative_cosines(mask_embedding, queries)
        if self.config.score == "cosine":
            for row, nearest in negatives.items():
                cosines[row] = np.where(nearest.max(0) >= cosines[row], 0, cosines[row])
            return np.asarray(cosines.clip(0, 1))
        rivals = rivals or self.rivals_of(mask_embedding)
        assert rivals is not None, "softmax has rivals"
        against = rivals.against([each.own_words for each in known])
        for row, others in negatives.items():
            against[row] += self._power(others).sum(0)
        wanted = self._power(cosines)
        return np.asarray(wanted / np.maximum(wanted + against, 1e-38), dtype=np.float32)

    def bank_scores(
        self, bank: MaskBank, queries: Sequence[TextQuery], *, rivals: Rivals | None = None
    ) -> np.ndarray:
        """Return the scores of a bank's masks times their raw predicted IoU, (Q, N).

        The IoU lowers the scores of bad masks: docs/decisions/0010. Values may exceed 1, because
        the predicted IoU may; clipping here would make good masks equal.
        """
        scores = self.scores(bank.mask_embedding, queries, rivals=rivals)
        return np.asarray(scores * bank.predicted_iou.clip(min=0))

    def _power(self, cosines: np.ndarray) -> np.ndarray:
        """Return the exponentials of the softmax, without a common factor.

        They are at most about 1, because cosines are at most 1.
        """
        return np.asarray(np.exp(self._scale * (cosines - 1)))

    def _negative_cosines(
        self, mask_embedding: np.ndarray, queries: Sequence[TextQuery]
    ) -> dict[int, np.ndarray]:
        """Return query index -> cosines (negatives, N), for queries that have negatives."""
        texts = list(dict.fromkeys(text for query in queries for text in query.negatives))
        if not texts:
            return {}
        cosines = _product(self.vectors(texts), mask_embedding)
        place = {text: index for index, text in enumerate(texts)}
        return {
            row: cosines[[place[text] for text in query.negatives]]
            for row, query in enumerate(queries)
            if query.negatives
        }

    def _learn(self, texts: Sequence[str]) -> list[_KnownText]:
        """Return the embeddings of texts in order, from the cache if possible."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        fresh = {}
        if new:
            vectors = self._embed(new)
            fresh = {
                text: _KnownText(vector.copy(), self._own_words(text))
                for text, vector in zip(new, vectors, strict=True)
            }
        known = [fresh.get(text) or self._known[text] for text in texts]
        if self._known.maxsize:
            self._known.update(fresh)
        return known

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts, (K, D): the mean over templates minus the text mean, of unit length."""
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        filled = [template.replace("{}", text) for text in texts for template in self._templates]
        vectors = self._encode_texts(filled).reshape(len(texts), len(self._templates), -1)
        targets = _unit(vectors.mean(1))
        return targets if self._mean is None else _unit(targets - self._mean)

    def _own_words(self, text: str) -> tuple[int, ...]:
        """Return the indices of background words equal to the text, its singular or a synonym."""
        lexicon = load_lexicon()
        head = lexicon.head(" ".join(lexicon.singular(word) for word in text.lower().split()))
        same = lexicon.synonyms_of(head) | {text.lower()}
        return tuple(n for n, word in enumerate(self.config.background) if word in same)


def _product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return dot products, (K, D), (N, D) -> (K, N).

    Uses torch's threads, because numpy's own threads would compete with them for the cores.
    """
    return np.asarray((torch.from_numpy(first) @ torch.from_numpy(second).T).numpy())


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)
