"""PSFT (arXiv:2508.17784) on a language model: what SmolLM2-135M keeps while it learns one narrow task.

    python tests/claims/psft_language.py --out benchmarks/results/claims_psft_language.json
    python tests/claims/psft_language.py --methods sft --seeds 0 --steps 8

SmolLM2-135M-Instruct learns to sort digits, until it sorts a share of the held-out rows. Every few steps is measured,
on rows that are in no training: the task itself; the drift KL(policy || start) and the entropy on answers to everyday
questions; and a second task, sums, which the model could do before. Methods are compared where they sort equally well,
on the straight line between the two measurements around that point. SFT at a lower learning rate is the control for
a mere speed limit.

With --warmup both start from what so many updates by SFT have made of the model, as in the paper's optional warm-up;
drift is then counted from there.

Claimed: where it sorts as well as SFT, PSFT has drifted less, kept more entropy and lost less of the sums.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from intervals import over_seeds
from language import recipe, train, where_first
from rich.console import Console
from transformers import TrainerCallback

from trimtab.common.environment import environment
from trimtab.data.collate import length_sorted
from trimtab.data.rows import prepare
from trimtab.runs.job import Job, load_job
from trimtab.runs.policy import Shared
from trimtab.train.heldout import measure, summary

METHODS: dict[str, tuple[str, dict[str, Any], float]] = {
    "sft": ("sft", {}, 1.0),
    "psft": ("psft", {"epsilon": 0.28}, 1.0),
    "sft, slower": ("sft", {}, 0.5),
}
"""name -> method, options, share of the learning rate"""
MEASURES = ("kl_to_initial", "entropy", "second_nll", "second_accuracy")
CLAIMS = (("sft", "psft", "kl_to_initial"), ("psft", "sft", "entropy"), ("sft", "psft", "second_nll"))
"""(larger, smaller, measure)"""

Row = dict[str, str]


def digits(split: str, rows: int, seed: int = 0) -> list[Row]:
    """Sort five digits. What the digits are decides the split."""
    generator = random.Random(f"digits-{split}-{seed}")
    made: list[Row] = []
    while len(made) < rows:
        drawn = [generator.randrange(10) for _ in range(5)]
        if (sum(d * 10**i for i, d in enumerate(sorted(drawn))) % 7 == 0) == (split == "heldout"):
            sorted_text = " ".join(map(str, sorted(drawn)))
            made.append({"prompt": f"Sort: {' '.join(map(str, drawn))} ->", "completion": f" {sorted_text}"})
    return made


def sums(rows: int) -> list[Row]:
    """Sums of two digits after three examples, which say what is asked for."""
    generator = random.Random("sums")

    def one() -> tuple[str, str]:
        a, b = generator.randint(1, 9), generator.randint(1, 9)
        return f"{a} + {b} =", f" {a + b}"

    made = []
    for _ in range(rows):
        *shown, (asked, answer) = [one() for _ in range(4)]
        made.append({"prompt": "".join(f"{q}{a}\n" for q, a in shown) + asked, "completion": answer})
    return made


class Follow(TrainerCallback):
    """Measures every few steps and ends the training when the task is learnt."""

    def __init__(self, job: Job, tasks: dict[str, list[Row]], every: int, until: float):
        self.job, self.every, self.until = job, every, until
        self.tasks = {
            name: prepare(rows, job.tokenizer, max_length=256, source=name).rows for name, rows in tasks.items()
        }
        for row in self.tasks["second"]:  # the end after a sum is a habit of the first task and no sum
            row["input_ids"], row["labels"] = row["input_ids"][:-1], row["labels"][:-1]
        self.found = [self.measure(0)]

    def measure(self, step: int) -> dict[str, float]:
        job = self.job
        assert job.heldout is not None
        general = summary(self._rows(job.heldout.rows, job.heldout_signals))
        found = {"step": float(step), "kl_to_initial": general["kl_to_initial"], "entropy": general["entropy"]}
        for name, prepared in self.tasks.items():
            rows = self._rows(prepared)
            found[f"{name}_accuracy"] = sum(row["top1"] == row["tokens"] for row in rows.values()) / len(rows)
            found[f"{name}_nll"] = summary(rows)["nll"]
        return found

    def _rows(self, rows: list[dict[str, Any]], signals: Any = ()) -> dict[int, dict[str, float]]:
        return measure(self.job.policy, length_sorted(rows, self.job.collator, 16), signals)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.found.append(self.measure(state.global_step))
            control.should_training_stop = self.found[-1]["task_accuracy"] >= self.until


def job_of(name: str, seed: int, args: argparse.Namespace, folder: Path, policy: str, steps: int) -> Job:
    """The training of a method on fresh rows of the task."""
    method, options, share = METHODS[name]
    if method == "psft":
        options = {**options, "refresh": args.refresh}
    data = folder / f"{method}-{steps}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in digits("train", 16 * steps, seed)))
    tree = {
        "method": method,
        "options": options,
        "models": {"policy": policy, "teacher_cache": "memory"},
        "data": {"train": str(data), "heldout": "trimtab:everyday/heldout", "heldout_rows": 24},
        "training": {
            "per_device_train_batch_size": 16,
            "max_steps": steps,
            "learning_rate": share * args.learning_rate,
            "lr_scheduler_type": "constant_with_warmup",
        },
        "eval": {"kl_to_initial": True},
        "seed": seed,
        "output": str(folder / "run"),
    }
    return load_job(recipe(name, tree), Shared(), Console(quiet=True))


def warmed(seed: int, args: argparse.Namespace, folder: Path) -> str:
    """The model that the methods start from."""
    if not args.warmup:
        return "smollm2-135m"
    job = job_of("sft", seed + 1000, args, folder, "smollm2-135m", args.warmup)
    train(job)
    job.policy.save_pretrained(folder / "warmed")
    job.tokenizer.save_pretrained(folder / "warmed")
    return str(folder / "warmed")


def follow(name: str, seed: int, args: argparse.Namespace, folder: Path, policy: str) -> list[dict[str, float]]:
    """The measurements of one training."""
    job = job_of(name, seed, args, folder, policy, args.steps)
    tasks = {"task": digits("heldout", args.rows), "second": sums(args.rows)}
    path = Follow(job, tasks, args.every, args.until)
    train(job, callbacks=[path])
    return path.found


def lines(name: str, path: list[dict[str, float]]) -> Iterator[str]:
    yield f"{name}: " + " | ".join(path[0])
    for row in path:
        yield "  " + " | ".join(f"{value:.3f}" for value in row.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--warmup", type=int, default=0, help="updates by SFT before either method starts")
    parser.add_argument("--steps", type=int, default=64, help="at most")
    parser.add_argument("--every", type=int, default=4, help="steps between measurements")
    parser.add_argument("--until", type=float, default=0.65, help="accuracy at which training ends")
    parser.add_argument("--at", type=float, default=0.6, help="accuracy at which methods are compared")
    parser.add_argument("--rows", type=int, default=64, help="held-out rows of each task")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--refresh", type=int, default=8, help="updates of a window of PSFT")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    start = time.time()
    result: dict[str, Any] = {"settings": {**vars(args), "out": None}, "environment": environment(), "paths": {}}
    reached: dict[str, list[dict[str, float] | None]] = {}
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            policy = warmed(seed, args, Path(folder))
            for name in args.methods:
                path = follow(name, seed, args, Path(folder), policy)
                print(f"\nseed {seed}, {time.time() - start:.0f} s so far", *lines(name, path), sep="\n", flush=True)
                result["paths"].setdefault(name, []).append(path)
                reached.setdefault(name, []).append(where_first(path, "task_accuracy", args.at))
    print(f"\nwhere {args.at:g} of the held-out rows are sorted:")
    for name, found in reached.items():
        whole = [row for row in found if row]
        if len(whole) < len(found):
            print(f"{name}: {len(found) - len(whole)} of {len(found)} seeds did not get there")
        if whole:
            means = {m: sum(row[m] for row in whole) / len(whole) for m in ("step", *MEASURES)}
            print(f"{name}: " + ", ".join(f"{m} {value:.3f}" for m, value in means.items()))
    result["at"] = reached
    result["claims"] = {}
    for larger, smaller, name in CLAIMS:
        pairs = [(a, b) for a, b in zip(reached.get(larger, []), reached.get(smaller, [])) if a and b]
        if len(pairs) > 1:
            difference = over_seeds([a[name] - b[name] for a, b in pairs])
            verdict = "reproduced" if difference.low > 0 else "did not reproduce"
            result["claims"][f"{name}: {larger} over {smaller}"] = [verdict, list(difference)]
            print(f"{verdict}: {name} of {larger} minus {smaller} is {difference}")
    result["seconds"] = round(time.time() - start)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
