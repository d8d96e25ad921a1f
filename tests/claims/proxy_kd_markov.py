"""Proxy-KD (arXiv:2401.07013) on a Markov source that only gives text: the true distributions measure what is learnt.

    python tests/claims/proxy_kd_markov.py --out benchmarks/results/claims_proxy_kd_markov.json

The source is the black-box teacher. A proxy learns its text (warm-up) and is aligned in rounds on more of it; a smaller
student learns from a third part, by text alone or with the proxy's distributions. In a second setting a quarter of the
student's rows have random answers: their weights, and what weighting is worth.
"""

import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import markov
import torch
from torch import Tensor
from toys import Experiment, Frozen, Measures, ToyLM, batches, build, fit, inputs_of, main, train


@dataclass(frozen=True)
class Settings:
    vocab: int = 16
    sharpness: float = 1.0
    """Standard deviation of the source's logits."""
    length: int = 10
    rows: tuple[int, int, int] = (300, 3000, 250)
    """For warm-up, alignment and the student."""
    proxy_width: int = 128
    student_width: int = 32
    warmup: int = 60
    """Adam steps at 5e-3 on 64 rows."""
    rounds: int = 6
    round_updates: int = 30
    """Adam steps at 2e-3 on 64 pairs of a round's own slice."""
    steps: int = 150
    """Of the student, Adam at 5e-3 on 64 rows."""
    corrupted: float = 0.25


def pairs(proxy: ToyLM, texts: Tensor, settings: Settings, seed: int) -> Iterator[dict[str, Tensor]]:
    """In each round a slice of the texts, each before an answer of the proxy as it is at that moment."""
    generator = torch.Generator().manual_seed(2000 + seed)
    for number, part in enumerate(texts.chunk(settings.rounds)):
        with torch.no_grad():
            own = markov.sample(proxy.table(), part[:, :2], settings.length, generator)
        kept = (own != part).any(dim=1)
        both = torch.stack([part[kept], own[kept]], dim=1).flatten(0, 1)
        yield from batches(both, 64, settings.round_updates, 100 * seed + number, together=2)


def run_seed(seed: int, settings: Settings) -> dict[str, Measures]:
    generator = torch.Generator().manual_seed(seed)
    source = markov.make_source(settings, generator)  # type: ignore[arg-type]

    def texts(count: int) -> Tensor:
        prompts = torch.randint(settings.vocab, (count, 2), generator=generator)
        return markov.sample(source, prompts, settings.length, generator)

    warmup, alignment, own = map(texts, settings.rows)
    contexts = texts(512)
    first = ToyLM(settings.vocab, settings.proxy_width // 4, settings.proxy_width)
    fit(first, warmup, 64, settings.warmup, 5e-3, seed)
    start = ToyLM(settings.vocab, settings.student_width // 4, settings.student_width)

    def measure(model: ToyLM) -> Measures:
        with torch.no_grad():
            kl = (source * (source.log() - model.table().log())).sum(-1)  # [V, V]
        return {"kl": kl[contexts[:, :-2], contexts[:, 1:-1]].mean().item()}

    def align(**options: Any) -> ToyLM:
        proxy = copy.deepcopy(first)
        plan = build("proxy_align", {"round_updates": settings.round_updates, **options}, proxy)
        train(proxy, plan, pairs(proxy, alignment, settings, seed), 2e-3)
        return proxy

    def teach(rows: Tensor, proxy: ToyLM | None, **options: Any) -> tuple[Measures, Tensor]:
        """Measures of a student, and the weights of the rows."""
        student, weights = copy.deepcopy(start), torch.ones(len(rows))
        if proxy is None:
            plan = build("sft", {})
        else:
            plan = build("proxy_kd", options, student, teacher=Frozen(proxy, "teacher"))
            for signal in plan.signals[1:]:
                signal.before_training(student, [inputs_of(rows)])
                weights = signal(student, inputs_of(rows))["row_weight"].view(len(rows), -1)[:, 0]
        train(student, plan, batches(rows, 64, settings.steps, seed), 5e-3)
        return measure(student), weights

    aligned = align()
    found = {
        "text only": teach(own, None)[0],
        "proxy, warm-up only": measure(first),
        "proxy, aligned": measure(aligned),
    }
    found["warm-up only, 10"] = teach(own, first, alpha=10)[0]
    for alpha in (1, 10, 100):
        found[f"aligned, {alpha}"] = teach(own, aligned, alpha=alpha)[0]
    found["aligned, 10, unweighted"] = teach(own, aligned, alpha=10, weighting="none")[0]
    bad = torch.rand(len(own), generator=generator) < settings.corrupted
    mixed = own.clone()
    mixed[bad, 2:] = torch.randint(settings.vocab, mixed[bad, 2:].shape, generator=generator)
    found["corrupted, text only"] = teach(mixed, None)[0]
    found["corrupted, unweighted"] = teach(mixed, aligned, alpha=10, weighting="none")[0]
    kl, weights = teach(mixed, aligned, alpha=10)
    found["corrupted, weighted"] = kl
    found["clean rows"], found["corrupted rows"] = ({"weight": weights[some].mean().item()} for some in (~bad, bad))
    return found


EXPERIMENT = Experiment("proxy_kd_markov", run_seed, Settings(), __doc__)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT, seeds=3))
