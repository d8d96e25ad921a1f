"""What the small experiments share: a toy language model that the engine runs, alignment by preferences, and results.

Each experiment is a file with an `Experiment`; `python tests/claims/<file>.py --out FILE` runs it. Models are those
of `markov.py`: the next token depends on the two before it, so everything can be sampled and measured exactly. A
quarter of the vocabulary is called good; alignment makes it more frequent. A seed fixes source, models, data and the
order of the batches, so all methods of one seed are paired.
"""

import argparse
import copy
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import markov
import torch
from intervals import Interval, over_seeds
from torch import Tensor, nn

from trimtab import methods
from trimtab.core import Head, LazyLogits, Plan, Signal, TokenBatch, label_logprobs, predicting
from trimtab.models.forward import ObjectiveCall, compute_objective
from trimtab.signals.base import call_plan

GOOD = 4
"""Of the share of the vocabulary: one in so many tokens, those with the lowest ids, is good."""

Measures = dict[str, float]


class ToyLM(markov.MLP):
    """The MLP with the way into the engine that `add_objective_forward` gives to models of transformers."""

    def hidden(self, ids: Tensor) -> Tensor:
        """[B, T] -> [B, T, D]"""
        before = torch.cat([ids[:, :1], ids[:, :-1]], dim=1)
        return self.body[:2](torch.cat([self.embed(before), self.embed(ids + self.vocab)], dim=-1))

    def head(self) -> Head:
        return Head(self.body[2], self.vocab)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, objective_call: ObjectiveCall | None = None
    ) -> Any:
        hidden = self.hidden(input_ids)
        if objective_call is None:
            return self.body[2](hidden)
        return compute_objective(objective_call, hidden, self.head())


class Frozen(Signal):
    """A frozen `ToyLM` as a signal; the product's `FrozenModel` takes models of transformers alone."""

    def __init__(self, model: ToyLM, name: str, reads: str = "distribution"):
        self.model, self.name, self.provides = copy.deepcopy(model).requires_grad_(False), name, frozenset({name})
        self.vocab_size, self.distribution = model.vocab, reads == "distribution"

    @torch.no_grad()
    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        hidden = predicting(self.model.hidden(inputs["input_ids"]), inputs["labels"])
        if not self.distribution:
            return {self.name: label_logprobs(TokenBatch.from_labels(inputs["labels"]), hidden, self.model.head())}
        return {self.name: LazyLogits(hidden, self.model.head(), self.vocab_size)}


def build(method: str, options: Mapping[str, Any], policy: nn.Module | None = None, **models: Any) -> Plan:
    """The plan of a method, from its options as a recipe has them."""
    loaded = methods.load(method)
    return loaded.build(loaded.config.model_validate(dict(options)), policy, **models)


def inputs_of(ids: Tensor, rows: Tensor | None = None) -> dict[str, Tensor]:
    """A batch of whole sequences; the prompt of two tokens is no answer."""
    row_id = torch.arange(len(ids)) if rows is None else rows
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": markov.labels_of(ids), "row_id": row_id}


def batches(ids: Tensor, size: int, steps: int, seed: int, together: int = 1) -> Iterable[dict[str, Tensor]]:
    """Random batches of `size` groups of `together` neighbouring rows; the order depends on the seed alone."""
    generator = torch.Generator().manual_seed(1000 + seed)
    for _ in range(steps):
        groups = torch.randperm(len(ids) // together, generator=generator)[:size]
        rows = (groups[:, None] * together + torch.arange(together)).flatten()
        yield inputs_of(ids[rows], rows // together)


def train(
    policy: nn.Module,
    plan: Plan,
    data: Iterable[Mapping[str, Tensor]],
    learning_rate: float,
    *,
    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
    after: Callable[[int, Any], bool | None] = lambda step, output: None,
) -> None:
    """One optimizer step a batch: signals and engine as the trainer calls them.

    `after(updates made, output of the last)` ends the training by returning True.
    """
    trained = [p for p in policy.parameters() if p.requires_grad]
    made = optimizer(trained, lr=learning_rate)
    for step, inputs in enumerate(data):
        for signal in plan.signals:
            signal.before_update(policy, step, 0)
        output = call_plan(plan, policy, inputs, step=step)
        made.zero_grad()
        output.loss.backward()
        made.step()
        if after(step + 1, output):
            return


def fit(model: nn.Module, ids: Tensor, size: int, steps: int, learning_rate: float, seed: int) -> None:
    """Maximum likelihood on sequences."""
    train(model, build("sft", {}), batches(ids, size, steps, seed), learning_rate)


def good(vocab: int) -> int:
    return vocab // GOOD


def good_rate(table: Tensor, prompts: Tensor, length: int, seed: int) -> float:
    """How much probability good tokens have, on average over the model's own text."""
    generator = torch.Generator().manual_seed(3000 + seed)
    ids = markov.sample(table, prompts, length, generator)
    mass = table[..., : good(table.size(-1))].sum(-1)  # [V, V]
    return mass[ids[:, :-2], ids[:, 1:-1]].mean().item()


def preferences(ids: Tensor, vocab: int) -> Tensor:
    """Rows 2i and 2i+1 answer one prompt; the answer with more good tokens comes first. Ties are left out."""
    number = (ids[:, 2:] < good(vocab)).sum(dim=1).view(-1, 2)
    pairs = ids.view(-1, 2, ids.size(1))
    order = number.argsort(dim=1, descending=True)
    sorted_pairs = torch.take_along_dim(pairs, order[:, :, None], dim=1)
    return sorted_pairs[number[:, 0] != number[:, 1]].flatten(0, 1)


@dataclass(frozen=True)
class Experiment:
    """What one file measures."""

    name: str
    """results go to benchmarks/results/claims_<name>.json"""
    run_seed: Callable[[int, Any], dict[str, Measures]]
    """(seed, settings) -> method -> measure -> value; methods lack measures that mean nothing to them"""
    settings: Any
    doc: str


@dataclass(frozen=True)
class Result:
    """The measures of every method at every seed."""

    experiment: Experiment
    settings: Any
    seeds: tuple[int, ...]
    rows: dict[str, dict[str, list[float]]]
    seconds: float

    def mean(self, name: str, measure: str) -> float:
        values = self.rows[name][measure]
        return sum(values) / len(values)

    def difference(self, name: str, other: str, measure: str) -> Interval:
        """How much `name` exceeds `other`, paired by seed, with the 95% interval of Student's t over the seeds."""
        return over_seeds([a - b for a, b in zip(self.rows[name][measure], self.rows[other][measure])])

    def shortfall(self, larger: str, smaller: str, measure: str, margin: float) -> str | None:
        """None if the 95% interval of larger minus smaller lies above `margin`, otherwise the numbers."""
        difference = self.difference(larger, smaller, measure)
        if difference.low > margin:
            return None
        return f"{measure} of {larger} minus {smaller} is {difference}, to exceed {margin}"

    def as_dict(self) -> dict[str, Any]:
        first = next(iter(self.rows))
        return {
            "experiment": self.experiment.name,
            "signature": markov.signature(),
            "settings": dataclasses.asdict(self.settings),
            "seeds": list(self.seeds),
            "seconds": round(self.seconds, 1),
            "means": {name: {m: self.mean(name, m) for m in row} for name, row in self.rows.items()},
            "per_seed": self.rows,
            f"minus {first}": {
                name: {m: list(self.difference(name, first, m)) for m in row if m in self.rows[first]}
                for name, row in self.rows.items()
                if name != first
            },
        }

    @staticmethod
    def _cell(values: list[float]) -> str:
        spread = torch.tensor(values).std().item() if len(values) > 1 else 0.0
        return f"{sum(values) / len(values):.3f} ± {spread:.3f}"

    def table(self) -> str:
        """Means over seeds and their standard deviation over seeds."""
        measures = list(dict.fromkeys(m for row in self.rows.values() for m in row))
        lines = [f"| | {' | '.join(measures)} |", f"|---|{'---|' * len(measures)}"]
        for name, row in self.rows.items():
            cells = [self._cell(row[m]) if m in row else "" for m in measures]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join(lines)


def expect(result: Result, claim: str, larger: str, smaller: str, measure: str, margin: float) -> None:
    """A claim of a paper that does not show is an expected failure of the test, with its numbers."""
    short = result.shortfall(larger, smaller, measure, margin)
    if short:
        import pytest

        pytest.xfail(f"did not reproduce: {claim} ({short})")


def run(experiment: Experiment, seeds: tuple[int, ...], settings: Any = None) -> Result:
    """All methods at all seeds; one line is printed for each seed."""
    settings, start, found = settings or experiment.settings, time.perf_counter(), []
    for seed in seeds:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found.append(experiment.run_seed(seed, settings))
        seconds = time.perf_counter() - start
        print(f"{experiment.name}, seed {seed}: {seconds:.0f} s so far", file=sys.stderr, flush=True)
    rows = {name: {m: [one[name][m] for one in found] for m in found[0][name]} for name in found[0]}
    return Result(experiment, settings, seeds, rows, time.perf_counter() - start)


def main(experiment: Experiment, seeds: int) -> int:
    parser = argparse.ArgumentParser(description=experiment.doc.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=seeds, help="how many, from --first-seed on")
    parser.add_argument("--first-seed", type=int, default=0, help=f"settings were tuned on {markov.TUNING_SEEDS}")
    parser.add_argument("--threads", type=int, default=1, help="tensors are small: one is fastest")
    parser.add_argument("--out", type=Path, help="a JSON file for settings, signature and every number")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = run(experiment, tuple(range(args.first_seed, args.first_seed + args.seeds)))
    print(result.table())
    print(f"\nmean ± standard deviation over seeds {result.seeds}; {result.seconds:.0f} s")
    if args.out:
        args.out.write_text(json.dumps(result.as_dict(), indent=1) + "\n", encoding="utf-8")
        print(f"written: {args.out}")
    return 0
