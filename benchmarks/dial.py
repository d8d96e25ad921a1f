"""What does the dial cost while decoding: time of a step, and weights in memory?

One step of decoding after a prompt, greedy, float32, on the CPU; a batch of B requests at strength 0.5. Contestants:

  realign   both ways through one network with an identity layer, as rows of one batch, and their mixture
  plain     a forward of the same network with 2 B rows, nothing else
  original  the same without the identity layer
  dera      two networks with B rows each, and their mixture; the second is the one with the layer
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig, LlamaConfig, PreTrainedModel

from common import MIB, PATIENCE, Different, Target, alternate, parser, ratio, signature, table, tell, unjudged, write
from trimtab.common import fingerprint
from trimtab.decoding._streams import Stream, mix
from trimtab.models.identity_layer import bypass, identity_layer, insert_identity_layer
from trimtab.models.loading import load_model

TINY = "tiny"
"""A random model for --quick, in place of one that must be loaded."""
TIME_LIMIT, WEIGHTS_LIMIT = 1.15, 1.0
STEPS = 8
"""Steps in a timed round."""
TOLERANCE = 1e-4
SEED = 0


def make(model: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The original and the same with an identity layer that is none any more, so that the streams differ."""
    torch.manual_seed(SEED)
    if model == TINY:
        size = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64}
        config = LlamaConfig(**size, num_hidden_layers=3, num_attention_heads=2)
        original = AutoModelForCausalLM.from_config(config).eval()
    else:
        original = load_model(model)
    expanded = insert_identity_layer(original)
    for weight in identity_layer(expanded).parameters():
        weight.data.add_(torch.randn_like(weight), alpha=0.02)
    return original, expanded


# ---------------------------------------------------------------- the contestants


class Step:
    """One step of decoding, which leaves the caches as they were."""

    def __init__(self, prompts: Tensor, streams: list[tuple[PreTrainedModel, Tensor]]):
        """`prompts` [B, T]; each stream is a model and the rows of `prompts` that it reads."""
        self.sequences = torch.cat([prompts, prompts[:, :1]], dim=1)
        self.length = prompts.size(1)
        self.streams = []
        for model, rows in streams:
            positions = torch.arange(self.length)[None]
            cache = DynamicCache(config=model.config)
            inputs = {"past_key_values": cache, "position_ids": positions, "use_cache": True, "logits_to_keep": 1}
            stream = Stream(model, rows, GenerationConfig(), inputs)
            stream(prompts)
            self.streams.append((stream, dict(stream.inputs)))

    def rewind(self) -> None:
        for stream, inputs in self.streams:
            stream.inputs = dict(inputs)
            inputs["past_key_values"].crop(-1)

    def cache_bytes(self) -> int:
        caches = [inputs["past_key_values"] for _, inputs in self.streams]
        return sum(
            t.numel() * t.element_size() for c in caches for layer in c.layers for t in (layer.keys, layer.values)
        )

    def logits(self) -> list[Tensor]:
        """Of each stream, [rows, V] float32."""
        return [stream(self.sequences) for stream, _ in self.streams]


class Plain(Step):
    """The model's forward and nothing around it."""

    def logits(self) -> list[Tensor]:
        ((stream, inputs),) = self.streams
        model: PreTrainedModel = stream.model
        new = self.sequences[stream.rows, -1:]
        cache, positions = inputs["past_key_values"], torch.tensor([[self.length]])
        return [model(new, past_key_values=cache, position_ids=positions, use_cache=True).logits[:, -1]]


def contestants(original: PreTrainedModel, expanded: PreTrainedModel, prompts: Tensor) -> dict[str, tuple]:
    """name -> (step, what is around it, from the logits of its streams to [B, V])"""
    num_rows = len(prompts)
    rows, half = torch.arange(num_rows), torch.full((num_rows,), 0.5)
    twice = torch.cat([rows, rows])

    def mixed(aligned: Tensor, unaligned: Tensor) -> Tensor:
        return mix(num_rows, [(rows, half, unaligned), (rows, half, aligned)])

    def split(logits: list[Tensor]) -> Tensor:
        return mixed(*logits[0].split(num_rows))

    with bypass(expanded, twice_around(num_rows)):
        realign = Step(prompts, [(expanded, twice)])
    return {
        "realign": (realign, partial(bypass, expanded, twice_around(num_rows)), split),
        "plain": (Plain(prompts, [(expanded, twice)]), nullcontext, lambda logits: logits[0]),
        "original": (Plain(prompts, [(original, twice)]), nullcontext, lambda logits: logits[0]),
        "dera": (Step(prompts, [(expanded, rows), (original, rows)]), nullcontext, lambda logits: mixed(*logits)),
    }


def twice_around(num_rows: int) -> Tensor:
    """Of 2 B rows, the second half goes around the layer."""
    return torch.arange(2 * num_rows) >= num_rows


@torch.inference_mode()
def run(step: Step, around: Callable, finish: Callable, steps: int = STEPS) -> Tensor:
    """[B] of the last step: the best tokens."""
    with around():
        for _ in range(steps):
            best = finish(step.logits()).argmax(dim=-1)
            step.rewind()
    return best


# ---------------------------------------------------------------- the figures


@torch.inference_mode()
def check(original: PreTrainedModel, expanded: PreTrainedModel, made: dict[str, tuple]) -> dict[str, float]:
    """Relative errors of both mixtures against whole forwards of two models, without a cache.

    Raises:
        Different: if one is not that mixture.
    """
    sequences = made["realign"][0].sequences
    wanted = (original(sequences).logits[:, -1] + expanded(sequences).logits[:, -1]) / 2
    errors = {}
    for name in ("realign", "dera"):
        step, around, finish = made[name]
        with around():
            found = finish(step.logits())
        step.rewind()
        errors[name] = float((found - wanted).norm() / wanted.norm())
        if not errors[name] <= TOLERANCE:
            raise Different(f"{name} does not mix the two models: its logits are off by a relative {errors[name]:.2g}")
    return errors


def weight_bytes(model: torch.nn.Module) -> int:
    """Tied weights count once."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def measure(
    original: PreTrainedModel, expanded: PreTrainedModel, rows: int, length: int, repeats: int, patience: float
) -> dict:
    """Time, cache and relative errors of all contestants at one size of batch."""
    torch.manual_seed(SEED)
    prompts = torch.randint(original.config.vocab_size, (rows, length))
    with torch.inference_mode():
        made = contestants(original, expanded, prompts)
    errors = check(original, expanded, made)
    timings = alternate({name: partial(run, *parts) for name, parts in made.items()}, repeats, patience)
    cells = {}
    for name, timing in timings.items():
        cells[name] = {"seconds_a_step": timing.median / STEPS, "time": timing.record()}
        cells[name]["cache_mib"] = round(made[name][0].cache_bytes() / MIB, 2)
    return {"rows": rows, "same_logits": errors, "contestants": cells}


def judge(cells: list[dict], weights: dict[str, float]) -> list[Target]:
    """The promises, each beside what was found."""
    targets = []
    for cell in cells:
        found = {name: c["seconds_a_step"] for name, c in cell["contestants"].items()}
        what = f"dial: a step with two streams over a plain forward of the doubled batch, {cell['rows']} requests"
        targets.append(Target(what, TIME_LIMIT, ratio(found["realign"], found["plain"])))
    extra = ratio(weights["realign"], weights["one layer"])
    return [*targets, Target("dial: extra weights over those of one decoder layer", WEIGHTS_LIMIT, extra)]


HEADERS = ["requests", "contestant", "ms a step", "realign / it", "cache MiB", "extra weights MiB"]


def lines(cells: list[dict], weights: dict[str, float]) -> list[list]:
    made = []
    for cell in cells:
        ours = cell["contestants"]["realign"]["seconds_a_step"]
        for name, c in cell["contestants"].items():
            extra, seconds = weights.get(name), c["seconds_a_step"]
            made.append([str(cell["rows"]), name, 1e3 * seconds, ratio(ours, seconds), c["cache_mib"], extra])
    return made


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--model", help="the original: builtin name, folder or hub id")
    made.add_argument("--rows", type=int, nargs="+", help="requests in a batch")
    made.add_argument("--length", type=int, help="tokens of the prompts")
    args = made.parse_args()
    model, rows, length = (TINY, [1, 2], 8) if args.quick else ("smollm2-135m", [1, 8], 256)
    setting = {"model": args.model or model, "rows": args.rows or rows, "length": args.length or length}
    original, expanded = make(setting["model"])
    weights = {
        "realign": (weight_bytes(expanded) - weight_bytes(original)) / MIB,
        "dera": weight_bytes(original) / MIB,
        "one layer": weight_bytes(identity_layer(expanded)) / MIB,
    }
    cells = []
    for number in setting["rows"]:
        tell(f"{number} requests")
        try:
            repeats, patience = args.repeats or (1 if args.quick else 5), 0.0 if args.quick else PATIENCE
            cells.append(measure(original, expanded, number, setting["length"], repeats, patience))
        except Different as error:
            sys.exit(f"error: {error}")
    result = {
        "signature": signature(),
        "setting": {**setting, "strength": 0.5, "dtype": "float32", "seed": SEED},
        "models": {"original": fingerprint.of_model(original), "expanded": fingerprint.of_model(expanded)},
        "extra_weights_mib": {name: round(mib, 4) for name, mib in weights.items()},
        "cells": cells,
    }
    targets = judge(cells, weights)
    targets = unjudged(targets) if args.quick else targets
    path = write("dial", args, result, targets)
    print(table(HEADERS, lines(cells, weights)), "\n")
    print(*targets, path.name, sep="\n")


if __name__ == "__main__":
    main()
