"""HPD (arXiv:2604.20244) where its paper places it: a warmed student, tuned rates, long answers, some of them its own.

    python tests/claims/hpd_fair.py sums --out claims_hpd_fair.json
    python tests/claims/hpd_fair.py smollm2 --out claims_hpd_fair_smollm2.json

"sums": a model of 0.8 million weights learns long sums (`chains.py`) and teaches two of its own four layers, warmed by
SFT on its completions of other tasks. "smollm2": SmolLM2-135M teaches 10 of its own 30 layers after a recovery by SFT.

Every method trains the same warmed student with as many rows: completions of the teacher, and for a share of the
prompts completions of the warmed student itself (not for sft, which would learn its own errors; its rows are all the
teacher's). The learning rate is chosen for each method on a student (seed 100), rows and tasks of its own, with a
ladder that goes on while its end is best; then half the length is tried at that rate. What is chosen has the smallest
forward + reverse KL to the teacher on the tuning split ("kl"), or the most correct samples there ("accuracy").
The chosen settings are trained on every seed (another student, other own completions, another order) and measured on
held-out rows and tasks once. Intervals: bootstrap over seeds and rows at once.

Claimed by the paper: nearer to the teacher than sft and with more entropy; more accurate than sft and kd. Each cell is
kept in the work folder as it is measured, and the same command goes on from there.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import hpd_worlds
import language
import numpy as np
import torch
from hpd_worlds import World
from intervals import Interval, over_seeds_and_rows
from rich.console import Console

from trimtab.common.environment import environment
from trimtab.data.collate import length_sorted
from trimtab.data.sources import load_rows
from trimtab.decoding._texts import generate_texts
from trimtab.rewards.final import is_correct
from trimtab.runs.job import Job, load_job
from trimtab.runs.policy import Shared
from trimtab.train.heldout import measure

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {}),
    "forward KL": ("kd", {"divergence": "forward_kl"}),
    "reverse KL": ("kd", {"divergence": "reverse_kl"}),
    "JSD": ("kd", {"divergence": "jsd"}),
    "AKL": ("kd", {"divergence": "akl"}),
    "ToDi": ("kd", {"divergence": "todi"}),
    "ABKL": ("kd", {"divergence": "abkl"}),
    "hpd": ("hpd", {}),
}
WARMED, TEACHER = "warmed", "teacher"
"""rows of the table that no method trains: the student as every method finds it, and the teacher"""
LADDER = tuple(float(f"{base}e{power}") for power in range(-6, 0) for base in (1, 3))
"""learning rates, each about three times the one before"""
TUNING_SEED = 100
TOKENS = ("forward_kl", "reverse_kl", "entropy", "nll", "agreement")
"""measures per answer token of the teacher's held-out completions"""
TASKS = ("greedy", "sampled")
"""shares of held-out tasks solved"""


class Cell(NamedTuple):
    """One training of one warmed student."""

    method: str
    rate: float
    steps: int
    """0: what is there before"""
    seed: int
    share: float
    """of prompts with completions of the warmed student"""
    split: str

    def __str__(self) -> str:
        return f"{self.method} at {self.rate:g}, {self.steps} steps, own {self.share:g}, seed {self.seed}, {self.split}"


@dataclass
class Bench:
    """A world with what has been measured in it so far."""

    world: World
    folder: Path
    methods: Sequence[str] = tuple(METHODS)
    shared: Shared = field(default_factory=Shared)
    found: dict[Cell, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                stored = json.loads(line)
                self.found[Cell(*stored.pop("cell"))] = stored

    @property
    def path(self) -> Path:
        return self.folder / "cells.jsonl"

    def cell(self, method: str, rate: float, steps: int, seed: int, share: float | None = None) -> Cell:
        own = self.world.share if share is None else share
        split = "tuning" if seed == TUNING_SEED else "heldout"
        return Cell(method, rate, steps, seed, 0.0 if method in ("sft", WARMED, TEACHER) else own, split)

    def measured(self, cell: Cell) -> dict[str, Any]:
        """Sums over rows and verdicts over tasks of a cell, trained now if it is not known."""
        if cell not in self.found:
            start = time.perf_counter()
            self.found[cell] = {**self._carried_out(cell), "seconds": round(time.perf_counter() - start, 1)}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"cell": list(cell), **self.found[cell]}) + "\n")
            print(f"{cell}: {shown(self.found[cell])}", flush=True)
        return self.found[cell]

    def _carried_out(self, cell: Cell) -> dict[str, Any]:
        world, heldout = self.world, self.world.completions(self.folder, cell.split)
        teacher = world.teacher_of(self.folder)
        method, options = METHODS.get(cell.method, ("sft", {}))
        tree = {
            "method": method,
            "options": options,
            "models": {
                "policy": str(teacher if cell.method == TEACHER else world.student(self.folder, cell.seed)),
                "teacher": str(teacher),
                "teacher_cache": "memory",
            },
            "data": {"train": str(world.rows(self.folder, cell.seed, cell.share)), "heldout": str(heldout)},
            "training": {
                **world.training, "max_steps": max(cell.steps, 1), "learning_rate": cell.rate,
                "warmup_steps": max(2, cell.steps // 20),
            },
            "seed": cell.seed,
            "output": str(self.folder / "none"),
        }  # fmt: skip
        job = load_job(language.recipe("hpd_fair", tree), self.shared, Console(quiet=True))
        if cell.steps:
            language.train(job)
        job.policy.eval()
        return {**token_sums(job), **self._solved(job, cell)}

    def _solved(self, job: Job, cell: Cell) -> dict[str, list[int]]:
        if not self.world.judged:
            return {}
        tasks = load_rows(str(self.world.tasks(self.folder, cell.split)))
        asked, answers = [hpd_worlds.question(row) for row in tasks], [row["answer"] for row in tasks]
        found = {}
        for name in TASKS:
            drawn = {"do_sample": True, "temperature": 1.0} if name == "sampled" else {}
            with torch.random.fork_rng():
                torch.manual_seed(cell.seed)
                texts = generate_texts(job.policy, job.tokenizer, asked, self.world.longest, **drawn)
            found[name] = [int(is_correct(text.text, answer)) for text, answer in zip(texts, answers, strict=True)]
        return found


def token_sums(job: Job) -> dict[str, list[float]]:
    """measure -> sum over the answer tokens of each held-out row, and how many these are."""
    assert job.heldout is not None
    device = next(job.policy.parameters()).device
    rows = measure(job.policy, length_sorted(job.heldout.rows, job.collator, 64, device), job.heldout_signals)
    return {name: [round(row[name], 5) for row in rows.values()] for name in ("tokens", *TOKENS)}


def means(found: dict[str, Any]) -> dict[str, float]:
    tokens = sum(found["tokens"])
    solved = {name: float(np.mean(found[name])) for name in TASKS if name in found}
    return {name: sum(found[name]) / tokens for name in TOKENS} | solved


def shown(found: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in means(found).items()) + f"  ({found['seconds']} s)"


CRITERIA = {
    "kl": lambda mean: -(mean["forward_kl"] + mean["reverse_kl"]),
    "accuracy": lambda mean: mean.get("sampled", -np.inf),
}


def tuned(bench: Bench, method: str) -> dict[str, Cell]:
    """criterion -> the best cell of the tuning seed."""
    return {name: _tuned(bench, method, name) for name in bench.world.criteria}


def _tuned(bench: Bench, method: str, criterion: str) -> Cell:
    def value(cell: Cell) -> float:
        return CRITERIA[criterion](means(bench.measured(cell)))

    def at(place: int) -> Cell:
        return bench.cell(method, LADDER[place], bench.world.steps, TUNING_SEED)

    tried = [LADDER.index(bench.world.rate)]
    while True:
        best = max(tried, key=lambda place: value(at(place)))  # the first one tried, of equal ones
        further = [place for place in (best + 1, best - 1) if 0 <= place < len(LADDER) and place not in tried]
        if not further:
            break
        tried += further
    if not bench.world.halves:
        return at(best)
    half = at(best)._replace(steps=bench.world.steps // 2)
    return max(at(best), half, key=value)


def finals(bench: Bench, chosen: dict[str, dict[str, Cell]]) -> Iterator[tuple[str, str, list[Cell]]]:
    """Criterion, name and the cells of all seeds; those that the world trains without own completions too."""
    for criterion in CRITERIA:
        for method, cells in chosen.items():
            if criterion in cells:
                best = cells[criterion]
                yield criterion, method, [bench.cell(method, best.rate, best.steps, s) for s in bench.world.seeds]
    for method in bench.world.without_own:
        best = chosen[method]["kl"]
        cells = [bench.cell(method, best.rate, best.steps, seed, share=0.0) for seed in bench.world.seeds]
        yield "kl", f"{method}, teacher's rows alone", cells


def interval(bench: Bench, cells: Sequence[Cell], name: str, minus: Sequence[Cell] | None = None) -> Interval:
    """Mean over tokens or tasks and seeds, or by how much it is above that of other cells."""

    def table(of: Sequence[Cell]) -> list[list[float]]:
        return [bench.measured(cell)[name] for cell in of]

    first = bench.measured(cells[0])
    counts = [1.0] * len(first[name]) if name in TASKS else first["tokens"]
    return over_seeds_and_rows(table(cells), counts, None if minus is None else table(minus))


def result(bench: Bench) -> dict[str, Any]:
    """All cells, by seed and criterion."""
    start = time.perf_counter()
    chosen = {method: tuned(bench, method) for method in bench.methods}
    rows = list(finals(bench, chosen))
    for seed in bench.world.seeds:  # a seed is whole before the next begins
        for _, _, cells in rows:
            bench.measured(next(cell for cell in cells if cell.seed == seed))
    measures = (*TOKENS, *(TASKS if bench.world.judged else ()))
    given = {name: [bench.cell(name, 0.0, 0, seed) for seed in bench.world.seeds] for name in (TEACHER, WARMED)}
    tables: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    for criterion in dict.fromkeys(name for name, _, _ in rows):
        own = given | {name: cells for kind, name, cells in rows if kind == criterion}
        tables[criterion] = {name: {m: list(interval(bench, c, m)) for m in measures} for name, c in own.items()}
        differences[criterion] = {
            f"{mine} - {name}": {m: list(interval(bench, own[mine], m, minus=cells)) for m in measures}
            for mine in own if mine.startswith("hpd")
            for name, cells in own.items() if name != TEACHER and not name.startswith(mine)
        }  # fmt: skip
    first = bench.measured(given[WARMED][0])
    return {
        "experiment": "hpd_fair",
        "world": asdict(bench.world) | {"name": bench.world.name},
        "environment": environment(),
        "methods": {name: list(METHODS[name]) for name in bench.methods},
        "chosen": {method: {k: [c.rate, c.steps] for k, c in cells.items()} for method, cells in chosen.items()},
        "tuning": [
            {"cell": list(cell), **{k: round(v, 5) for k, v in means(found).items()}}
            for cell, found in bench.found.items() if cell.split == "tuning"
        ],
        "per_seed": [
            {"cell": list(cell), **{k: round(v, 5) for k, v in means(found).items()}}
            for cell, found in bench.found.items() if cell.split == "heldout"
        ],
        "heldout": {"rows": len(first["tokens"]), "answer_tokens": sum(first["tokens"])},
        "means": tables,
        "differences": differences,
        "seconds": round(sum(found["seconds"] for found in bench.found.values())),
        "seconds of this call": round(time.perf_counter() - start),
    }  # fmt: skip


def written(found: dict[str, Any]) -> str:
    """Markdown tables: means, and how much hpd is above each other method."""
    lines = []
    for criterion, rows in found["means"].items():
        names = list(next(iter(rows.values())))
        head = [f" | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
        for title, table, sign in (
            (f"chosen by {criterion}", rows, ""), ("difference", found["differences"][criterion], "+"),
        ):  # fmt: skip
            lines += ["", f"| {title}{head[0]}", head[1]]
            lines += [f"| {name} | {' | '.join(_cell(row[m], sign) for m in names)} |" for name, row in table.items()]
    return "\n".join(lines)


def _cell(three: Sequence[float], sign: str) -> str:
    estimate, low, high = (f"{value:{sign}.3f}" for value in three)
    return f"{estimate} [{low}, {high}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=hpd_worlds.WORLDS)
    parser.add_argument("--work", type=Path, help="folder for models, rows and cells (runs/hpd_fair/WORLD)")
    parser.add_argument(
        "--methods", nargs="+", choices=tuple(METHODS), help="all that the world compares, if not given"
    )
    parser.add_argument("--alone", action="store_true", help="hpd also on the teacher's completions alone")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes in a folder that goes: tests the script alone")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    world = hpd_worlds.WORLDS[args.world]
    with tempfile.TemporaryDirectory() as place:
        work = Path(place) if args.smoke else args.work or Path("runs/hpd_fair") / args.world
        world = world.smoke() if args.smoke else world
        world = world if args.alone else replace(world, without_own=())
        bench = Bench(world, work, args.methods or world.methods)
        found = result(bench)
        gc.collect()
    print(written(found))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
