"""Decoding strategies on the same prompts: what each of them writes, how good it is, and what it chose from."""

import copy
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from trimtab import __version__, decoding
from trimtab.common import fingerprint
from trimtab.common.environment import environment
from trimtab.common.errors import UserError
from trimtab.common.locks import writing
from trimtab.common.progress import advance, bar
from trimtab.common.terminal import cells, say, table_of
from trimtab.common.yaml_text import parse_value
from trimtab.core import answer_mask
from trimtab.data import stored
from trimtab.data.chat import date_facts
from trimtab.data.sources import SUFFIXES, load_rows, prompt_lines
from trimtab.data.tokens import answer_tails, coder, encode_prompts, prompt_ids, prompt_text
from trimtab.decoding._batching import batches, takes
from trimtab.decoding._checkpoint_config import check_own, check_stored
from trimtab.decoding._config import as_processors, config_of, described, run
from trimtab.decoding._prefill import grows
from trimtab.decoding.penalty import PenaltyProcessor
from trimtab.metrics import embeddings
from trimtab.metrics.intervals import Interval, bootstrap_corpus, bootstrap_ratio, bootstrap_sums, mean_of
from trimtab.metrics.text_quality import MissingMauve, SelfReinforcement, cosine, counts, distinct, mauve, zipf
from trimtab.models import loading
from trimtab.models.asked import How, load_asked
from trimtab.models.ends import end_tokens
from trimtab.models.limits import check_prompts
from trimtab.models.tokenizers import token_positions
from trimtab.report import decoding as decoding_page

STRATEGIES = ("greedy", "sample", "top_k", "top_p", "typical", "eta", "min_p", "top_h", "penalty", "adaptive")
SHOWN = 12
"""Candidates of a step that the token view keeps."""


class CompareError(UserError):
    """Prompts or strategies that cannot be compared."""


@dataclass(frozen=True)
class Passage:
    """What is gone on with, and what a human wrote there."""

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
            found.append(Passage(tokenizer.decode(prompt), said_after(tokenizer, prompt, rest)))
        else:
            raise CompareError(f"{source}: row {number} has no text in a column 'prompt' or 'text'")
    if not found:
        raise CompareError(
            f"{source} holds no text of {prefix + new} tokens, {prefix} for the prompt and {new} to follow"
        )
    return found, f"{short} texts of fewer than {prefix + new} tokens were left out" if short else ""


def said_after(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int]) -> str:
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


class Before(LogitsProcessor):
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


class After(LogitsProcessor):
    """Counts what a strategy has left to draw from: as the last processor it sees the masked scores."""

    supports_continuous_batching = False

    def __init__(self, before: Before, samples: bool):
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
        model, tokenizer: of a causal language model.
        passages: in the order of which texts are returned.
        names: strategy -> settings.
        new: most tokens of a text.
        seed: of the draws.
        batch: passages at a time.
        chat: passages are what a user says, and not text to go on with.
        tracked: so many of the first passages are looked at for self-reinforcement.
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
    before = Before(trackers)
    after = After(before, samples)
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
        text = said_after(tokenizer, prompt, ids[:length])
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
        said = model(input_ids=whole, output_hidden_states=True, use_cache=False)
        log_p = said.logits[0, len(prompt) - 1 : -1].float().log_softmax(dim=-1)  # [tokens, V]
        entropy = -(log_p.exp() * log_p).nan_to_num_(nan=0.0).sum(dim=-1)
        chosen = log_p.gather(1, whole[0, len(prompt) :, None])[:, 0]
        found[row] = {
            "texts": said_after(tokenizer, prompt.tolist(), ids[:length]), "ids": own, "kept": [], "confidence": [],
            "logprobs": chosen.tolist(), "entropy": entropy.tolist(), "reinforcement": {},
            "best": (log_p.argmax(dim=-1) == whole[0, len(prompt) :]).tolist(),
            "states": said.hidden_states[-1][0, len(prompt) - 1 + max(0, length - 1)].float().cpu(),
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
    """The ids of a prompt as a model is asked with it, and of the text behind it."""
    asked, plain = prompt_text(tokenizer, prompt, "the prompt", plain=not chat)
    ids = prompt_ids(tokenizer, prompt, "the prompt", plain=not chat)
    tail = answer_tails(tokenizer, asked, [text], plain)[0] if isinstance(text, str) else [*text]
    return ids, tail


# ---------------------------------------------------------------- token by token


@torch.no_grad()
def choices(
    model: PreTrainedModel, tokenizer: Any, prompt: str, ids: Sequence[int], names: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """For each step of a text: the most probable tokens, and which strategies would have kept each.

    Returns:
        [{"token", "p", "entropy", "kept": {strategy: count}, "top": [[token, p, [strategy, ...], chosen], ...]}]
    """
    said = prompt_ids(tokenizer, prompt, "the prompt", plain=True)
    whole = torch.tensor([[*said, *ids]], device=model.device)
    logits = model(input_ids=whole, use_cache=False).logits[0, len(said) - 1 : -1].float()
    made = {}
    for name, options in names.items():
        how = decoding.arguments(name, tokenizer, model=model, **options)
        config = config_of(model, tokenizer, how, len(ids), own=name == decoding.MODEL)
        if (config.num_beams or 1) == 1:  # a search keeps texts, not tokens
            given = {"input_ids": whole[:, : len(said)], "attention_mask": torch.ones_like(whole[:, : len(said)])}
            bare, processors = as_processors(model, config, given)
            made[name] = (LogitsProcessorList([*processors, *how.get("logits_processor", ())]), bool(bare.do_sample))
    steps = []
    for t, token in enumerate(ids):
        scores = logits[t : t + 1]
        p = scores[0].softmax(-1)
        before = whole[:, : len(said) + t]
        keep = {
            name: candidates(processors(before, scores), samples)[0] for name, (processors, samples) in made.items()
        }
        top = p.topk(min(SHOWN, len(p)))
        shown = list(zip(top.indices.tolist(), top.values.tolist()))
        if token not in top.indices.tolist():
            shown.append((token, p[token].item()))
        steps.append(
            {
                "token": tokenizer.decode([token]),
                "p": p[token].item(),
                "entropy": -torch.xlogy(p, p).sum().item(),
                "kept": {name: int(mask.sum()) for name, mask in keep.items()},
                "top": [
                    [tokenizer.decode([v]), q, [name for name, mask in keep.items() if mask[v]], v == token]
                    for v, q in shown
                ],
            }
        )
    return steps


# ---------------------------------------------------------------- repeating a sentence


@torch.no_grad()
def repeat_sentence(
    model: PreTrainedModel, tokenizer: Any, sentences: Iterable[str], times: int, processors: Mapping[str, Any]
) -> dict[str, Tensor]:
    """How probable is a sentence after 1, 2, ... repetitions of it?

    Args:
        sentences: each is written `times` times in a row.
        times: n.
        processors: name -> None for the model itself, or a function that makes a `LogitsProcessor` anew.

    Returns:
        name -> [S, times] mean probability of the sentence's tokens in its k-th repetition, after the processor.
    """
    found: dict[str, list[list[float]]] = {name: [] for name in processors}
    begun = coder(tokenizer)
    for sentence in sentences:
        ids = begun.ids(" " + sentence.strip())
        whole = torch.tensor([[*begun.first, *ids * times]], device=model.device)
        skip = whole.size(1) - len(ids) * times
        logits = model(input_ids=whole, use_cache=False).logits[0].float()
        for name, make in processors.items():
            processor = make() if make is not None else None
            values = []
            for t in range(max(skip, 1), whole.size(1)):
                scores = logits[t - 1 : t]
                if processor is not None:
                    scores = processor(whole[:, :t], scores)
                values.append(scores.softmax(-1)[0, whole[0, t]].item())
            padded = [math.nan] * (len(ids) * times - len(values)) + values
            found[name].append(torch.tensor(padded).view(times, len(ids)).nanmean(dim=1).tolist())
    return {name: torch.tensor(values) for name, values in found.items()}


# ---------------------------------------------------------------- the page


def parse_strategies(names: str | None, words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Strategy -> settings, from "a,b,c" and words such as a.key=value.

    Raises:
        ValueError: naming what is unknown.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for name in STRATEGIES if names is None else [word.strip() for word in names.split(",")]:
        decoding.strategy(name)
        chosen[name] = {}
    for word in words:
        key, sign, value = word.partition("=")
        name, dot, option = key.partition(".")
        if not (sign and dot and option):
            raise CompareError(f"{word!r} is no setting; write STRATEGY.KEY=VALUE, for example adaptive.epsilon=0.005")
        if name not in chosen:
            raise CompareError(f"{word!r} is a setting of {name}, which is not compared: {', '.join(chosen)} are")
        chosen[name][option] = parse_value(word, value)
    return chosen


@dataclass(frozen=True)
class Settings:
    """What the command line was given."""

    model: str
    prompts: str
    out: Path
    strategies: Mapping[str, Mapping[str, Any]]
    new: int = 128
    prefix: int = 32
    number: int | None = None
    seed: int = 0
    batch: int = 100
    chat: bool = False
    judge: str | None = None
    token_view: int = 2
    """prompts whose texts can be looked at token by token"""
    tracked: int = 20
    force: bool = False
    how: How = field(default_factory=How)


def compare(settings: Settings, console: Console | None = None) -> Path:
    """Write texts by every strategy, measure them, and lay them out on one page that opens without a network; the texts
    and numbers stand beside it as JSON lines.

    Raises:
        ValueError: a subclass that names what is wrong, before weights are loaded where that can be known.
    """
    for name, options in settings.strategies.items():
        decoding.check(name, options)
    with writing(settings.out, "another call", "wait for it, or choose another --out", CompareError):
        return _compare(settings, console or Console())


def _compare(settings: Settings, console: Console) -> Path:
    rows_file = settings.out.with_suffix(".jsonl")
    for path in (settings.out, rows_file):
        if path.exists() and not settings.force:
            raise CompareError(f"{path} exists; add --force to replace it or choose another --out FILE.html")
    tokenizer = loading.load_tokenizer(settings.model)
    passages, left_out = load_passages(settings.prompts, tokenizer, settings.prefix, settings.new)
    passages = passages[: settings.number]
    for name, options in settings.strategies.items():
        decoding.arguments(name, tokenizer, **options)  # what a strategy says against this tokenizer
    if decoding.MODEL in settings.strategies:
        check_stored(settings.model)
    ids = [
        prompt_ids(tokenizer, one.prompt, f"prompt {i}", plain=not settings.chat) for i, one in enumerate(passages, 1)
    ]
    for note in check_prompts(ids, settings.new, loading.limits(settings.model), tokenizer, settings.model):
        say(console, note)
    judging = loading.load_tokenizer(settings.judge) if settings.judge else tokenizer
    if settings.judge:
        ids = [
            prompt_ids(judging, one.prompt, f"prompt {i}", plain=not settings.chat) for i, one in enumerate(passages, 1)
        ]
        check_prompts(ids, settings.new, loading.limits(settings.judge), judging, settings.judge)
    model = load_asked(settings.model, settings.how)
    if decoding.MODEL in settings.strategies:
        check_own(model.generation_config, settings.model)
    judge = load_asked(settings.judge, settings.how) if settings.judge else model
    begun = time.perf_counter()
    written = write(
        model, tokenizer, passages, settings.strategies,
        new=settings.new, seed=settings.seed, batch=settings.batch, chat=settings.chat, tracked=settings.tracked,
        console=console,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    texts = {one.name: one.texts for one in written}
    logprobs = {one.name: one.logprobs for one in written}
    human = [passage.reference for passage in passages]
    if all(human):
        texts["human"] = [str(text) for text in human]
    say(console, "measuring the texts ...")
    states = {one.name: torch.stack(one.states) for one in written}
    same = fingerprint.of_tokenizer(judging) == fingerprint.of_tokenizer(tokenizer)
    written_ids = {one.name: one.ids for one in written} if same else {}
    for name, found in texts.items():  # what the model itself wrote, it has read when it wrote it
        if name == "human" or settings.judge:
            given = written_ids.get(name, found)
            logprobs[name], states[name] = read(judge, judging, passages, given, chat=settings.chat)
    signature = {
        "trimtab": __version__,
        "model": f"{settings.model} {fingerprint.of_model(model)}",
        "dtype": str(model.dtype).removeprefix("torch."),
        "tokenizer": fingerprint.of_tokenizer(tokenizer),
        **(date_facts(tokenizer) if settings.chat else {}),
        "perplexity under": f"{settings.judge} {fingerprint.of_model(judge)}" if settings.judge else "the model itself",
        "prompts": f"{settings.prompts}, {len(passages)} {'as chats' if settings.chat else 'plain'}"
        f"{f', of {settings.prefix} tokens' if all(human) else ''}{f'; {left_out}' if left_out else ''}",
        "tokens of a text": f"at most {settings.new}",
        **{f"generation of {one.name}": _config_said(model, tokenizer, one, settings.new) for one in written},
        "seed": str(settings.seed),
        "batch": str(settings.batch),
        "seconds of writing": f"{seconds:.0f}",
        **environment(),
    }
    coherence, name = _coherence(passages, texts)
    signature["coherence by"] = name
    columns = _columns(texts, logprobs, written, coherence)
    if all(human):
        columns += _mauve(states, signature)
    page = decoding_page.Page(
        headline=f"{len(written)} ways to decode {settings.model} on {len(passages)} prompts",
        strategies={one.name: _said(one) for one in written}
        | ({"human": "the text that follows"} if all(human) else {}),
        columns=columns,
        series=[*_series(written, settings.new), *_repeated(model, tokenizer, passages)],
        map=_map(columns),
        prompts=[
            (passage.prompt, {name: found[i] for name, found in texts.items()}) for i, passage in enumerate(passages)
        ],
        steps=_steps(model, tokenizer, passages, written, settings),
        signature=list(signature.items()),
        cautions=_cautions(settings, passages, written),
    )
    decoding_page.write(page, settings.out)
    rows = (
        {
            "prompt": passage.prompt,
            "strategy": name,
            "text": found[i],
            **({"perplexity": math.exp(-sum(p) / len(p))} if (p := logprobs[name][i]) else {}),
        }
        for i, passage in enumerate(passages)
        for name, found in texts.items()
    )
    measured = {c.title: {name: list(value) for name, value in c.values.items()} for c in columns}
    stored.write(rows_file, rows, {"signature": signature, "measures": measured})
    wide = Console(file=console.file, quiet=console.quiet, width=max(console.width, 13 * (len(columns) + 1)))
    wide.print(decoding_table(page))  # cells that are cut are worth less than lines that wrap
    say(console, f"signature: {'; '.join(f'{key} {value}' for key, value in signature.items())}")
    return settings.out


def _config_said(model: Any, tokenizer: Any, one: Generations, new: int) -> str:
    """What of a strategy's generation config is not transformers' default."""
    how = decoding.arguments(one.name, tokenizer, model=model, **one.options)
    return described(config_of(model, tokenizer, how, new, own=one.name == decoding.MODEL))


def _said(one: Generations) -> str:
    chosen = decoding.check(one.name, one.options).model_dump()
    settings = ", ".join(f"{key} {value}" for key, value in chosen.items())
    return f"{decoding.summary(one.name)} {settings}".strip()


def decoding_table(page: decoding_page.Page) -> Table:
    """The page's measures for a terminal, without intervals."""
    table = table_of("strategy", *(column.title for column in page.columns), box=None, pad_edge=False)
    for name in page.strategies:
        found = [name]
        for column in page.columns:
            value = column.values.get(name)
            found.append("–" if value is None or math.isnan(value.estimate) else f"{value.estimate:.{column.digits}f}")
        table.add_row(*cells(found))
    return table


def _coherence(passages: Sequence[Passage], texts: Mapping[str, Sequence[str]]) -> tuple[dict[str, list[float]], str]:
    """strategy -> cosine of each text with its prompt, and the name of the embedding."""
    try:
        embed, name = embeddings.load()
    except embeddings.MissingEmbedding as error:
        return {}, str(error)
    prompts = embed([passage.prompt for passage in passages])
    return {key: cosine(prompts, embed(list(found))).tolist() for key, found in texts.items()}, name


def _mauve(states: Mapping[str, Tensor], signature: dict[str, str]) -> list[decoding_page.MeasureColumn]:
    """Likeness to human text by the hidden states of the last tokens, over five clusterings."""
    values = {}
    try:
        for name in states:
            if name != "human":
                found = [mauve(states["human"].numpy(), states[name].numpy(), seed) for seed in range(5)]
                values[name] = Interval(float(np.mean(found)), min(found), max(found))
    except MissingMauve as error:
        signature["MAUVE"] = f"not measured: {error}"
        return []
    signature["MAUVE"] = f"of the last hidden states, {len(states['human'])} texts each"
    meaning = (
        "How hard the texts are to tell from the human ones, by clusters of the model's own hidden states: 1 is not at "
        "all. In brackets: the lowest and highest of five clusterings. With so few texts, only large differences count."
    )
    return [decoding_page.MeasureColumn("MAUVE", meaning, 3, values)]


def _columns(
    texts: Mapping[str, Sequence[str]],
    logprobs: Mapping[str, Sequence[Sequence[float]]],
    written: Sequence[Generations],
    coherence: Mapping[str, Sequence[float]],
) -> list[decoding_page.MeasureColumn]:
    column, resampled = decoding_page.MeasureColumn, partial(bootstrap_sums, skip_nan=True)

    def repeated(found: Sequence[str], *sizes: int) -> np.ndarray:
        """[R, 2 len(sizes)]: distinct n-grams and n-grams of each text."""
        return np.array([[c for n in sizes for c in counts(text, n)] for text in found], dtype=np.float64)

    def mean(values: Sequence[Sequence[float]], transform: Any = None) -> Interval:
        table = np.array([[sum(row), len(row)] for row in values], dtype=np.float64)
        return bootstrap_ratio(table[:, 0], table[:, 1], transform=transform)

    columns = [
        column(
            f"rep-{n}",
            f"Share of runs of {n} words that their own text had before. Human text: a few percent.",
            3,
            {k: resampled(repeated(t, n), lambda s: 1 - s[..., 0] / s[..., 1]) for k, t in texts.items()},
        )
        for n in (2, 3, 4)
    ]
    columns.append(
        column(
            "diversity",
            "Product of 1 - rep-n over n = 2, 3, 4: 1 where nothing repeats.",
            3,
            {
                k: resampled(repeated(t, 2, 3, 4), lambda s: np.prod(s[..., 0::2] / s[..., 1::2], axis=-1))
                for k, t in texts.items()
            },
        )
    )
    columns.append(
        column(
            "distinct-2",
            "Different pairs of words in all texts together over all pairs; falls with the amount of text.",
            3,
            {k: bootstrap_corpus(t, lambda found: distinct(found, 2)) for k, t in texts.items()},
        )
    )
    if coherence:
        columns.append(
            column(
                "coherence",
                "Cosine of the sentence embeddings of a text and of its prompt.",
                3,
                {k: mean_of(v) for k, v in coherence.items()},
            )
        )
    columns.append(
        column(
            "perplexity",
            "exp of the mean negative log-probability of a token, after its prompt. Human text is neither the lowest "
            "nor the highest: what is far below it is dull, what is far above it wanders.",
            1,
            {k: mean([[-x for x in row] for row in v], np.exp) for k, v in logprobs.items()},
        )
    )
    columns.append(
        column(
            "greedy ratio",
            "Share of tokens that were the model's most probable ones.",
            3,
            {one.name: mean(one.best) for one in written},
        )
    )
    columns.append(
        column(
            "candidates",
            "Tokens that were left to draw from, on average.",
            1,
            {one.name: mean(one.kept) for one in written if any(one.kept)},
        )
    )
    columns.append(
        column(
            "words",
            "Words of a text.",
            1,
            {k: mean_of([len(x.split()) for x in t]) for k, t in texts.items()},
        )
    )
    columns.append(
        column(
            "zipf",
            "How steeply word frequencies fall with their rank; about 1 for human text.",
            2,
            {k: bootstrap_corpus(t, zipf) for k, t in texts.items()},
        )
    )
    tracked = [one for one in written if one.reinforcement and one.reinforcement[0]]
    if tracked:
        columns.append(
            column(
                "SR-1",
                "Self-reinforcement: share of tokens that came back with a higher probability than when they were last "
                "said.",
                3,
                {
                    one.name: bootstrap_ratio(
                        np.array([rates["sr-1"] for rates in one.reinforcement if rates]),
                        np.ones(sum(map(bool, one.reinforcement))),
                    )
                    for one in tracked
                },
            )
        )
    return columns


def _map(
    columns: Sequence[decoding_page.MeasureColumn],
) -> tuple[decoding_page.MeasureColumn, decoding_page.MeasureColumn]:
    """Diversity across, coherence up; perplexity where there is no embedding."""
    by_title = {column.title: column for column in columns}
    return by_title["diversity"], by_title.get("coherence", by_title["perplexity"])


def _series(written: Sequence[Generations], new: int) -> list[decoding_page.Series]:
    series, along = decoding_page.Series, decoding_page.mean_along

    def again(ids: Sequence[int]) -> list[float]:
        """Whether each token completes a run of four that was there before."""
        seen: set[tuple[int, ...]] = set()
        found = [math.nan] * min(3, len(ids))
        for end in range(4, len(ids) + 1):
            gram = tuple(ids[end - 4 : end])
            found.append(float(gram in seen))
            seen.add(gram)
        return found

    return [
        series(
            "Repetition along the text",
            "Share of texts whose token completes a run of four tokens that the text had before.",
            along({one.name: [again(ids) for ids in one.ids] for one in written}, new),
        ),
        series(
            "Entropy along the text",
            "Of the model's own distribution, in nats: what a text does to the model that goes on with it.",
            along({one.name: one.entropy for one in written}, new),
        ),
        series(
            "Candidates along the text",
            "Tokens that were left to draw from, on average.",
            along({one.name: one.kept for one in written if any(one.kept)}, new),
            log=True,
        ),
        series(
            "Confidence along the text",
            "One minus the normalised entropy of knowing the candidates and calling the rest uniform.",
            along({one.name: one.confidence for one in written if any(one.kept)}, new),
        ),
    ]


TIMES = 10
"""Repetitions of a sentence."""


def _repeated(model: PreTrainedModel, tokenizer: Any, passages: Sequence[Passage]) -> list[decoding_page.Series]:
    """Sentences of the human texts, or of the prompts, again and again: does the model come to expect them?"""
    found = []
    for passage in passages:
        sentences = re.split(r"(?<=[.!?])\s+", f"{passage.prompt} {passage.reference or ''}".strip())[1:-1]
        found += [sentence for sentence in sentences if 6 <= len(sentence.split()) <= 25][:1]
    if not found:
        return []
    processors = {
        "the model": None,
        "penalty 1.2": lambda: PenaltyProcessor(1.2),
        "penalty 1.2, last 20 tokens": lambda: PenaltyProcessor(1.2, 20),
    }
    tables = repeat_sentence(model, tokenizer, found[:12], TIMES, processors)
    return [
        decoding_page.Series(
            "A sentence again and again",
            f"Mean probability of the tokens of {len(found[:12])} sentences of the texts at their k-th repetition: the "
            "model comes to expect what it has read before. The penalty of repeated tokens, and of those of a window.",
            {name: table.nanmean(dim=0).tolist() for name, table in tables.items()},
            across="repetition",
        )
    ]


def _steps(
    model: PreTrainedModel,
    tokenizer: Any,
    passages: Sequence[Passage],
    written: Sequence[Generations],
    settings: Settings,
) -> list[dict[str, Any]]:
    if settings.chat:
        return []
    return [
        {
            "prompt": passages[i].prompt,
            "strategy": one.name,
            "steps": choices(model, tokenizer, passages[i].prompt, one.ids[i], settings.strategies),
        }
        for i in range(min(settings.token_view, len(passages)))
        for one in written
    ]


def _cautions(settings: Settings, passages: Sequence[Passage], written: Sequence[Generations]) -> list[str]:
    found = [
        "All strategies share their prompts and their seed; their settings were not tuned on these prompts.",
        f"{len(passages)} prompts and texts of at most {settings.new} tokens: small. Read the intervals.",
    ]
    ended = {one.name: sum(len(ids) < settings.new for ids in one.ids) for one in written}
    early = {name: number for name, number in ended.items() if number}
    if early:
        said = ", ".join(f"{name} {number}" for name, number in early.items())
        found.append(f"Texts that ended before {settings.new} tokens: {said}. Short texts repeat less.")
    if settings.chat:
        found.append("Prompts are chats, so there is no token view.")
    return found
