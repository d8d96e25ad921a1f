"""WSPO (arXiv:2410.18640) on a Markov source: a strong model is given what alignment did to a weak one.

    python tests/claims/wspo_markov.py --out benchmarks/results/claims_wspo_markov.json

A weak and a strong model learn the source; the weak one is aligned with DPO towards good tokens. The strong one is
then trained on its own answers for several gamma, at the level of tokens and of whole answers. Two controls must fail:
a weak pair that is one model, and the weak pair exchanged.
"""

import copy
import sys
from dataclasses import dataclass
from typing import Any

import markov
import torch
from torch import Tensor
from toys import (
    Experiment,
    Frozen,
    Measures,
    ToyLM,
    batches,
    build,
    fit,
    good_rate,
    main,
    preferences,
    train,
)

GAMMAS = (2.0, 1.0, 0.5, 0.25, 0.1)


@dataclass(frozen=True)
class Settings:
    vocab: int = 16
    sharpness: float = 1.0
    """Standard deviation of the source's logits."""
    length: int = 20
    samples: int = 1024
    weak_width: int = 32
    strong_width: int = 128
    pretraining: int = 600
    """Adam steps at 5e-3 on 64 sequences of the source, for both models."""
    alignment: int = 90
    """Adam steps of DPO at 2e-3 on 64 pairs of the weak model's own answers."""
    beta: float = 0.1
    steps: int = 600
    """Of WSPO, on 64 of the strong model's own answers."""
    learning_rate: float = 1e-3


@torch.no_grad()
def kl_to(table: Tensor, start: Tensor, prompts: Tensor, length: int, seed: int) -> float:
    """KL(policy || start) at a token, over the policy's own text."""
    ids = markov.sample(table, prompts, length, torch.Generator().manual_seed(4000 + seed))
    kl = (table * (table.clamp(min=1e-30).log() - start.log())).sum(-1)
    return kl[ids[:, :-2], ids[:, 1:-1]].mean().item()


def run_seed(seed: int, settings: Settings) -> dict[str, Measures]:
    generator = torch.Generator().manual_seed(seed)
    source = markov.make_source(settings, generator)  # type: ignore[arg-type]

    def prompts(count: int) -> Tensor:
        return torch.randint(settings.vocab, (count, 2), generator=generator)

    data = markov.sample(source, prompts(2048), settings.length, generator)
    weak, strong = (ToyLM(settings.vocab, width // 4, width) for width in (settings.weak_width, settings.strong_width))
    for model in (weak, strong):
        fit(model, data, 64, settings.pretraining, 5e-3, seed)
    twice = prompts(settings.samples).repeat_interleave(2, 0)
    pairs = preferences(markov.sample(weak.table(), twice, settings.length, generator), settings.vocab)
    aligned = copy.deepcopy(weak)
    dpo = build("dpo", {"beta": settings.beta}, aligned, reference=Frozen(weak, "reference"))
    train(aligned, dpo, batches(pairs, 64, settings.alignment, seed, together=2), 2e-3)

    answers = markov.sample(strong.table(), prompts(settings.samples), settings.length, generator)
    measured = prompts(512)

    def measure(model: ToyLM, start: ToyLM) -> Measures:
        table = model.table()
        return {
            "rate": good_rate(table, measured, settings.length, seed),
            "kl": kl_to(table, start.table(), measured, settings.length, seed),
        }

    def tune(before: ToyLM, after: ToyLM, **options: Any) -> Measures:
        policy = copy.deepcopy(strong)
        weak_pair = {"weak_reference": Frozen(before, "weak_reference"), "weak_aligned": Frozen(after, "weak_aligned")}
        plan = build("wspo", options, policy, reference=Frozen(strong, "reference"), **weak_pair)
        train(policy, plan, batches(answers, 64, settings.steps, seed), settings.learning_rate)
        return measure(policy, strong)

    rows = {
        "untrained": measure(strong, strong),
        "weak": measure(weak, weak),
        "weak, aligned": measure(aligned, weak),
    }
    for gamma in GAMMAS:
        rows[f"token, {gamma:g}"] = tune(weak, aligned, gamma=gamma)
    for gamma in GAMMAS:
        rows[f"sequence_mean, {gamma:g}"] = tune(weak, aligned, gamma=gamma, level="sequence_mean")
    rows["weak pair of one model, 0.5"] = tune(weak, weak, gamma=0.5)
    rows["weak pair exchanged, 0.5"] = tune(aligned, weak, gamma=0.5)
    for row in rows.values():
        row["rate_error"] = abs(row["rate"] - rows["weak, aligned"]["rate"])
    return rows


EXPERIMENT = Experiment("wspo_markov", run_seed, Settings(), __doc__)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT, seeds=5))
