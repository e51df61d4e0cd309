"""Batched greedy decoding of a causal language model; the few-shot prefix is computed once.

Legend: B prompts in the batch, P prefix tokens, S suffix tokens, V vocabulary.

A batch repeats the prefix's keys and values for each row, then adds the suffixes, padded on the
left. The padding lies between prefix and suffix and is masked, and positions count only real
tokens. So the answer of a row depends on the other rows only by rounding in larger matrix products.
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from services.llm.parsing import cut_completion


@dataclass(frozen=True)
class Generation:
    """One answer of the model; `text` is its first line, cut before a repeated item."""

    text: str
    mean_logprob: float
    tokens: tuple[int, ...]
    gaps: tuple[float, ...]
    """Difference of the best and the second-best logit, per token. A small gap is a near tie."""


@dataclass
class _Row:
    """State of one prompt whose answer is being generated."""

    index: int
    tokens: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    logprob_sum: float = 0.0
    text: str = ""
    finished: bool = False


class Generator:
    """Generates one line for each prompt. Not thread-safe: call it on the inference thread only.

    model: any Hugging Face causal model in eval mode.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_batch: int = 8,
        max_new_tokens: int = 48,
    ) -> None:
        self.max_batch = max_batch
        self.max_new_tokens = max_new_tokens
        self.tokenizer = tokenizer
        self._model = model
        self._ends = _end_tokens(model, tokenizer)
        self._prefixes: dict[str, tuple[list[int], DynamicCache]] = {}
        parameters = inspect.signature(model.forward).parameters
        # BLOOM takes no position_ids: it derives positions from the attention mask.
        self._takes_positions = "position_ids" in parameters
        self._takes_logits_to_keep = "logits_to_keep" in parameters

    @torch.inference_mode()
    def generate(
        self, suffixes: Sequence[str], *, prefix: str, keep_prefix: bool = True
    ) -> list[Generation]:
        """Return one answer per suffix, in order.

        keep_prefix: False computes the prefix again in every batch, which is slower and gives the
        same answers.
        """
        encoded = [self._encode(suffix) for suffix in suffixes]
        by_length = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
        answers: dict[int, Generation] = {}
        for start in range(0, len(by_length), self.max_batch):
            chosen = by_length[start : start + self.max_batch]
            batch = [encoded[index] for index in chosen]
            generations = self._answer(batch, prefix=prefix, keep_prefix=keep_prefix)
            answers.update(zip(chosen, generations, strict=True))
        return [answers[index] for index in range(len(encoded))]

    def _encode(self, suffix: str) -> list[int]:
        return list(self.tokenizer(suffix, add_special_tokens=False)["input_ids"])

    def _prefix(self, prefix: str) -> tuple[list[int], DynamicCache]:
        """Return the prefix's token ids and its keys and values, for one row."""
        if prefix not in self._prefixes:
            tokens = list(self.tokenizer(prefix)["input_ids"])
            cache = DynamicCache(config=self._model.config)
            ids = torch.tensor([tokens], device=self._model.device)
            self._forward(ids, mask=torch.ones_like(ids), cache=cache)
            self._prefixes[prefix] = (tokens, cache)
        return self._prefixes[prefix]

    def _answer(
        self, batch: list[list[int]], *, prefix: str, keep_prefix: bool
    ) -> list[Generation]:
        prefix_tokens, prefix_cache = self._prefix(prefix)
        num_prefix = len(prefix_tokens)
        longest = max(len(tokens) for tokens in batch)
        pads = [longest - len(tokens) for tokens in batch]
        ids = torch.tensor([[0] * n + t for n, t in zip(pads, batch, strict=True)])
        mask = torch.tensor([[0] * n + [1] * (longest - n) for n in pads])
        mask = torch.cat([torch.ones(len(batch), num_prefix, dtype=torch.long), mask], dim=1)
        if keep_prefix:
            cache = copy.deepcopy(prefix_cache)
            cache.batch_repeat_interleave(len(batch))
        else:
            cache = DynamicCache(config=self._model.config)
            ids = torch.cat([torch.tensor([prefix_tokens] * len(batch)), ids], dim=1)
        device = self._model.device
        return self._decode(ids.to(device), mask=mask.to(device), cache=cache)

    def _decode(self, ids: Tensor, *, mask: Tensor, cache: DynamicCache) -> list[Generation]:
        """Decode greedily until every row has ended; a finished row is removed from the batch."""
        rows = [_Row(index) for index in range(len(ids))]
        active = rows
        for _ in range(self.max_new_tokens):
            logits = self._forward(ids, mask=mask, cache=cache)  # (B, V)
            top = logits.topk(2, dim=-1)
            logprobs = top.values[:, 0] - logits.logsumexp(dim=-1)
            gaps = top.values[:, 0] - top.values[:, 1]
            chosen = top.indices[:, 0]
            columns = zip(active, chosen.tolist(), logprobs.tolist(), gaps.tolist(), strict=True)
            for row, token, logprob, gap in columns:
                self._extend(row, token=token, logprob=logprob, gap=gap)
            left = [place for place, row in enumerate(active) if not row.finished]
            if not left:
                break
            if len(left) < len(active):
                keep = torch.tensor(left, device=ids.device)
                cache.batch_select_indices(keep)
                chosen, mask = chosen[keep], mask[keep]
                active = [active[place] for place in left]
            ids = chosen[:, None]
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        return [_finished(row) for row in rows]

    def _extend(self, row: _Row, *, token: int, logprob: float, gap: float) -> None:
        row.tokens.append(token)
        row.gaps.append(gap)
        row.logprob_sum += logprob
        if token in self._ends:
            row.finished = True
            return
        text = self.tokenizer.decode(row.tokens, skip_special_tokens=True)
        row.text, row.finished = cut_completion(text)

    def _forward(self, ids: Tensor, *, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Return the logits of the last position, (B, S) -> (B, V); `cache` grows by S."""
        options: dict[str, object] = {}
        if self._takes_positions:
            positions = mask.cumsum(dim=-1) - 1
            options["position_ids"] = positions.clamp(min=0)[:, -ids.shape[1] :]
        if self._takes_logits_to_keep:
            options["logits_to_keep"] = 1
        output = self._model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end an answer.

    The generation config is read too, because a chat model may end its turn with another token.
    """
    ends = getattr(model.generation_config, "eos_token_id", None)
    more = ends if isinstance(ends, list) else [ends]
    return frozenset(token for token in [tokenizer.eos_token_id, *more] if token is not None)


def _finished(row: _Row) -> Generation:
    return Generation(
        text=row.text,
        mean_logprob=row.logprob_sum / max(1, len(row.tokens)),
        tokens=tuple(row.tokens),
        gaps=tuple(row.gaps),
    )
