"""CLM (arXiv:2503.04346) and InRa (arXiv:2506.12704): is one trained layer before the first a dial at decoding?

    python tests/claims/dial.py --out benchmarks/results/claims_dial.json

A tiny Qwen2 learns a Markov source and is given an identity layer. InRa trains it on the model's own answers that are
rich in good tokens, CLM by DPO on pairs of its own answers. Both streams of the network are then mixed at many
strengths, and the mixture writes its own text. Controls: the layer as it was inserted, and DPO on pairs in random
order.
"""

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import markov
import torch
from torch import Tensor
from toys import Experiment, Measures, batches, build, fit, good, inputs_of, main, preferences, train
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from trimtab.core import TokenBatch
from trimtab.core.draws import inverse_cdf
from trimtab.models.forward import add_objective_forward
from trimtab.models.identity_layer import bypass, insert_identity_layer, train_only_identity_layer
from trimtab.signals.initial_policy import InitialPolicy

STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Settings:
    vocab: int = 16
    sharpness: float = 1.5
    """Standard deviation of the source's logits."""
    length: int = 20
    width: int = 32
    layers: int = 3
    pretraining: int = 500
    """Adam steps at 3e-3 on 64 sequences of the source."""
    samples: int = 1024
    """Pairs of the model's own answers; InRa learns from the quarter of them with the most good tokens."""
    beta: float = 0.1
    sft_steps: int = 200
    dpo_steps: int = 100
    learning_rate: float = 1e-3
    """Of the layer; Adam on 64 answers or 32 pairs."""
    measured: int = 256
    """Texts that are written at each strength, and pairs whose margin is measured."""


Logits = Callable[[Tensor], Tensor]


def plain_logits(model: PreTrainedModel) -> Logits:
    @torch.no_grad()
    def logits(ids: Tensor) -> Tensor:
        return model(input_ids=ids, use_cache=False).logits

    return logits


def mixed_logits(model: PreTrainedModel, strength: float) -> Logits:
    """(1 - strength) z_unaligned + strength z_aligned."""

    def logits(ids: Tensor) -> Tensor:
        with bypass(model):
            unaligned = plain_logits(model)(ids)
        return torch.lerp(unaligned, plain_logits(model)(ids), strength)

    return logits


def write(logits: Logits, prompts: Tensor, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Texts [B, 2 + length] that go on from `prompts`, and how much probability good tokens had at each place."""
    generator, ids, mass = torch.Generator().manual_seed(seed), prompts, []
    for _ in range(length):
        probabilities = logits(ids)[:, -1].softmax(-1)
        mass.append(probabilities[:, : good(probabilities.size(-1))].sum(-1))
        token = inverse_cdf(probabilities, torch.rand(len(ids), generator=generator))
        ids = torch.cat([ids, token[:, None]], dim=1)
    return ids, torch.stack(mass, dim=1)


def margin(logits: Logits, start: Logits, pairs: Tensor) -> float:
    """How much more likelier the chosen answers became than the rejected ones, in nats, on average over pairs."""
    labels = markov.labels_of(pairs)
    now, before = (TokenBatch.align(of(pairs), labels) for of in (logits, start))
    ratios = now.row_sum(now.logprobs() - before.logprobs())
    return (ratios[0::2] - ratios[1::2]).mean().item()


def random_order(pairs: Tensor, generator: torch.Generator) -> Tensor:
    """The same pairs, half of them with chosen and rejected exchanged."""
    turned = torch.rand(len(pairs) // 2, generator=generator) < 0.5
    both = pairs.view(-1, 2, pairs.size(1))
    return torch.where(turned[:, None, None], both.flip(1), both).flatten(0, 1)


def run_seed(seed: int, settings: Settings) -> dict[str, Measures]:
    generator = torch.Generator().manual_seed(seed)
    source = markov.make_source(settings, generator)  # type: ignore[arg-type]

    def prompts(count: int) -> Tensor:
        return torch.randint(settings.vocab, (count, 2), generator=generator)

    config = Qwen2Config(
        vocab_size=settings.vocab,
        hidden_size=settings.width,
        intermediate_size=2 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    base = AutoModelForCausalLM.from_config(config).eval()
    add_objective_forward(base)
    data = markov.sample(source, prompts(2048), settings.length, generator)
    fit(base, data, 64, settings.pretraining, 3e-3, seed)
    start = plain_logits(base)

    twice = prompts(settings.samples).repeat_interleave(2, 0)
    answers, _ = write(start, twice, settings.length, 5000 + seed)
    number = (answers[:, 2:] < good(settings.vocab)).sum(dim=1)
    rich = answers[number.argsort(descending=True)[: len(answers) // 4]]
    pairs = preferences(answers, settings.vocab)
    heldout, _ = write(start, prompts(settings.measured).repeat_interleave(2, 0), settings.length, 6000 + seed)
    heldout = preferences(heldout, settings.vocab)
    measured = prompts(settings.measured)

    inserted = insert_identity_layer(base)
    train_only_identity_layer(inserted)
    add_objective_forward(inserted)

    def layer(method: str, options: dict, ids: Tensor, steps: int, together: int) -> PreTrainedModel:
        policy = copy.deepcopy(inserted)
        reference = InitialPolicy(partial(bypass, policy))
        data = batches(ids, 64 // together, steps, seed, together)
        train(policy, build(method, options, policy, reference=reference), data, settings.learning_rate)
        return policy

    dpo = {"beta": settings.beta}
    policies = {
        "untrained": inserted,
        "inra": layer("inra", {"loss": "sft"}, rich, settings.sft_steps, together=1),
        "clm": layer("clm", dpo, pairs, settings.dpo_steps, together=2),
        "clm, random pairs": layer("clm", dpo, random_order(pairs, generator), settings.dpo_steps, together=2),
    }
    text, mass = write(start, measured, settings.length, 3000 + seed)
    rows = {"original": {"rate": mass.mean().item()}}
    for name, policy in policies.items():
        for strength in STRENGTHS:
            logits = mixed_logits(policy, strength)
            own, mass = write(logits, measured, settings.length, 3000 + seed)
            found = {"rate": mass.mean().item(), "margin": margin(logits, start, heldout)}
            if strength == 0:
                ids = inputs_of(text)["input_ids"]
                found["logits_changed"] = float((logits(ids) != start(ids)).sum())
                found["tokens_changed"] = float((own != text).sum())
            rows[f"{name}, {strength:g}"] = found
    return rows


EXPERIMENT = Experiment("dial", run_seed, Settings(), __doc__)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT, seeds=3))
