"""Short rows, padded or packed: answer tokens a second and memory of an update, without the optimizer.

Rows have a long tail: their mean is about a quarter of the longest. Half of each is answer. All contestants learn from
the same rows by SFT (forward, backward to every weight, float32, CPU), in micro-batches of at most the same number of
tokens, padding included; losses and gradients of the whole update are compared first. The model is a
small Llama with random weights. Contestants:

  padded    rows as they come, each micro-batch padded to its longest
  sorted    the same, with rows of similar length together
  packed    rows in packs of the longest row's length
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from common import (
    MIB,
    PATIENCE,
    Answer,
    Target,
    alternate,
    check_same,
    in_fresh_process,
    parser,
    peak_bytes,
    ratio,
    signature,
    table,
    tell,
    unjudged,
    write,
)
from trimtab.core import IGNORE, Plan
from trimtab.data.collate import Collator
from trimtab.data.packs import fit
from trimtab.models.forward import add_objective_forward
from trimtab.models.packing_check import check_packing
from trimtab.objectives.likelihood import Likelihood
from trimtab.signals.base import call_plan

NAMES = ("padded", "sorted", "packed")
LIMIT = 1 / 1.5
"""seconds of a packed update over those of a padded one: 1.5 times as many tokens a second"""


def model(layers: int, width: int, vocab: int) -> Any:
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=max(1, width // 192), max_position_embeddings=8192,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config).train()
    add_objective_forward(made)
    check_packing(made, "policy")
    return made


def rows(number: int, longest: int, vocab: int) -> list[dict[str, Any]]:
    """Their lengths are exponential, with a mean of about a quarter of the longest."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.empty(number).exponential_(4 / longest, generator=generator).long().clamp(8, longest)
    drawn[0] = longest
    made = []
    for i, length in enumerate(drawn.tolist()):
        ids = torch.randint(3, vocab, (length,), generator=generator).tolist()
        half = length // 2
        made.append({"input_ids": ids, "labels": [IGNORE] * half + ids[half:], "row_id": i})
    return made


def batches(name: str, some: list[dict[str, Any]], longest: int, tokens: int) -> list[dict[str, Any]]:
    """Micro-batches of at most so many tokens."""
    collator, size = Collator(0, 10**9), tokens // longest
    if name == "packed":
        packs = [[some[i] for i in pack] for pack in fit([len(row["input_ids"]) for row in some], longest)]
        return [collator(packs[start : start + size]) for start in range(0, len(packs), size)]
    if name == "padded":
        return [collator(some[start : start + size]) for start in range(0, len(some), size)]
    left, found = sorted(some, key=lambda row: -len(row["input_ids"])), []
    while left:
        size = max(1, tokens // len(left[0]["input_ids"]))
        found.append(collator(left[:size]))
        left = left[size:]
    return found


def update(policy: Any, parts: list[dict[str, Any]], total: int) -> float:
    policy.zero_grad(set_to_none=True)
    plan, loss = Plan(Likelihood()), 0.0
    for inputs in parts:
        found = call_plan(plan, policy, inputs, total)
        assert found.loss is not None
        found.loss.backward()
        loss += found.loss.item()
    return loss


def _given(setting: dict[str, int]) -> tuple[Any, Callable[[str], list[dict[str, Any]]], int]:
    policy = model(setting["layers"], setting["width"], setting["vocab"])
    some = rows(setting["rows"], setting["longest"], setting["vocab"])
    total = sum(label != IGNORE for row in some for label in row["labels"])
    return policy, lambda name: batches(name, some, setting["longest"], setting["micro_batch_tokens"]), total


def clock(setting: dict[str, int], repeats: int, patience: float) -> dict[str, Any]:
    policy, parts_of, total = _given(setting)
    parts = {name: parts_of(name) for name in NAMES}
    answers = {}
    for name in NAMES:
        loss = update(policy, parts[name], total)
        answers[name] = Answer(loss, {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None})
    same = check_same(answers, "padded", "an update")
    del answers
    timings = alternate({name: (lambda n=name: update(policy, parts[n], total)) for name in NAMES}, repeats, patience)
    return {"timings": timings, "same_loss": same, "answer_tokens": total}


def memory(setting: dict[str, int], name: str) -> float:
    policy, parts_of, total = _given(setting)
    parts = parts_of(name)
    return round(peak_bytes(lambda: update(policy, parts, total)) / MIB, 1)


def shapes(setting: dict[str, int]) -> dict[str, Any]:
    """Tokens that the layers read, padding included, and micro-batches."""
    some = rows(setting["rows"], setting["longest"], setting["vocab"])
    found: dict[str, Any] = {"tokens": sum(len(row["input_ids"]) for row in some)}
    for name in NAMES:
        parts = batches(name, some, setting["longest"], setting["micro_batch_tokens"])
        read = 0
        for one in parts:
            ends = one["attention_mask"].sum(dim=1) + (one["place"][:, 1] if "place" in one else 0)
            number = int(one["place"][:, 0].max()) + 1 if "place" in one else len(ends)
            read += number * int(ends.max())
        found[name] = {"tokens_read": read, "micro_batches": len(parts)}
    return found


def main() -> None:
    args = parser(__doc__).parse_args()
    args.repeats = args.repeats or (1 if args.quick else 3)
    setting = {"layers": 2, "width": 384, "vocab": 4096, "rows": 24, "longest": 256, "micro_batch_tokens": 2048}
    if args.quick:
        setting = {"layers": 1, "width": 64, "vocab": 128, "rows": 8, "longest": 32, "micro_batch_tokens": 64}
    tell("updates")
    found = in_fresh_process(clock, setting, args.repeats, 0.0 if args.quick else PATIENCE)
    tell("memory")
    peaks = {name: in_fresh_process(memory, setting, name) for name in NAMES}
    sizes = in_fresh_process(shapes, setting)
    timings, total = found["timings"], found["answer_tokens"]
    seconds = {name: timing.median for name, timing in timings.items()}
    mean = sizes["tokens"] / setting["rows"]
    note = f"mean length {mean:.0f} of {setting['longest']}"
    targets = [
        Target("seconds of a packed update over a padded one", LIMIT, ratio(seconds["packed"], seconds["padded"]), note)
    ]
    targets = unjudged(targets) if args.quick else targets
    updates = {
        name: {
            **timings[name].record(), **sizes[name], "answer_tokens_a_second": round(total / seconds[name], 1),
            "memory_mib": peaks[name],
        }
        for name in NAMES
    }  # fmt: skip
    result = {
        "signature": signature(),
        "machine": "shared with other jobs; contestants are timed by turns",
        "setting": {**setting, "mean_length": round(mean, 1), "dtype": "float32"},
        "answer_tokens": total,
        "same_loss": found["same_loss"],
        "updates": updates,
    }
    path = write("packing", args, result, targets)
    columns = ("tokens_read", "answer_tokens_a_second", "memory_mib")
    lines = [[name, seconds[name], *(updates[name][key] for key in columns)] for name in NAMES]
    print(table(["update", "s", "tokens read", "answer tokens / s", "peak MiB"], lines), "\n")
    print(*targets, path.name, sep="\n")


if __name__ == "__main__":
    main()
