"""Reward models that score tokens, on strings whose every prefix has a known value (arXiv:2505.23363, 2604.13197).

    python tests/claims/credit_toys.py --out benchmarks/results/claims_credit_toys.json

From pairs of a right and a wrong string, a transformer of two layers with a scalar head learns by `q_rm` and by the
last-token reward model `orm`; the scores of erroneous tokens are held against those of the others. Strings are twelve
numbers below 8. Where errors are "plain" they are one token that occurs nowhere else; where they are "in context" each
number is 1 or 2 more than the one before, modulo 8, and an error is a jump of 3 to 5, after which the string goes on
rightly: it shows only beside the number before it.

From outcomes, `ipvrm` and the implicit PRM at two betas move a recurrent language model of strings with errors in
context. A string is right if it holds no error; its last token is a mark that says right or wrong and is itself wrong
one time in ten. The chance of a right outcome after a prefix is known: 0 after an error, else (1 - hazard)^(numbers to
come). What the models say of each prefix is held against it.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import toys
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from trimtab.core import Head, Signal, TokenBatch, label_logprobs, predicting
from trimtab.metrics.token_scores import token_auc
from trimtab.models.forward import ObjectiveCall, compute_objective
from trimtab.models.scalar_head import add_score_forward, with_scalar_head
from trimtab.signals.columns import Outcome

NUMBERS, RIGHT, WRONG, BAD, VOCAB = 8, 8, 9, 10, 11
IMPLICIT = {"implicit prm, .05": 0.05, "implicit prm, .5": 0.5}


@dataclass(frozen=True)
class Settings:
    width: int = 64
    length: int = 12
    """numbers of a string"""
    hazard: float = 0.08
    """of an error, at each number, where outcomes are learnt"""
    pairs: int = 2000
    heldout: int = 2048
    fit_steps: int = 800
    """of maximum likelihood: the language model that training starts from"""
    pair_steps: int = 1200
    steps: int = 800
    """on outcomes; each string is seen once"""
    batch: int = 64
    """strings of an update, or half as many pairs"""
    learning_rate: float = 1e-3


class Recurrent(nn.Module):
    """A language model that the engine runs."""

    def __init__(self, width: int):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, width)
        self.body = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, VOCAB, bias=False)

    def hidden(self, ids: Tensor) -> Tensor:
        """[B, T] -> [B, T, D]"""
        return self.body(self.embed(ids))[0]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, objective_call: ObjectiveCall | None = None
    ) -> Any:
        hidden = self.hidden(input_ids)
        if objective_call is None:
            return self.out(hidden)
        return compute_objective(objective_call, hidden, Head(self.out, VOCAB))


def transformer(width: int) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


class Start(Signal):
    """The model that training starts from, as the signal "reference"."""

    provides = frozenset({"reference"})

    def __init__(self, model: Recurrent):
        self.model = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        hidden = predicting(self.model.hidden(inputs["input_ids"]), inputs["labels"])
        batch = TokenBatch.from_labels(inputs["labels"])
        return {"reference": label_logprobs(batch, hidden, Head(self.model.out, VOCAB))}


def draw(number: int, length: int, hazard: Tensor | float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Strings [number, 1 + length] with a first number as prompt, and where their errors are, [number, length]."""
    errors = torch.rand(number, length, generator=generator) < hazard
    steps = torch.randint(1, 3, (number, length), generator=generator)
    jumps = torch.randint(3, 6, (number, length), generator=generator)
    first = torch.randint(NUMBERS, (number, 1), generator=generator)
    return torch.cat([first, torch.where(errors, jumps, steps)], dim=1).cumsum(1) % NUMBERS, errors


def with_marks(strings: Tensor, right: Tensor, generator: torch.Generator) -> Tensor:
    honest = torch.rand(len(strings), generator=generator) < 0.9
    return torch.cat([strings, torch.where(right == honest, RIGHT, WRONG)[:, None]], dim=1)


def inputs_of(ids: Tensor, outcome: Tensor | None = None) -> dict[str, Tensor]:
    labels = ids.clone()
    labels[:, 0] = -100
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    inputs["row_id"] = torch.arange(len(ids))
    return inputs if outcome is None else {**inputs, "outcome": outcome}


def batches(
    ids: Tensor, size: int, steps: int, seed: int, *, outcome: Tensor | None = None, together: int = 1
) -> Iterable[dict[str, Tensor]]:
    """Batches of `size` strings, `together` neighbouring ones at a time, in epochs whose order is the seed's."""
    generator = torch.Generator().manual_seed(1000 + seed)
    groups = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(groups) < size // together:
            groups = torch.randperm(len(ids) // together, generator=generator)
        now, groups = groups[: size // together], groups[size // together :]
        rows = (now[:, None] * together + torch.arange(together)).flatten()
        yield inputs_of(ids[rows], None if outcome is None else outcome[rows])


# ---------------------------------------------------------------- from pairs


def make_pairs(number: int, plain: bool, settings: Settings, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Strings [2 P, 1 + length], right ones and ones with a single error in turn, and where errors are."""
    right, none = draw(number, settings.length, 0.0, generator)
    at = torch.randint(settings.length, (number,), generator=generator)
    marked = nn.functional.one_hot(at, settings.length)
    wrong, errors = draw(number, settings.length, 0.0 if plain else marked.float(), generator)
    if plain:
        errors = marked.bool()
        wrong[:, 1:][errors] = BAD
    return torch.stack([right, wrong], 1).flatten(0, 1), torch.stack([none, errors], 1).flatten(0, 1)


def from_pairs(seed: int, plain: bool, settings: Settings) -> dict[str, toys.Measures]:
    generator = torch.Generator().manual_seed(seed)
    train, _ = make_pairs(settings.pairs, plain, settings, generator)
    heldout, errors = make_pairs(settings.heldout, plain, settings, generator)
    torch.manual_seed(seed)
    scorer = with_scalar_head(transformer(settings.width), seed)
    what = "plain" if plain else "in context"
    found = {f"untrained, {what}": judge_pairs(scorer, heldout, errors, mean=True)}
    for name, options in {"q_rm": {}, "orm": {"kind": "orm"}}.items():
        model = copy.deepcopy(scorer)
        add_score_forward(model)
        plan = toys.build("reward_model" if options else name, options)
        data = batches(train, settings.batch, settings.pair_steps, seed, together=2)
        toys.train(model, plan, data, settings.learning_rate)
        found[f"{name}, {what}"] = judge_pairs(model, heldout, errors, mean=name == "q_rm")
    return found


@torch.no_grad()
def judge_pairs(model: PreTrainedModel, ids: Tensor, errors: Tensor, mean: bool) -> toys.Measures:
    scores = model(input_ids=ids).logits[:, 1:, 0]  # [2 P, length]
    answers = scores.mean(1) if mean else scores[:, -1]
    accuracy = (answers[0::2] > answers[1::2]).float().mean().item()
    auc = token_auc(list(scores[1::2].double().numpy()), list(errors[1::2].numpy()))
    return {"accuracy": accuracy, "token_auc": auc.mean.estimate}


# ---------------------------------------------------------------- from outcomes


def from_outcomes(seed: int, settings: Settings) -> dict[str, toys.Measures]:
    generator = torch.Generator().manual_seed(100 + seed)
    cut = settings.batch * settings.steps
    strings, errors = draw(cut + settings.heldout, settings.length, settings.hazard, generator)
    right = ~errors.any(dim=1)
    ids = with_marks(strings, right, generator)
    torch.manual_seed(seed)
    start = Recurrent(settings.width)
    toys.train(start, toys.build("sft", {}), batches(ids[:cut], settings.batch, settings.fit_steps, seed), 2e-3)
    held = (ids[cut:], errors[cut:], right[cut:])
    methods = {"ipvrm": ("ipvrm", {}, 10.0)}
    methods |= {name: ("reward_model", {"kind": "implicit_prm", "beta": b}, b) for name, b in IMPLICIT.items()}
    found = {"untrained, outcomes": judge_prefixes(start, start, 1.0, True, settings, *held)}
    for name, (method, options, beta) in methods.items():
        model, reference = copy.deepcopy(start), Start(start)
        plan = toys.build(method, options, model, reference=reference)
        assert any(isinstance(signal, Outcome) for signal in plan.signals)
        data = batches(ids[:cut], settings.batch, settings.steps, seed, outcome=right[:cut].float())
        toys.train(model, plan, data, settings.learning_rate)
        found[name] = judge_prefixes(model, start, beta, name == "ipvrm", settings, *held)
    return found


@torch.no_grad()
def judge_prefixes(
    model: Recurrent, start: Recurrent, beta: float, mean: bool, settings: Settings, ids: Tensor, errors: Tensor,
    right: Tensor,
) -> toys.Measures:  # fmt: skip
    logprobs = [one(ids[:, :-1]).log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0] for one in (model, start)]
    total = (logprobs[0] - logprobs[1]).cumsum(1)  # [B, length + 1], the mark being the last
    value = beta * (total / torch.arange(1, total.size(1) + 1) if mean else total)
    said = value.sigmoid()[:, : settings.length]
    seen = errors.cumsum(1) > 0
    to_come = settings.length - 1 - torch.arange(settings.length)
    true = torch.where(seen, 0.0, (1 - settings.hazard) ** to_come)
    return {
        "brier": (said - true).square().mean().item(),
        "after_error": said[seen].mean().item(),
        "before_error": said[~seen].mean().item(),
        "end_brier": (value.sigmoid()[:, -1] - right.float()).square().mean().item(),
    }


def run_seed(seed: int, settings: Settings) -> dict[str, toys.Measures]:
    return from_pairs(seed, True, settings) | from_pairs(seed, False, settings) | from_outcomes(seed, settings)


EXPERIMENT = toys.Experiment("credit_toys", run_seed, Settings(), __doc__ or "")

if __name__ == "__main__":
    raise SystemExit(toys.main(EXPERIMENT, seeds=3))
