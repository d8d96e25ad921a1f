"""The Markov experiment of HPD (arXiv:2604.20244): a small student learns from an MLP that knows an order-2 source.

    python tests/claims/markov.py --seeds 3 --out hpd_markov.json

Everything that the paper's claims are about can be computed here to the last digit in minutes on one core: the
teacher's distribution is known in every context, and a student can be sampled as often as one likes.

The source is a table of 24 x 24 contexts by 24 tokens with independent Gaussian logits, so a small student cannot
store it and must choose what it gets wrong. A seed fixes the source, the teacher, its samples, the student's
first weights and the order of the batches. So all methods of one seed are paired, and what differs between seeds is
the whole problem and not only the order of the data.
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from intervals import Interval, over_seeds
from torch import Tensor, nn

from trimtab import __version__, methods
from trimtab.core import IGNORE, Signal, TokenBatch, reduce, weights
from trimtab.core.draws import inverse_cdf
from trimtab.train.heldout import token_measures

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {}),
    "seqkd": ("hpd", {"weighting": "seqkd"}),
    "one-hot rkl": ("hpd", {"weighting": "reverse_kl"}),
    "full fkl": ("kd", {"divergence": "forward_kl"}),
    "full rkl": ("kd", {"divergence": "reverse_kl"}),
    "hpd": ("hpd", {}),
    "hpd, no sampling": ("hpd", {"student_sampling": False}),
    "hpd, no reinforce": ("hpd", {"reinforce": False}),
}
SHUFFLED = {"full fkl, shuffled": "full fkl", "hpd, shuffled": "hpd"}
"""Controls that must fail: the teacher's distributions are permuted among the answer tokens of each batch."""
UNTRAINED = "untrained"
MEASURES = ("forward_kl", "reverse_kl", "entropy", "free_run_nll", "nll")
TUNING_SEEDS = (100, 101, 102)
"""Settings were chosen on these, by the baselines `sft` and `full fkl` alone; the claims are about seeds from 0 on."""


@dataclass(frozen=True)
class Settings:
    """What all seeds and methods share."""

    vocab: int = 24
    sharpness: float = 2.0
    """Standard deviation of the source's logits; 2 gives it an entropy of 1.92 nats."""
    teacher_width: int = 256
    teacher_steps: int = 1500
    teacher_tokens: int = 16_384
    """Source tokens that the teacher learns from, for each context: plenty, so it lies close to the source."""
    embedding: int = 16
    """Numbers of the student for each of the two tokens of a context."""
    width: int = 32
    """Hidden units of the student."""
    samples: int = 512
    """Sequences drawn from the teacher."""
    length: int = 20
    """Tokens of a sequence that are learnt; two uniformly drawn ones come before them as its prompt."""
    steps: int = 2500
    learning_rate: float = 2e-3
    batch: int = 64
    """Sequences in an update."""
    heldout: int = 4096
    """Fresh sequences that are measured on, and as many are drawn from the student. An order-2 source over 24 tokens
    has only 576 contexts, so the sequences are new but most of their contexts are not."""


class MLP(nn.Module):
    """The next token from the two before it."""

    def __init__(self, vocab: int, embedding: int, width: int):
        super().__init__()
        self.embed = nn.Embedding(2 * vocab, embedding)  # a table of its own for each of the two places
        self.body = nn.Sequential(nn.Linear(2 * embedding, width), nn.ReLU(), nn.Linear(width, vocab))
        self.vocab = vocab

    def forward(self, ids: Tensor) -> Tensor:
        """[B, T] -> [B, T, V]; logits[b, t] predict token t + 1. At t = 0 there is one token only: never used."""
        before = torch.cat([ids[:, :1], ids[:, :-1]], dim=1)
        return self.body(torch.cat([self.embed(before), self.embed(ids + self.vocab)], dim=-1))

    @torch.no_grad()
    def table(self) -> Tensor:
        """[V, V, V] probabilities of the next token in every context."""
        grid = torch.cartesian_prod(torch.arange(self.vocab), torch.arange(self.vocab))  # [V * V, 2]
        return self(grid)[:, 1].softmax(dim=-1).view(self.vocab, self.vocab, self.vocab)


class Teacher(Signal):
    """The plan's teacher; the loop below hands its logits over itself."""

    provides = frozenset({"teacher"})


def make_source(settings: Settings, generator: torch.Generator) -> Tensor:
    """[V, V, V] probabilities."""
    shape = (settings.vocab,) * 3
    return (settings.sharpness * torch.randn(shape, generator=generator)).softmax(dim=-1)


def train_teacher(source: Tensor, settings: Settings, generator: torch.Generator) -> MLP:
    """Maximum likelihood on the source's tokens, all in each step (as counts), learning rate falling to zero."""
    teacher = MLP(settings.vocab, settings.teacher_width // 4, settings.teacher_width)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.teacher_steps)
    contexts = torch.cartesian_prod(torch.arange(settings.vocab), torch.arange(settings.vocab))  # [V * V, 2]
    tokens = source.view(-1, settings.vocab).multinomial(settings.teacher_tokens, True, generator=generator)
    counts = torch.stack([row.bincount(minlength=settings.vocab) for row in tokens])
    shares = counts / settings.teacher_tokens  # [V * V, V]
    for _ in range(settings.teacher_steps):
        loss = nn.functional.cross_entropy(teacher(contexts)[:, 1], shares)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return teacher.requires_grad_(False)


def sample(table: Tensor, prompts: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Sequences [B, 2 + length] that go on from `prompts` [B, 2]."""
    ids = prompts
    for _ in range(length):
        uniform = torch.rand(len(ids), generator=generator)
        token = inverse_cdf(table[ids[:, -2], ids[:, -1]], uniform)
        ids = torch.cat([ids, token[:, None]], dim=1)
    return ids


def labels_of(ids: Tensor) -> Tensor:
    """The prompt of two tokens is no answer."""
    labels = ids.clone()
    labels[:, :2] = IGNORE
    return labels


def shuffled(batch: TokenBatch, generator: torch.Generator) -> TokenBatch:
    """The same tokens, each with the teacher's distribution of another."""
    order = torch.randperm(len(batch), generator=generator)
    return batch.with_signals(teacher=batch.signals["teacher"][order])


def train_student(student: MLP, name: str, ids: Tensor, teacher_logits: Tensor, settings: Settings, seed: int) -> None:
    """Adam steps of the objective called `name`; the order of the batches depends on the seed alone."""
    method_name, options = METHODS[SHUFFLED.get(name, name)]
    method = methods.load(method_name)
    models = {role: Teacher() for role in method.requirements(method.config()).provides}
    plan = method.build(method.config.model_validate(options), student, **models)
    order = torch.Generator().manual_seed(1000 + seed)
    permutation = torch.Generator().manual_seed(2000 + seed)
    labels = labels_of(ids)
    optimizer = torch.optim.Adam(student.parameters(), lr=settings.learning_rate, fused=True)
    for step in range(settings.steps):
        rows = torch.randperm(len(ids), generator=order)[: settings.batch]
        signals = {"teacher": teacher_logits[rows]}
        batch = TokenBatch.align(student(ids[rows]), labels[rows], signals, row_id=rows, seed=seed, step=step)
        if name in SHUFFLED:
            batch = shuffled(batch, permutation)
        loss = reduce(plan.objective(batch), weights(batch, plan.reduction))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def measure(student: MLP, teacher: MLP, heldout: Tensor, settings: Settings, seed: int) -> dict[str, float]:
    """Means over the answer tokens: of the teacher's fresh sequences, and of the student's own."""
    batch = TokenBatch.align(student(heldout), labels_of(heldout), {"teacher": teacher(heldout)})
    found = {name: value.mean().item() for name, value in token_measures(batch).items()}
    generator = torch.Generator().manual_seed(3000 + seed)
    own = sample(student.table(), heldout[:, :2], settings.length, generator)
    found["free_run_nll"] = -TokenBatch.align(teacher(own), labels_of(own)).logprobs().mean().item()
    return {name: found[name] for name in MEASURES}


def run_seed(seed: int, settings: Settings, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """method -> measure -> value, with the rows "teacher" (what a perfect student would reach) and "untrained"."""
    generator = torch.Generator().manual_seed(seed)
    source = make_source(settings, generator)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        teacher = train_teacher(source, settings, generator)
        first = MLP(settings.vocab, settings.embedding, settings.width)
    table = teacher.table()

    def draw(count: int) -> Tensor:
        prompts = torch.randint(settings.vocab, (count, 2), generator=generator)
        return sample(table, prompts, settings.length, generator)

    ids, heldout = draw(settings.samples), draw(settings.heldout)
    teacher_logits = teacher(ids)
    rows = {
        "teacher": measure(teacher, teacher, heldout, settings, seed),
        UNTRAINED: measure(first, teacher, heldout, settings, seed),
    }
    for name in names:
        student = MLP(settings.vocab, settings.embedding, settings.width)
        student.load_state_dict(first.state_dict())
        train_student(student, name, ids, teacher_logits, settings, seed)
        rows[name] = measure(student, teacher, heldout, settings, seed)
    return rows


@dataclass(frozen=True)
class Result:
    """The measures of every method at every seed."""

    settings: Settings
    seeds: tuple[int, ...]
    rows: dict[str, dict[str, list[float]]]
    """method -> measure -> one value a seed"""
    seconds: float

    def mean(self, name: str, measure: str) -> float:
        values = self.rows[name][measure]
        return sum(values) / len(values)

    def difference(self, name: str, other: str, measure: str) -> Interval:
        """How much `name` exceeds `other`, paired by seed, with the 95% interval of Student's t over the seeds."""
        return over_seeds([a - b for a, b in zip(self.rows[name][measure], self.rows[other][measure])])

    def as_dict(self) -> dict[str, Any]:
        return {
            "experiment": "hpd_markov",
            "signature": signature(),
            "settings": dataclasses.asdict(self.settings),
            "seeds": list(self.seeds),
            "seconds": round(self.seconds, 1),
            "methods": {name: {"method": METHODS[SHUFFLED.get(name, name)]} for name in (*METHODS, *SHUFFLED)},
            "means": {name: {m: self.mean(name, m) for m in MEASURES} for name in self.rows},
            "per_seed": self.rows,
            "hpd_minus": {
                name: {m: list(self.difference("hpd", name, m)) for m in MEASURES}
                for name in self.rows
                if name != "hpd" and "hpd" in self.rows
            },
        }


def run(
    seeds: tuple[int, ...], settings: Settings | None = None, names: tuple[str, ...] = (*METHODS, *SHUFFLED)
) -> Result:
    """All methods at all seeds."""
    settings = settings or Settings()
    start = time.perf_counter()
    found = [run_seed(seed, settings, names) for seed in seeds]
    rows = {name: {m: [one[name][m] for one in found] for m in MEASURES} for name in found[0]}
    return Result(settings, seeds, rows, time.perf_counter() - start)


def signature() -> dict[str, str]:
    """What the numbers depend on besides settings and seeds."""
    return {
        "trimtab": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "hardware": f"CPU, {torch.get_num_threads()} threads; {platform.machine()}, {os.cpu_count()} cores",
    }


def table(result: Result) -> str:
    """Means over seeds, with the standard deviation over seeds where there are several."""

    def cell(values: list[float]) -> str:
        mean = sum(values) / len(values)
        spread = torch.tensor(values).std().item() if len(values) > 1 else 0.0
        return f"{mean:.3f} ± {spread:.3f}"

    lines = [f"| method | {' | '.join(MEASURES)} |", f"|---|{'---|' * len(MEASURES)}"]
    rows: Mapping[str, Mapping[str, list[float]]] = result.rows
    lines += [f"| {name} | {' | '.join(cell(values[m]) for m in MEASURES)} |" for name, values in rows.items()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many, from --first-seed on")
    parser.add_argument("--first-seed", type=int, default=0, help=f"settings were tuned on {TUNING_SEEDS}")
    parser.add_argument("--threads", type=int, default=1, help="tensors are small: one is fastest")
    parser.add_argument("--out", type=Path, help="a JSON file for settings, signature and every number")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = run(tuple(range(args.first_seed, args.first_seed + args.seeds)))
    print(table(result))
    print(f"\nmean ± standard deviation over seeds {result.seeds}; {result.seconds:.0f} s")
    if args.out:
        args.out.write_text(json.dumps(result.as_dict(), indent=1) + "\n", encoding="utf-8")
        print(f"written: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
