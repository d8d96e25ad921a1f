"""What do decoding strategies cost a step: a processor alone, and beside the model's forward?

Logits of a real model (SmolLM2-135M on English prose; for V = 151,936 with as many further, small logits), float32, on
the CPU; batches of 1, 8 and 32, contexts of 128, 1,024 and 4,096 tokens. Contestants:

  top_p             transformers' TopPLogitsWarper(0.95)
  adaptive          ours, epsilon 0.001, rule threshold
  adaptive-authors  the authors' form: a whole sort, sums as 1 - cumulative sum, differences in two halves
  penalty           ours, strength 1.2, the last 100 tokens
  penalty-stock     transformers' RepetitionPenaltyLogitsProcessor(1.2), on the whole context

The step is a forward of one new token with a cache of 128.
"""

import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, RepetitionPenaltyLogitsProcessor, TopPLogitsWarper

from common import PATIENCE, Target, alternate, parser, ratio, signature, table, tell, unjudged, write
from trimtab.data.synthetic import prose
from trimtab.decoding.adaptive import AdaptiveWarper
from trimtab.decoding.penalty import PenaltyProcessor
from trimtab.models.loading import load_model, load_tokenizer

transformers.logging.disable_progress_bar()
ADAPTIVE_LIMIT, PENALTY_LIMIT, FLAT_LIMIT = 1.1, 0.2, 1.25
BATCHES, VOCABULARIES, CONTEXTS = (1, 8, 32), (49_152, 151_936), (128, 1024, 4096)
EPSILON, P, STRENGTH, WINDOW = 0.001, 0.95, 1.2, 100
CALLS = 10
"""Calls in a timed round."""
SEED = 0


def authors(input_ids: Tensor, scores: Tensor, epsilon: float = EPSILON) -> Tensor:
    """The masks of the released class, as its formulas read."""
    size = scores.size(-1)
    p, ids = scores.softmax(dim=-1).sort(dim=-1, descending=True)
    rest = 1 - p.cumsum(dim=-1)
    k = torch.arange(1, size + 1)
    a = p * torch.log(p * (size - k) / rest)
    b, c = rest / (size - k), (rest + p) / (size - k + 1)
    worth = torch.nan_to_num((a + (rest + p) * torch.log(b / c)) / torch.log(torch.tensor(float(size))))
    drop = worth <= epsilon
    drop[:, 0] = False
    return scores.masked_fill(drop.scatter(1, ids, drop), -torch.inf)


def contestants() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    return {
        "top_p": TopPLogitsWarper(P),
        "adaptive": AdaptiveWarper(EPSILON),
        "adaptive-authors": authors,
        "penalty": PenaltyProcessor(STRENGTH, WINDOW),
        "penalty-stock": RepetitionPenaltyLogitsProcessor(STRENGTH),
    }


@torch.inference_mode()
def logits(quick: bool) -> Tensor:
    """[32, V] of the next token after passages of prose."""
    if quick:
        return 3 * torch.randn(32, 512, generator=torch.Generator().manual_seed(SEED))
    model, tokenizer = load_model("smollm2-135m"), load_tokenizer("smollm2-135m")
    texts = [row["text"] for row in prose("heldout")[:32]]
    ids = tokenizer(texts, return_tensors="pt", padding=False, truncation=True, max_length=64).input_ids
    return torch.cat([model(row[None], logits_to_keep=1).logits[:, -1] for row in ids])


def widened(scores: Tensor, vocab: int) -> Tensor:
    """As many further tokens as are missing, none of them likely."""
    generator = torch.Generator().manual_seed(SEED)
    more = torch.randn(len(scores), vocab - scores.size(1), generator=generator)
    return torch.cat([scores, scores.mean(dim=1, keepdim=True) - 4 + more], dim=1)


def repeat(processor: Callable[[Tensor, Tensor], Tensor], ids: Tensor, scores: Tensor) -> None:
    for _ in range(CALLS):
        processor(ids, scores)


def same_masks(scores: Tensor) -> float:
    """Share of tokens on which ours and the authors' agree; theirs loses tokens to rounding."""
    ids = torch.zeros(len(scores), 1, dtype=torch.long)
    ours, theirs = AdaptiveWarper(EPSILON)(ids, scores).isfinite(), authors(ids, scores).isfinite()
    either = (ours | theirs).sum().item()
    return (ours & theirs).sum().item() / either


def alone(scores: Tensor, batch: int, context: int, repeats: int, patience: float) -> dict[str, Any]:
    ids = torch.randint(scores.size(1), (batch, context), generator=torch.Generator().manual_seed(SEED))
    steps = {name: partial(repeat, made, ids, scores[:batch].clone()) for name, made in contestants().items()}
    with torch.inference_mode():
        timings = alternate(steps, repeats, patience)
    return {
        name: {"ms": 1e3 * t.median / CALLS, "rounds": [round(1e3 * s / CALLS, 3) for s in t.seconds]}
        for name, t in timings.items()
    }


@torch.inference_mode()
def whole_steps(batch: int, quick: bool, repeats: int, patience: float) -> dict[str, Any]:
    """A forward of one token and the processor, against the forward alone."""
    if quick:
        config = LlamaConfig(
            vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
        )
        model = AutoModelForCausalLM.from_config(config).eval()
    else:
        model = load_model("smollm2-135m")
    ids = torch.randint(500, (batch, 129), generator=torch.Generator().manual_seed(SEED))
    cache = model(ids[:, :-1], use_cache=True, logits_to_keep=1).past_key_values

    def step(processor: Callable[[Tensor, Tensor], Tensor] | None) -> None:
        scores = model(ids[:, -1:], past_key_values=cache, use_cache=True).logits[:, -1]
        cache.crop(-1)
        if processor is not None:
            processor(ids, scores)

    steps = {"forward": partial(step, None)} | {name: partial(step, made) for name, made in contestants().items()}
    return {name: {"ms": 1e3 * t.median} for name, t in alternate(steps, repeats, patience).items()}


def main() -> None:
    args = parser(__doc__).parse_args()
    args.repeats = args.repeats or (1 if args.quick else 5)
    patience = 0.0 if args.quick else PATIENCE / 4
    base = logits(args.quick)
    vocabularies = (512, 1024) if args.quick else VOCABULARIES
    contexts = (16, 32) if args.quick else CONTEXTS
    cells, targets = [], []
    for vocab, batch, context in product(vocabularies, BATCHES, contexts):
        tell(f"V = {vocab}, batch {batch}, context {context}")
        scores = base if vocab == base.size(1) else widened(base, vocab)
        found = alone(scores, batch, context, args.repeats, patience)
        cells.append({"vocab": vocab, "batch": batch, "context": context, "contestants": found})
        of_top_p = {name: ratio(cell["ms"], found["top_p"]["ms"]) for name, cell in found.items()}
        where = f"V = {vocab}, batch {batch}, context {context}"
        targets.append(Target(f"adaptive: time over top-p, {where}", ADAPTIVE_LIMIT, of_top_p["adaptive"]))
        targets.append(Target(f"penalty: time over top-p, {where}", PENALTY_LIMIT, of_top_p["penalty"]))
    for vocab, batch in product(vocabularies, BATCHES):
        times = [c["contestants"]["penalty"]["ms"] for c in cells if (c["vocab"], c["batch"]) == (vocab, batch)]
        where = f"V = {vocab}, batch {batch}"
        targets.append(Target(f"penalty: longest over shortest context, {where}", FLAT_LIMIT, times[-1] / times[0]))
    targets = unjudged(targets) if args.quick else targets
    steps = {batch: whole_steps(batch, args.quick, args.repeats, patience) for batch in BATCHES}
    agreement = same_masks(base)
    if agreement < 0.99:
        sys.exit(f"error: ours and the authors' masks agree on {agreement:.3f} of the candidates")
    result = {
        "signature": signature(),
        "settings": {"epsilon": EPSILON, "p": P, "strength": STRENGTH, "window": WINDOW, "dtype": "float32"},
        "agreement with the authors' masks": agreement,
        "cells": cells,
        "steps": steps,
    }
    path = write("decoding", args, result, targets)
    names = list(contestants())
    rows = [[c["vocab"], c["batch"], c["context"], *(c["contestants"][n]["ms"] for n in names)] for c in cells]
    print(table(["V", "batch", "context", *(f"{n}, ms" for n in names)], rows), "\n")
    print(
        table(["batch", "forward, ms", *names], [[b, *(t["ms"] for t in s.values())] for b, s in steps.items()]), "\n"
    )
    print(*targets, path.name, sep="\n")


if __name__ == "__main__":
    main()
