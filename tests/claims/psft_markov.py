"""PSFT (arXiv:2508.17784) on Markov sources: what a model that knows source A keeps of it while it learns source B.

    python tests/claims/psft_markov.py --out benchmarks/results/claims_psft_markov.json

A small model is pre-trained on A and fine-tuned on a few sequences of B, a sharper source, with the same full batch
in every update. Measured after as many updates: the likelihood of the training data, the entropy on B's text, and the
cost of A's text, which is what was forgotten. The contrasts: no clip; as many updates of small disjoint batches, where
little is clipped; and SFT stopped where its training loss is that of PSFT.
"""

import copy
import sys
from dataclasses import dataclass

import markov
import torch
from torch import Tensor
from toys import Experiment, Measures, ToyLM, batches, build, fit, inputs_of, main, train

from trimtab.core import TokenBatch

PSFT = {"epsilon": 0.28, "refresh": 16}
EARLY, LATE = 80, 640


@dataclass(frozen=True)
class Settings:
    vocab: int = 16
    sharpness_a: float = 1.0
    """Standard deviation of the logits of A."""
    sharpness_b: float = 4.0
    embedding: int = 64
    width: int = 256
    pretraining: int = 400
    """Adam steps at 5e-3 on 64 of 2,048 sequences of A."""
    samples: int = 64
    """Sequences of B to fine-tune on."""
    length: int = 20
    learning_rate: float = 1e-3
    steps: int = LATE
    heldout: int = 1024


@torch.no_grad()
def measure(model: ToyLM, train_ids: Tensor, held_a: Tensor, held_b: Tensor) -> Measures:
    def of(ids: Tensor) -> dict[str, float]:
        batch = TokenBatch.align(model(ids), markov.labels_of(ids))
        entropy = -(batch.log_softmax().exp() * batch.log_softmax()).sum(-1)
        return {"nll": -batch.logprobs().mean().item(), "entropy": entropy.mean().item()}

    a, b = of(held_a), of(held_b)
    return {"train_nll": of(train_ids)["nll"], "entropy": b["entropy"], "nll_a": a["nll"], "nll_b": b["nll"]}


def run_seed(seed: int, settings: Settings) -> dict[str, Measures]:
    generator = torch.Generator().manual_seed(seed)
    shape = (settings.vocab,) * 3
    source_a = (settings.sharpness_a * torch.randn(shape, generator=generator)).softmax(-1)
    source_b = (settings.sharpness_b * torch.randn(shape, generator=generator)).softmax(-1)

    def draw(source: Tensor, count: int) -> Tensor:
        prompts = torch.randint(settings.vocab, (count, 2), generator=generator)
        return markov.sample(source, prompts, settings.length, generator)

    held_a, held_b = draw(source_a, settings.heldout), draw(source_b, settings.heldout)
    ids = draw(source_b, settings.samples)
    start = ToyLM(settings.vocab, settings.embedding, settings.width)
    fit(start, draw(source_a, 2048), 64, settings.pretraining, 5e-3, seed)
    rows = {"pre-trained": measure(start, ids, held_a, held_b)}

    def tune(name, method, options, *, updates=None, at=(EARLY, LATE), disjoint=False, **settings_of_training):
        """Rows "name, updates" at each of `at`."""
        policy, clipped = copy.deepcopy(start), []
        updates = min(updates or settings.steps, settings.steps)
        whole = (inputs_of(ids) for _ in range(updates))
        data = batches(ids, settings.samples // 8, updates, seed) if disjoint else whole

        def after(step, output):
            if "clip_fraction" in output.metrics:
                total, number = output.metrics["clip_fraction"]
                clipped.append((total / number).item())
            if step in at or step == updates:
                found = measure(policy, ids, held_a, held_b)
                if clipped:
                    found["clipped"] = sum(clipped) / len(clipped)
                rows[f"{name}, {step}"] = found

        train(policy, build(method, options), data, settings.learning_rate, after=after, **settings_of_training)
        return policy

    tune("sft", "sft", {})
    tune("psft", "psft", PSFT)
    tune("no clip", "psft", {**PSFT, "epsilon": None}, updates=EARLY)
    tune("psft K=40", "psft", {**PSFT, "refresh": 40}, updates=2 * EARLY, at=())
    tune("sft disjoint", "sft", {}, updates=EARLY, disjoint=True)
    tune("psft disjoint K=8", "psft", {**PSFT, "refresh": 8}, updates=EARLY, disjoint=True)

    def sft_at(wanted: float) -> Measures:
        """SFT where its training loss is `wanted`, on the line between the two updates around it."""
        policy, path = copy.deepcopy(start), [rows["pre-trained"]]

        def after(step, output):
            if output.loss.item() < 1.2 * wanted:
                path.append(measure(policy, ids, held_a, held_b))
            return path[-1]["train_nll"] <= wanted

        train(policy, build("sft", {}), (inputs_of(ids) for _ in range(EARLY)), settings.learning_rate, after=after)
        before, behind = path[-2:]
        share = (before["train_nll"] - wanted) / (before["train_nll"] - behind["train_nll"])
        return {m: (1 - share) * before[m] + share * behind[m] for m in before}

    wanted = rows[f"psft, {min(EARLY, settings.steps)}"]["train_nll"]
    rows["sft at psft's training loss"] = sft_at(wanted)
    for name, epsilon in (("psft, SGD", 0.28), ("no clip, SGD", None)):
        policy = copy.deepcopy(start)
        data = (inputs_of(ids) for _ in range(min(200, settings.steps)))
        options = {**PSFT, "epsilon": epsilon}
        train(policy, build("psft", options), data, 0.5, optimizer=torch.optim.SGD)
        found = measure(policy, ids, held_a, held_b)["train_nll"]
        rows[name] = {"worse": float(not found < rows["pre-trained"]["train_nll"])}
    return rows


EXPERIMENT = Experiment("psft_markov", run_seed, Settings(), __doc__)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT, seeds=5))
