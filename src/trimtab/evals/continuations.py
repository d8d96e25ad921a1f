"""Texts that go on with passages: each strategy's, with what the model says of every token, and those of humans."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from trimtab import decoding
from trimtab.common.errors import UserError
from trimtab.common.progress import advance, bar
from trimtab.core import answer_mask
from trimtab.data.sources import SUFFIXES, load_rows, prompt_lines
from trimtab.data.tokens import answer_tails, encode_prompts, prompt_ids, prompt_text
from trimtab.decoding._batching import batches, takes
from trimtab.decoding._config import as_processors, config_of, run
from trimtab.decoding._prefill import grows
from trimtab.metrics.text_quality import SelfReinforcement
from trimtab.models.ends import end_tokens
from trimtab.models.tokenizers import token_positions


class CompareError(UserError):
    """Prompts or strategies that cannot be compared."""


@dataclass(frozen=True)
class Passage:
    """What is continued, and what a human wrote there."""

    prompt: str
    reference: str | None = None


def load_passages(source: str, tokenizer: Any, prefix: int, new: int) -> tuple[list[Passage], str]:
    """Prompts from a file of lines, or rows with `prompt` (and `reference`), or rows with a long `text`.

    Args:
        source: a file, or rows as of a recipe (`trimtab:prose/heldout`).
        tokenizer: of the model.
        prefix, new: tokens of a `text` that are the prompt, and that follow as the human's.

    Returns:
        The passages, and what was left out, in words.

    Raises:
        CompareError: if no text is long enough, or a row has none.
        DataError: if the source cannot be read, or holds no prompt.
    """
    path = Path(source)
    if not path.name.lower().endswith(SUFFIXES) and path.is_file():
        return [Passage(line) for line in prompt_lines(path)], ""
    found, short = [], 0
    for number, row in enumerate(load_rows(source), start=1):
        if isinstance(row.get("prompt"), str) and row["prompt"]:
            found.append(Passage(row["prompt"], row.get("reference")))
        elif isinstance(row.get("text"), str):
            ids = tokenizer(row["text"], add_special_tokens=False).input_ids
            if len(ids) < prefix + new:
                short += 1
                continue
            prompt, rest = ids[:prefix], ids[prefix : prefix + new]
            found.append(Passage(tokenizer.decode(prompt), text_after(tokenizer, prompt, rest)))
        else:
            raise CompareError(f"{source}: row {number} has no text in a column 'prompt' or 'text'")
    if not found:
        raise CompareError(
            f"{source} holds no text of {prefix + new} tokens, {prefix} for the prompt and {new} to follow"
        )
    return found, f"{short} texts of fewer than {prefix + new} tokens were left out" if short else ""


def text_after(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """The text that ids add behind a prompt's: some tokenizers drop the space before the first of some ids alone."""
    start, whole = (tokenizer.decode([*one], skip_special_tokens=True) for one in (prompt, [*prompt, *ids]))
    return whole[len(start) :] if whole.startswith(start) else tokenizer.decode([*ids], skip_special_tokens=True)


@dataclass
class Generations:
    """What one strategy wrote for every passage; columns are [R][tokens of that text]."""

    name: str
    options: Mapping[str, Any]
    texts: list[str] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)
    logprobs: list[list[float]] = field(default_factory=list)
    """of each token under the model itself, before anything was ruled out, nats"""
    entropy: list[list[float]] = field(default_factory=list)
    best: list[list[bool]] = field(default_factory=list)
    """whether the token was the model's most probable one"""
    kept: list[list[float]] = field(default_factory=list)
    """candidates"""
    confidence: list[list[float]] = field(default_factory=list)
    """of knowing the candidates and calling the rest uniform; see `trimtab.decoding.adaptive`"""
    reinforcement: list[dict[str, float]] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    """[D] on the CPU: the last hidden state, at the place that gives the text's last token"""


class RawScores(LogitsProcessor):
    """Keeps what the model itself says of each step: as the first processor it sees the raw logits."""

    supports_continuous_batching = False

    def __init__(self, trackers: Mapping[int, SelfReinforcement]):
        self.trackers = trackers  # of some rows of the batch
        self.logprobs: list[Tensor] = []
        self.entropy: list[Tensor] = []
        self.best: list[Tensor] = []
        self.last: Tensor | None = None  # [B, V] log p of the step that waits for its token
        self.p: Tensor | None = None
        self.terms: Tensor | None = None  # p log p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.last is not None:
            self.take(input_ids[:, -1])
        self.last = scores.float().log_softmax(dim=-1)
        self.p = self.last.exp()
        self.terms = (self.p * self.last).nan_to_num_(nan=0.0)  # 0 log 0 is 0
        self.entropy.append(-self.terms.sum(dim=-1).cpu())
        return scores

    def take(self, tokens: Tensor) -> None:
        """The tokens that the last step's distribution gave."""
        assert self.last is not None
        assert self.p is not None
        self.logprobs.append(self.last.gather(1, tokens[:, None])[:, 0].cpu())
        self.best.append((self.last.argmax(dim=-1) == tokens).cpu())
        for row, tracker in self.trackers.items():
            tracker(int(tokens[row]), self.p[row])


class LeftToDraw(LogitsProcessor):
    """Counts what a strategy has left to draw from: as the last processor it sees the masked scores."""

    supports_continuous_batching = False

    def __init__(self, before: RawScores, samples: bool):
        self.before, self.samples = before, samples
        self.kept: list[Tensor] = []
        self.confidence: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        p, terms = self.before.p, self.before.terms
        assert p is not None
        assert terms is not None
        keep = candidates(scores, self.samples)
        number = keep.sum(dim=-1)
        rest = (1 - (p * keep).sum(dim=-1)).clamp(min=0)
        others = (p.size(-1) - number).clamp(min=1)
        known = (terms * keep).sum(dim=-1) + torch.xlogy(rest, rest / others)
        self.kept.append(number.float().cpu())
        self.confidence.append((1 + known / math.log(p.size(-1))).cpu())
        return scores


def candidates(scores: Tensor, samples: bool) -> Tensor:
    """[B, V] bool: what may come next, given the scores that a strategy has processed."""
    if samples:
        return scores > -math.inf
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, scores.argmax(dim=-1, keepdim=True), True)


def write(
    model: PreTrainedModel,
    tokenizer: Any,
    passages: Sequence[Passage],
    names: Mapping[str, Mapping[str, Any]],
    *,
    new: int = 128,
    seed: int = 0,
    batch: int = 100,
    chat: bool = False,
    tracked: int = 20,
    console: Console | None = None,
) -> list[Generations]:
    """Let each strategy go on with each passage.

    A batch of prompts goes through the model once, and every strategy starts from a copy of that cache; all of them
    get the same seed.

    Args:
        names: strategy -> settings.
        new: most tokens of a text.
        batch: passages at a time.
        chat: passages are a user's messages, and not text to continue.
        tracked: how many of the first passages are looked at for self-reinforcement.
    """
    written = [Generations(name, dict(options)) for name, options in names.items()]
    order = sorted(range(len(passages)), key=lambda i: -len(passages[i].prompt))
    columns: list[dict[int, dict[str, Any]]] = [{} for _ in written]
    console = console or Console(quiet=True)
    with bar(console) as progress:
        task: Any = progress.add_task("writing", total=len(passages) * len(written), note="texts")
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            inputs: Any = encode_prompts(tokenizer, [passages[i].prompt for i in rows], plain=not chat)
            for some in batches(model, inputs.to(model.device)):
                own, given = [rows[place] for place in some.places], some.inputs
                cache = prefill(model, given)
                for one, found in zip(written, columns):
                    torch.manual_seed(seed + start)
                    found |= _write(model, tokenizer, given, copy.deepcopy(cache), one, own, new, tracked)
                    advance(progress, task, len(own))
    for one, found in zip(written, columns):
        for i in range(len(passages)):
            for name, value in found[i].items():
                getattr(one, name).append(value)
        one.reinforcement = one.reinforcement[:tracked]
    return written


@torch.no_grad()
def prefill(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Any:
    """The cache of everything but the last token of each prompt; None where there is no token before it, or where the
    model keeps something else than keys and values that grow: it then reads the prompts for each strategy."""
    if inputs["input_ids"].size(1) < 2 or not grows(DynamicCache(config=model.config.get_text_config(decoder=True))):
        return None
    mask = inputs["attention_mask"][:, :-1]
    given = {
        "input_ids": inputs["input_ids"][:, :-1], "attention_mask": mask, "position_ids": token_positions(mask),
        "use_cache": True, "logits_to_keep": 1,
    }  # fmt: skip
    output = model(**{name: value for name, value in given.items() if takes(model, name)})
    cache = getattr(output, "past_key_values", None)
    return cache if cache is not None and grows(cache) else None


@torch.no_grad()
def _write(
    model: Any,
    tokenizer: Any,
    inputs: Mapping[str, Tensor],
    cache: Any,
    one: Generations,
    rows: Sequence[int],
    new: int,
    tracked: int,
) -> dict[int, dict[str, Any]]:
    """row -> what `Generations` keeps of it."""
    how = decoding.arguments(one.name, tokenizer, model=model, **one.options)
    config = config_of(model, tokenizer, how, new, own=one.name == decoding.MODEL)
    if (config.num_beams or 1) > 1:
        return _search(model, tokenizer, inputs, config, rows)
    config, made = as_processors(model, config, inputs)
    samples = bool(config.do_sample)
    width = inputs["input_ids"].size(1)
    prompts = zip(inputs["input_ids"], inputs["attention_mask"].bool())
    trackers = {
        place: SelfReinforcement(ids[mask].tolist(), gram=1.0 if samples else 1e-9)
        for place, (ids, mask) in enumerate(prompts)
        if rows[place] < tracked
    }
    before = RawScores(trackers)
    after = LeftToDraw(before, samples)
    processors = LogitsProcessorList([before, *made, *how.get("logits_processor", ()), after])
    given = {"past_key_values": cache} if cache is not None else {}
    states: list[Tensor] = []
    seen = model.get_output_embeddings().register_forward_pre_hook(
        lambda head, hidden: states.append(hidden[0][:, -1].float().cpu())
    )
    try:
        output = run(model, config, inputs, tokenizer=tokenizer, logits_processor=processors, **given)
    finally:
        seen.remove()
    answers = output[:, width:]
    before.take(answers[:, -1])
    table = {
        "logprobs": torch.stack(before.logprobs, dim=1),
        "entropy": torch.stack(before.entropy, dim=1),
        "best": torch.stack(before.best, dim=1),
        "kept": torch.stack(after.kept, dim=1),
        "confidence": torch.stack(after.confidence, dim=1),
    }
    ends = set(end_tokens(tokenizer, model))
    found = {}
    for place, row in enumerate(rows):
        ids = answers[place].tolist()
        length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        kept = {name: values[place, : length + 1].tolist() for name, values in table.items()}
        rates = trackers[place].rates() if place in trackers else {}
        prompt = inputs["input_ids"][place][inputs["attention_mask"][place].bool()].tolist()
        text = text_after(tokenizer, prompt, ids[:length])
        state = states[max(0, length - 1)][place]
        found[row] = {"texts": text, "ids": ids[: length + 1], **kept, "reinforcement": rates, "states": state}
    return found


@torch.no_grad()
def _search(
    model: Any, tokenizer: Any, inputs: Mapping[str, Tensor], config: GenerationConfig, rows: Sequence[int]
) -> dict[int, dict[str, Any]]:
    """As `_write`, by a search among whole texts. What the model says of each token is read from the text that was
    found; there are no candidates that a token is drawn from."""
    output = run(model, config, inputs, tokenizer=tokenizer)
    answers, ends = output[:, inputs["input_ids"].size(1) :].tolist(), set(end_tokens(tokenizer, model))
    found = {}
    for place, (row, ids) in enumerate(zip(rows, answers)):
        length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        own = ids[: length + 1]
        prompt = inputs["input_ids"][place][inputs["attention_mask"][place].bool()]
        whole = torch.cat([prompt, prompt.new_tensor(own)])[None]
        output = model(input_ids=whole, output_hidden_states=True, use_cache=False)
        log_p = output.logits[0, len(prompt) - 1 : -1].float().log_softmax(dim=-1)  # [tokens, V]
        entropy = -(log_p.exp() * log_p).nan_to_num_(nan=0.0).sum(dim=-1)
        chosen = log_p.gather(1, whole[0, len(prompt) :, None])[:, 0]
        found[row] = {
            "texts": text_after(tokenizer, prompt.tolist(), ids[:length]), "ids": own, "kept": [], "confidence": [],
            "logprobs": chosen.tolist(), "entropy": entropy.tolist(), "reinforcement": {},
            "best": (log_p.argmax(dim=-1) == whole[0, len(prompt) :]).tolist(),
            "states": output.hidden_states[-1][0, len(prompt) - 1 + max(0, length - 1)].float().cpu(),
        }  # fmt: skip
    return found


# ---------------------------------------------------------------- texts under a model


@torch.no_grad()
def read(
    model: PreTrainedModel,
    tokenizer: Any,
    passages: Sequence[Passage],
    texts: Sequence[str | Sequence[int]],
    batch: int = 16,
    *,
    chat: bool = False,
) -> tuple[list[list[float]], Tensor]:
    """What a model makes of texts after their prompts, which begin as those begin that it goes on with itself.

    Args:
        texts: words, which get the ids that they have behind their prompt; or the ids that were written, with their
            end.
        chat: passages are what a user says.

    Returns:
        Log-probabilities of each text's tokens in nats, [R][tokens], and the last hidden state at the place that gives
        its last token but the end, [R, D] on the CPU.
    """
    logprobs: list[list[float]] = []
    states = []
    ends = set(end_tokens(tokenizer, model))
    for start in range(0, len(texts), batch):
        some = list(zip(passages[start : start + batch], texts[start : start + batch]))
        rows = [_ids_read(tokenizer, passage.prompt, text, chat) for passage, text in some]
        width = max(len(p) + len(t) for p, t in rows)
        ids = torch.full((len(rows), width), int(tokenizer.pad_token_id or 0), device=model.device)
        labels = torch.full_like(ids, -100)
        mask = torch.zeros_like(ids)
        last = []
        for i, (prompt, text) in enumerate(rows):
            whole = torch.tensor([*prompt, *text], device=ids.device)
            ids[i, : len(whole)], mask[i, : len(whole)] = whole, 1
            labels[i, len(prompt) : len(whole)] = whole[len(prompt) :]
            length = next((k for k, token in enumerate(text) if token in ends), len(text))
            last.append(max(0, len(prompt) - 1 + max(0, length - 1)))
        given = {"attention_mask": mask, "output_hidden_states": True, "use_cache": False}
        output = model(input_ids=ids, **{name: value for name, value in given.items() if takes(model, name)})
        found = output.logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        keep = answer_mask(labels)
        logprobs += [found[i][keep[i]].tolist() for i in range(len(rows))]
        states.append(output.hidden_states[-1][torch.arange(len(rows)), torch.tensor(last)].float().cpu())
    return logprobs, torch.cat(states)


def _ids_read(tokenizer: Any, prompt: str, text: str | Sequence[int], chat: bool) -> tuple[list[int], list[int]]:
    """The ids of a prompt and of the text behind it."""
    start, plain = prompt_text(tokenizer, prompt, "the prompt", plain=not chat)
    ids = prompt_ids(tokenizer, prompt, "the prompt", plain=not chat)
    tail = answer_tails(tokenizer, start, [text], plain)[0] if isinstance(text, str) else [*text]
    return ids, tail
