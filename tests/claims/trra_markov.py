"""TrRa (arXiv:2506.12704) on a Markov source: does one model learn what two models' mixed logits say?

    python tests/claims/trra_markov.py --out benchmarks/results/claims_trra_markov.json

A reference is trained on the source and aligned with DPO until nearly all of its tokens are good. For each strength a
student starts from the reference and learns from the fused teacher; it is held against decoding with both models. As a
contrast the loss that was released with the paper is written out here: its softmax runs over positions.
"""

import copy
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
    good,
    good_rate,
    inputs_of,
    main,
    preferences,
    train,
)

from trimtab.core import TokenBatch
from trimtab.objectives.divergence import forward_kl

STRENGTHS = (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class Settings:
    vocab: int = 16
    sharpness: float = 1.0
    """Standard deviation of the source's logits."""
    embedding: int = 16
    width: int = 64
    length: int = 20
    samples: int = 1024
    pretraining: int = 600
    """Adam steps at 5e-3 on 64 sequences of the source."""
    alignment: int = 360
    """Adam steps of DPO at 2e-3 on 64 pairs of the reference's own answers."""
    beta: float = 0.1
    steps: int = 400
    """Of TrRa, on 64 sequences, half of them the reference's and half the aligned model's."""
    learning_rate: float = 2e-3


def position_axis(policy: ToyLM, reference: ToyLM, aligned: ToyLM, strength: float, ids: Tensor) -> Tensor:
    """What the released code computes: each token of the vocabulary is normalised over positions, nothing is masked.

    It keeps the first row of a batch only; here all rows are averaged, which can but help it.
    """
    with torch.no_grad():
        target = torch.lerp(reference(ids), aligned(ids), strength).log_softmax(dim=1)  # [B, T, V], over T
    student = policy(ids).log_softmax(dim=1)
    return (target.exp() * (target - student)).sum(dim=(1, 2)).mean() / ids.size(1)


def train_on_positions(
    policy: ToyLM,
    reference: ToyLM,
    aligned: ToyLM,
    strength: float,
    data: Iterable[Mapping[str, Tensor]],
    learning_rate: float,
) -> None:
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    for inputs in data:
        loss = position_axis(policy, reference, aligned, strength, inputs["input_ids"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def log_odds(table: Tensor) -> float:
    """Of good tokens, on average over all contexts: unlike their rate it has no ceiling."""
    vocab = table.size(-1)
    mass = table[..., : good(vocab)].sum(-1).double().clamp(1e-12, 1 - 1e-12)
    return (mass.log() - (-mass).log1p()).mean().item()


def run_seed(seed: int, settings: Settings) -> dict[str, Measures]:
    generator = torch.Generator().manual_seed(seed)
    source = markov.make_source(settings, generator)  # type: ignore[arg-type]

    def draw(table: Tensor, count: int) -> Tensor:
        prompts = torch.randint(settings.vocab, (count, 2), generator=generator)
        return markov.sample(table, prompts, settings.length, generator)

    reference = ToyLM(settings.vocab, settings.embedding, settings.width)
    fit(reference, draw(source, 2048), 64, settings.pretraining, 5e-3, seed)
    prompts = torch.randint(settings.vocab, (settings.samples, 2), generator=generator)
    answers = markov.sample(reference.table(), prompts.repeat_interleave(2, 0), settings.length, generator)
    pairs = preferences(answers, settings.vocab)
    aligned = copy.deepcopy(reference)
    dpo = build("dpo", {"beta": settings.beta}, aligned, reference=Frozen(reference, "reference"))
    train(aligned, dpo, batches(pairs, 64, settings.alignment, seed, together=2), 2e-3)

    half = settings.samples // 2
    texts = torch.cat([draw(reference.table(), half), draw(aligned.table(), half)])
    heldout = inputs_of(torch.cat([draw(reference.table(), half), draw(aligned.table(), half)]))
    measured_prompts = torch.randint(settings.vocab, (512, 2), generator=generator)

    def rate(table: Tensor) -> float:
        return good_rate(table, measured_prompts, settings.length, seed)

    with torch.no_grad():
        grid = torch.cartesian_prod(torch.arange(settings.vocab), torch.arange(settings.vocab))
        tables = {name: model(grid)[:, 1] for name, model in (("reference", reference), ("aligned", aligned))}

    def measure(student: ToyLM, fused: Tensor, strength: float) -> Measures:
        """The student, and how far it lies from the fused pair on held-out text of both models."""
        found = {"rate": rate(student.table()), "log_odds": log_odds(student.table())}
        with torch.no_grad():
            ids = heldout["input_ids"]
            batch = TokenBatch.align(
                student(ids), heldout["labels"], {"fused": torch.lerp(reference(ids), aligned(ids), strength)}
            )
            found["kl"] = forward_kl(batch.log_softmax(), batch.log_softmax("fused")).mean().item()
        return found | {"rate_error": abs(found["rate"] - rate(fused))}

    rows: dict[str, Measures] = {}
    for strength in STRENGTHS:
        mixed = torch.lerp(tables["reference"], tables["aligned"], strength)
        fused = mixed.softmax(-1).view((settings.vocab,) * 3)
        rows[f"fused, {strength:g}"] = {"rate": rate(fused), "log_odds": log_odds(fused)}
        rows[f"untrained, {strength:g}"] = measure(reference, fused, strength)
        student = copy.deepcopy(reference)
        teachers = {"reference": Frozen(reference, "reference"), "aligned": Frozen(aligned, "aligned")}
        plan = build("trra", {"strength": strength}, student, **teachers)
        train(student, plan, batches(texts, 64, settings.steps, seed), settings.learning_rate)
        rows[f"trra, {strength:g}"] = measure(student, fused, strength)
        student = copy.deepcopy(reference)
        data = batches(texts, 64, settings.steps, seed)
        train_on_positions(student, reference, aligned, strength, data, settings.learning_rate)
        rows[f"position axis, {strength:g}"] = measure(student, fused, strength)
    assert all(math.isfinite(value) for row in rows.values() for value in row.values())
    return rows


EXPERIMENT = Experiment("trra_markov", run_seed, Settings(), __doc__)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT, seeds=5))
