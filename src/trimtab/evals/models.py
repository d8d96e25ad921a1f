"""Models that answer the items of a suite: in memory, or on a server."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from trimtab import decoding
from trimtab.common import fingerprint
from trimtab.data.chat_date import date_facts
from trimtab.data.tokens import answer_tails, encode_prompts, prompt_text
from trimtab.decoding._batching import pads_left, takes
from trimtab.decoding._config import config_of, described, generate
from trimtab.decoding._prefill import grows, prefill
from trimtab.evals.suite import SPECIAL, Messages, SuiteError
from trimtab.models.ends import end_tokens
from trimtab.models.limits import LimitError, check_prompts
from trimtab.models.limits import of_model as limits_of
from trimtab.models.tokenizers import token_positions


class Reply(NamedTuple):
    """An answer, or why there is none."""

    text: str
    error: str | None = None

    @property
    def cut(self) -> bool:
        """Whether it reached the most new tokens before it ended."""
        return isinstance(self, CutReply)


class CutReply(Reply):
    """An answer that did not end."""


class Model(Protocol):
    """Chats in, one reply each, in the same order."""

    batch: int
    """chats a call"""

    def answer(self, chats: Sequence[Messages], max_new_tokens: int) -> list[Reply]: ...

    def compare(self, chats: Sequence[Messages], labels: Sequence[Sequence[str]]) -> list[dict[str, float]]:
        """Label -> its log-probability (nats) as the answer, for each chat."""
        ...

    def facts(self) -> dict[str, str]:
        """What its answers depend on, for signatures."""
        ...


class HFModel:
    """A model in memory, trained a moment ago or loaded, with any decoding strategy.

    Args:
        model: causal; it stays on its device and keeps its mode.
        name: for signatures.
        strategy, options: as of `trimtab generate --decoding`.
        seed: of the draws; the i-th call draws from seed + i.
        plain: continue the text of a chat, without the chat template.
    """

    together: int | None = None
    """whole texts that are read at a time, whose logits are all in memory; by default a batch"""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        name: str = "model",
        *,
        strategy: str = "greedy",
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        batch: int = 32,
        plain: bool = False,
    ):
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.strategy, self.options, self.seed = strategy, dict(options or {}), seed
        self.batch, self.plain = batch, plain
        decoding.arguments(strategy, tokenizer, **self.options)  # says what is wrong before the first question
        self.limits = limits_of(model)
        self.calls = 0
        """so far; the next one draws from seed + calls"""

    def facts(self) -> dict[str, str]:
        chosen = decoding.check(self.strategy, self.options).model_dump()
        how = decoding.arguments(self.strategy, self.tokenizer, model=self.model, **self.options)
        config = config_of(self.model, self.tokenizer, how, 1, own=self.strategy == decoding.MODEL)
        config.max_new_tokens = None  # how many there may be is said with each question
        template = None if self.plain else self.tokenizer.chat_template
        return {
            "model": f"{self.name} {fingerprint.of_model(self.model)}",
            "tokenizer": fingerprint.of_tokenizer(self.tokenizer),
            "template": fingerprint.of_text(str(template)) if template else "none, prompts are plain text",
            **({} if self.plain else date_facts(self.tokenizer)),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "decoding": " ".join([self.strategy, *(f"{key}={value}" for key, value in chosen.items())]),
            "generation": described(config),
            **({"seed": str(self.seed)} if config.do_sample else {}),
            "batch": str(self.batch),
        }

    def answer(self, chats: Sequence[Messages], max_new_tokens: int) -> list[Reply]:
        inputs = encode_prompts(self.tokenizer, chats, self.plain).to(self.model.device)
        self._fits(inputs["input_ids"], max_new_tokens)
        torch.manual_seed(self.seed + self.calls)
        self.calls += 1
        own = self.strategy == decoding.MODEL
        with _evaluating(self.model):
            output = generate(self.model, self.tokenizer, inputs, max_new_tokens, own=own, **self._decoding())  # type: ignore[arg-type]
        answers = output[:, inputs["input_ids"].size(1) :]  # type: ignore[union-attr]
        ended = torch.isin(answers, torch.tensor(end_tokens(self.tokenizer, self.model), device=answers.device))
        if any(SPECIAL in (chat if isinstance(chat, Mapping) else chat[-1]) for chat in chats):
            texts = [self.tokenizer.decode(row[: _length(end)]) for row, end in zip(answers, ended)]
        else:
            texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [Reply(text) if whole else CutReply(text) for text, whole in zip(texts, ended.any(dim=1).tolist())]

    def _decoding(self) -> dict[str, Any]:
        """Arguments of `generate` for each answer."""
        how = decoding.arguments(self.strategy, self.tokenizer, model=self.model, **self.options)
        return {"leave": True, **how}

    def compare(self, chats: Sequence[Messages], labels: Sequence[Sequence[str]]) -> list[dict[str, float]]:
        """What all prompts begin with goes through the model once, and then each prompt once, whatever the number of
        labels; labels of several tokens go on from copies of its cache."""
        ids = []
        for number, (chat, of) in enumerate(zip(chats, labels), start=1):
            text, plain = prompt_text(self.tokenizer, chat, f"prompt {number}", plain=self.plain)
            space = " " if plain and not text.endswith((" ", "\n")) else ""
            ids.append(answer_tails(self.tokenizer, text, [space + label for label in of], plain))
        inputs = encode_prompts(self.tokenizer, chats, self.plain).to(self.model.device)
        width = max(len(tail) for tails in ids for tail in tails)
        self._fits(inputs["input_ids"], width - 1)
        with _evaluating(self.model):
            found = self._logprobs(inputs, ids, width)
        return [dict(zip(of, values)) for of, values in zip(labels, found)]

    def _logprobs(self, inputs: Any, ids: Sequence[Sequence[Sequence[int]]], width: int) -> list[list[float]]:
        prompts, mask = inputs["input_ids"], inputs["attention_mask"]
        if not self._goes_on(mask):
            return self._whole(prompts, mask, ids)
        prefilled = prefill(self.model, prompts, mask)
        prompts, mask, positions, cache = prefilled or (prompts, mask, token_positions(mask), None)
        read = 0 if cache is None else cache.get_seq_length()
        output = self.model(
            input_ids=prompts[:, read:], attention_mask=mask, position_ids=positions[:, read:], logits_to_keep=1,
            past_key_values=cache, use_cache=width > 1 or cache is not None,
        )  # fmt: skip
        first = output.logits[:, -1].float().log_softmax(dim=-1).cpu()
        found = [[first[row, tail[0]].item() for tail in tails] for row, tails in enumerate(ids)]
        if width == 1:
            return found
        rows = [(row, k) for row, tails in enumerate(ids) for k in range(len(tails))]
        owner = torch.tensor([row for row, _ in rows], device=mask.device)
        tails = torch.zeros(len(rows), width, dtype=torch.long)
        for i, (row, k) in enumerate(rows):
            tails[i, : len(ids[row][k])] = torch.tensor(ids[row][k])
        tails = tails.to(mask.device)
        cache = output.past_key_values
        cache.reorder_cache(owner)  # each label gets a copy of its prompt's row
        longer = torch.cat([mask[owner], torch.ones_like(tails[:, :-1])], dim=1)
        at = positions[owner, -1:] + 1 + torch.arange(width - 1, device=mask.device)
        logits = self.model(
            input_ids=tails[:, :-1], attention_mask=longer, position_ids=at, past_key_values=cache
        ).logits  # fmt: skip
        rest = logits.float().log_softmax(dim=-1).gather(2, tails[:, 1:, None])[..., 0].cpu()  # [rows, width - 1]
        for i, (row, k) in enumerate(rows):
            found[row][k] += rest[i, : len(ids[row][k]) - 1].sum().item()
        return found

    def _goes_on(self, mask: Tensor) -> bool:
        """Whether labels can be read behind a cache of prompts that are padded on the left."""
        caches = grows(DynamicCache(config=self.model.config.get_text_config(decoder=True)))
        known = all(takes(self.model, name) for name in ("position_ids", "past_key_values"))
        return caches and known and (bool(mask.all()) or pads_left(self.model))

    def _whole(self, prompts: Tensor, mask: Tensor, ids: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
        """As `_logprobs`, by reading each prompt with each label as a whole, padded on the right, where a causal model
        of any kind cannot see it."""
        rows = [(row, k) for row, tails in enumerate(ids) for k in range(len(tails))]
        found = [[0.0] * len(tails) for tails in ids]
        size = self.together or self.batch
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            texts = [[*prompts[row][mask[row].bool()].tolist(), *ids[row][k]] for row, k in some]
            width = max(map(len, texts))
            whole = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=prompts.device)
            seen = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=prompts.device)
            given = {"attention_mask": seen, "use_cache": False}
            logits = self._read(whole, {k: v for k, v in given.items() if takes(self.model, k)})
            for place, (row, k) in enumerate(some):
                own = len(ids[row][k])
                log_p = logits[place, len(texts[place]) - own - 1 : len(texts[place]) - 1].float().log_softmax(dim=-1)
                found[row][k] = sum(log_p[i, token].item() for i, token in enumerate(ids[row][k]))
        return found

    def _read(self, ids: Tensor, given: Mapping[str, Any]) -> Tensor:
        """[B, T, V] logits of whole texts."""
        return self.model(input_ids=ids, **given).logits

    def _fits(self, prompts: Any, new: int) -> None:
        """Of ids [B, T]; commands look beforehand, where they know all prompts."""
        try:
            check_prompts(prompts.tolist(), new, self.limits, self.tokenizer, self.name)
        except LimitError as error:
            raise SuiteError(str(error)) from None


def _length(ended: Tensor) -> int:
    """Of an answer up to and with its first end token; `ended` [T] says where such tokens are."""
    return int(ended.int().argmax()) + 1 if bool(ended.any()) else len(ended)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Eval mode without gradients; the mode before is restored."""
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(mode)


def renormalised(logprobs: Mapping[str, float]) -> tuple[dict[str, float], float]:
    """Label -> probability among the labels, and the mass that the model gave to all; no label if it gave none."""
    highest = max(logprobs.values())
    if highest == -math.inf:
        return {}, 0.0
    weights = {label: math.exp(value - highest) for label, value in logprobs.items()}
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()}, math.exp(highest) * total
