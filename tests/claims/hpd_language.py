"""HPD (arXiv:2604.20244) on a language model: SmolLM2-135M teaches 20 of its own 30 layers.

    python tests/claims/hpd_language.py --out hpd_language.json
    python tests/claims/hpd_language.py --smoke

Every method gets the same student, the same rows in the same order, the same optimizer and the same number of steps;
a seed fixes which rows are drawn, in which order, and what HPD draws. Measured on held-out rows, with intervals from a
bootstrap over seeds and rows at once (`intervals.over_seeds_and_rows`).

One control has to fail: a teacher whose distributions are permuted among the answer tokens of each batch.
"""

import argparse
import dataclasses
import gc
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import language
import numpy as np
import torch
from intervals import Interval, over_seeds_and_rows
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from trimtab.core import LazyLogits, Plan, Signal, TokenBatch
from trimtab.data.collate import length_sorted
from trimtab.runs.job import Job, load_job
from trimtab.runs.policy import Shared
from trimtab.runs.recipe import Recipe
from trimtab.train.heldout import measure, token_measures

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {}),
    "kd": ("kd", {"divergence": "forward_kl"}),
    "hpd": ("hpd", {}),
    "kd, shuffled": ("kd", {"divergence": "forward_kl"}),
}
SHUFFLED = {"kd, shuffled"}
MEASURES = ("forward_kl", "reverse_kl", "perplexity", "entropy", "agreement")
PAIRS = (
    *(("untrained", "kd"), ("untrained", "hpd"), ("sft", "kd"), ("kd, shuffled", "kd"), ("kd, shuffled", "sft")),
    *(("hpd", "sft"), ("hpd", "kd")),
)
CLAIMS = {
    "hpd keeps more entropy than sft": ("hpd", "sft", "entropy"),
    "hpd has a lower forward KL to the teacher than sft": ("sft", "hpd", "forward_kl"),
}
"""What the paper says of HPD and this size might show -> (method that is larger, method that is smaller, measure).
Reproduced is what has its whole 95% interval on the claimed side of zero."""


@dataclass(frozen=True)
class Budget:
    """How much is spent, all that a command line can change. The defaults fit into 25 minutes on two quiet cores."""

    seeds: int = 3
    steps: int = 18
    rows: int | None = None
    """Only the first rows of the training data; 18 steps of 8 rows use 144 of 211, other ones for each seed."""
    heldout_rows: int = 48
    layers: int = 20


@dataclass(frozen=True)
class Files:
    """Where teacher and rows come from."""

    teacher: str = "smollm2-135m"
    train: str = "trimtab:everyday/train"
    heldout: str = "trimtab:everyday/heldout"


SMOKE = Budget(seeds=2, steps=2, heldout_rows=5, layers=2)


class Shuffled(Signal):
    """A teacher whose hidden states are permuted among the answer tokens of the batch, anew at each call."""

    def __init__(self, signal: Any, seed: int):
        self.signal, self.provides = signal, signal.provides
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, policy: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, LazyLogits]:
        found = self.signal(policy, inputs)
        return {name: dataclasses.replace(lazy, hidden=self._permute(lazy.hidden)) for name, lazy in found.items()}

    def _permute(self, hidden: Tensor) -> Tensor:
        return hidden[torch.randperm(len(hidden), generator=self.generator).to(hidden.device)]


def recipe(name: str, seed: int, budget: Budget, files: Files, output: str) -> Recipe:
    """What `trimtab train` would be given."""
    method, options = METHODS[name]
    tree = {
        "method": method,
        "options": options,
        "models": {
            "student": {"from": "teacher", "layers": budget.layers},
            "teacher": files.teacher,
            "teacher_cache": "memory",
        },
        "data": {
            "train": files.train,
            "heldout": files.heldout,
            "rows": budget.rows,
            "heldout_rows": budget.heldout_rows,
        },
        "training": {"max_steps": budget.steps, "learning_rate": 3.0e-4, "adam_beta2": 0.95},
        "seed": seed,
        "output": output,
    }
    return language.recipe("hpd_language", tree)


def plan(job: Job, name: str) -> Plan:
    """The job's own, or with the teacher of the control."""
    if name not in SHUFFLED:
        return job.plan
    (teacher,) = job.plan.signals
    return dataclasses.replace(job.plan, signals=(Shuffled(teacher, seed=job.recipe.seed),))


Rows = dict[int, dict[str, float]]
"""held-out row -> sums over its answer tokens"""


def measure_policy(job: Job) -> Rows:
    """The held-out rows under the job's policy as it is now."""
    assert job.heldout is not None
    device = next(job.policy.parameters()).device
    return measure(job.policy, length_sorted(job.heldout.rows, job.collator, 8, device), job.heldout_signals)


@torch.no_grad()
def measure_teacher(job: Job) -> Rows:
    """The same measures of the teacher, from the states that it left: its entropy is what others are held against."""
    assert job.heldout is not None
    rows: Rows = {}
    for inputs in length_sorted(job.heldout.rows, job.collator, 8):
        teacher = job.heldout_signals[0](job.policy, inputs)["teacher"]
        batch = TokenBatch.from_labels(inputs["labels"], {"policy": teacher, "teacher": teacher})
        columns = token_measures(batch)
        for i, row_id in enumerate(inputs["row_id"].tolist()):
            sums = {name: column[batch.row == i].double().sum().item() for name, column in columns.items()}
            rows[row_id] = {"tokens": int(batch.lengths[i]), **sums}
    return dict(sorted(rows.items()))


@dataclass(frozen=True)
class Result:
    """Sums over the answer tokens of each held-out row, for every method and seed."""

    budget: Budget
    signature: dict[str, str]
    counts: NDArray[np.float64]
    """[R] answer tokens of each held-out row"""
    sums: dict[str, dict[str, NDArray[np.float64]]]
    """method -> measure -> [seeds, R]; a method that was not trained has one "seed\""""
    seconds: float

    def _table(self, name: str, measure: str) -> NDArray[np.float64]:
        table = self.sums[name]["nll" if measure == "perplexity" else measure]
        return np.broadcast_to(table, (self.budget.seeds, table.shape[1]))

    def interval(self, name: str, measure: str, minus: str | None = None) -> Interval:
        """Mean of a measure over tokens and seeds, or how much it exceeds that of the method `minus`."""
        other = None if minus is None else self._table(minus, measure)
        transform = np.exp if measure == "perplexity" else None
        return over_seeds_and_rows(self._table(name, measure), self.counts, other, transform=transform)

    def verdicts(self) -> dict[str, tuple[str, Interval]]:
        """claim -> "reproduced" or "did not reproduce", and the difference that says so."""
        found = {}
        for claim, (larger, smaller, name) in CLAIMS.items():
            difference = self.interval(larger, name, minus=smaller)
            found[claim] = ("reproduced" if difference.low > 0 else "did not reproduce", difference)
        return found

    def as_dict(self) -> dict[str, Any]:
        per_seed = {
            name: {measure: (self._table(name, measure).sum(axis=1) / self.counts.sum()).tolist() for measure in tables}
            for name, tables in self.sums.items()
        }
        return {
            "experiment": "hpd_language",
            "signature": self.signature,
            "budget": dataclasses.asdict(self.budget),
            "methods": METHODS,
            "heldout": {"rows": len(self.counts), "answer_tokens": int(self.counts.sum())},
            "seconds": round(self.seconds, 1),
            "means": {name: {m: list(self.interval(name, m)) for m in MEASURES} for name in self.sums},
            "per_seed": per_seed,
            "differences": {f"{a} - {b}": {m: list(self.interval(a, m, minus=b)) for m in MEASURES} for a, b in PAIRS},
            "verdicts": {claim: [verdict, list(interval)] for claim, (verdict, interval) in self.verdicts().items()},
        }


def run(budget: Budget | None = None, files: Files | None = None) -> Result:
    """All methods at all seeds; one line is printed for each."""
    budget, files = budget or Budget(), files or Files()
    start = time.perf_counter()
    shared, quiet = Shared(), Console(quiet=True)
    found: dict[str, list[Rows]] = {}
    signature: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(budget.seeds):
            for name in METHODS:
                job = load_job(recipe(name, seed, budget, files, folder), shared, quiet)
                if not found:
                    signature = _common(job.signature)
                    found = {"teacher": [measure_teacher(job)], "untrained": [measure_policy(job)]}
                language.train(job, plan(job, name))
                found.setdefault(name, []).append(measure_policy(job))
                del job
                gc.collect()  # a trainer and its model know each other: 1.6 GB would wait for the next one
                rows = found[name][-1].values()
                mean = sum(row["forward_kl"] for row in rows) / sum(row["tokens"] for row in rows)
                seconds = time.perf_counter() - start
                print(f"seed {seed}, {name}: forward_kl {mean:.3f} ({seconds:.0f} s so far)", flush=True)
    first = found["untrained"][0]
    counts = np.array([row["tokens"] for row in first.values()], dtype=np.float64)
    names = [name for name in next(iter(first.values())) if name != "tokens"]
    sums = {
        method: {name: np.array([[row[name] for row in rows.values()] for rows in seeds]) for name in names}
        for method, seeds in found.items()
    }
    return Result(budget, signature, counts, sums, time.perf_counter() - start)


def _common(signature: Mapping[str, str]) -> dict[str, str]:
    """What all runs share of a job's signature; method, options and seed stand elsewhere."""
    return {key: value for key, value in signature.items() if key not in ("method", "options", "seed")}


def tables(result: Result) -> str:
    """Two Markdown tables with 95% intervals, and the verdicts."""
    header = [f" | {' | '.join(MEASURES)} |", f"|---|{'---|' * len(MEASURES)}"]

    def cell(interval: Interval, sign: str) -> str:
        return f"{interval.estimate:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"

    lines = ["| method" + header[0], header[1]]
    for name in result.sums:
        lines.append(f"| {name} | {' | '.join(cell(result.interval(name, m), '') for m in MEASURES)} |")
    lines += ["", "| difference" + header[0], header[1]]
    for a, b in PAIRS:
        lines.append(f"| {a} - {b} | {' | '.join(cell(result.interval(a, m, minus=b), '+') for m in MEASURES)} |")
    lines.append("")
    lines += [f"{verdict}: {claim} ({interval})" for claim, (verdict, interval) in result.verdicts().items()]
    return "\n".join(lines)


def smoke() -> Result:
    """The whole script with a tiny random teacher, in seconds; its numbers mean nothing."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import tiny_folder

    with tempfile.TemporaryDirectory() as folder:
        root = tiny_folder.lay_out(Path(folder) / "files")
        files = Files(str(root / "teacher"), str(root / "train.jsonl"), str(root / "heldout.jsonl"))
        result = run(SMOKE, files)
    hidden = {"policy", "teacher", "training data", "held-out data"}  # named by folders that are gone
    signature = {key: value for key, value in result.signature.items() if key not in hidden}
    return dataclasses.replace(result, signature=signature)


def main() -> int:
    standard = Budget()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=standard.steps, help="of 8 rows, for every method and seed")
    parser.add_argument("--seeds", type=int, default=standard.seeds, help="0, 1, ...")
    parser.add_argument("--rows", type=int, default=standard.rows, help="only the first training rows (default: all)")
    parser.add_argument("--heldout-rows", type=int, default=standard.heldout_rows)
    parser.add_argument("--layers", type=int, default=standard.layers, help="of the teacher's that the student keeps")
    parser.add_argument("--threads", type=int, help="of torch; its own choice if not given")
    parser.add_argument("--out", type=Path, help="a JSON file for budget, signature and numbers")
    parser.add_argument("--smoke", action="store_true", help="a tiny random teacher: tests the script, means nothing")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.smoke:
        result = smoke()
    else:
        result = run(Budget(args.seeds, args.steps, args.rows, args.heldout_rows, args.layers))
    if args.smoke:
        print("smoke run with a random teacher: the script works, the numbers mean nothing")
    print(tables(result))
    print(f"\n95% intervals: bootstrap over {result.budget.seeds} seeds and {len(result.counts)} held-out rows", end="")
    print(f" ({result.counts.sum():.0f} answer tokens); {result.seconds:.0f} s")
    for key, value in result.signature.items():
        print(f"    {key}: {value}")
    if args.out:
        args.out.write_text(json.dumps(result.as_dict(), indent=1) + "\n", encoding="utf-8")
        print(f"written: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
