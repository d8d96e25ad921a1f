"""Generation of ragged answers: how many tokens a second does each way of transformers write, and ours?

A batch of answers as GRPO asks for them: 8 prompts of 64 tokens, 8 answers to each, lengths from 8 to 256 tokens spread
evenly; sampled, float32, SmolLM2-135M. Every contestant writes as many tokens for each answer.

  trl         as TRL's GRPOTrainer calls `generate` by default: a cache that grows, every row to the end of the longest
  static      the same with a static cache
  continuous  transformers' continuous batching; on a CPU only if asked for: 5.23 gives no answer there
  ragged      trimtab's: rows that have ended leave, equal prompts are read once
"""

import time
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, LlamaConfig
from transformers import LogitsProcessor as Processor

from common import Target, alternate, parser, ratio, signature, table, tell, unjudged, write
from trimtab.decoding._early_exit import early_exit
from trimtab.models.loading import load_model

transformers.logging.disable_progress_bar()
LIMIT = 1 / 1.3
SEED, PROMPTS, ANSWERS, PROMPT, SHORTEST, LONGEST = 0, 8, 8, 64, 8, 256
QUICK_LONGEST = 16
SILENCE = 600
"""Seconds without a new answer after which continuous batching is given up."""
END, FIRST = 2, 1000
"""The end token, and the first of the tokens by which the rows are known."""


class Lengths(Processor):
    """Row i begins with the token `first` + i and ends at its length, not before."""

    def __init__(self, lengths: list[int], first: int):
        self.lengths, self.first = torch.tensor(lengths), first

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        written = input_ids.size(1) - PROMPT
        scores[:, END] = -torch.inf
        if written == 0:
            forced, rows = self.first + torch.arange(len(scores)), torch.arange(len(scores))
        else:
            rows = torch.nonzero(self.lengths[input_ids[:, PROMPT] - self.first] == written + 1)[:, 0]
            forced = torch.full_like(rows, END)
        scores[rows] = -torch.inf
        scores[rows, forced] = 0.0
        return scores


def model_of(quick: bool) -> Any:
    if not quick:
        return load_model("smollm2-135m").eval()
    config = LlamaConfig(
        vocab_size=1100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    return AutoModelForCausalLM.from_config(config).eval()


def write_all(model: Any, ids: Tensor, lengths: list[int], cache: str | None = None, **how: Any) -> int:
    """The tokens written."""
    torch.manual_seed(SEED)
    config = GenerationConfig(
        max_new_tokens=max(lengths), do_sample=True, top_k=0, eos_token_id=END, pad_token_id=0, disable_compile=True,
        cache_implementation=cache,
    )  # fmt: skip
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), generation_config=config, logits_processor=[Lengths(lengths, FIRST)],
        **how,
    )  # fmt: skip
    written = (output[:, PROMPT:] == END).int().argmax(dim=1) + 1
    if written.tolist() != lengths:
        raise SystemExit(f"error: answers have the lengths {written.tolist()}, not {lengths}")
    return int(written.sum())


def write_continuously(model: Any, ids: Tensor, lengths: list[int]) -> int:
    torch.manual_seed(SEED)
    config = GenerationConfig(max_new_tokens=max(lengths), do_sample=True, top_k=0, eos_token_id=-1, pad_token_id=0)
    manager = model.init_continuous_batching(
        generation_config=config, continuous_batching_config=ContinuousBatchingConfig()
    )
    manager.start()
    try:
        for row, length in zip(ids.tolist(), lengths, strict=True):
            manager.add_request(row, max_new_tokens=length)
        written, ended = 0, 0
        while ended < len(lengths):
            found = manager.get_result(timeout=SILENCE)
            if found is None:
                raise SystemExit(f"error: continuous batching gave no answer for {SILENCE} s")
            if found.is_finished():
                written, ended = written + len(found.generated_tokens), ended + 1
    finally:
        manager.stop(block=True)
    if written != sum(lengths):
        raise SystemExit(f"error: continuous batching wrote {written} tokens, not {sum(lengths)}")
    return written


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--only", nargs="+", choices=["trl", "static", "continuous", "ragged"])
    args = arguments.parse_args()
    model, longest = model_of(args.quick), QUICK_LONGEST if args.quick else LONGEST
    generator = torch.Generator().manual_seed(SEED)
    spread = torch.linspace(SHORTEST, longest, PROMPTS * ANSWERS).round().int()
    lengths = spread[torch.randperm(len(spread), generator=generator)].tolist()
    ids = torch.randint(3, FIRST, (PROMPTS, PROMPT), generator=generator).repeat_interleave(ANSWERS, dim=0)
    steps = {
        "trl": partial(write_all, model, ids, lengths),
        "static": partial(write_all, model, ids, lengths, cache="static"),
        "continuous": partial(write_continuously, model, ids, lengths),
        "ragged": partial(write_all, model, ids, lengths, custom_generate=early_exit),
    }
    chosen = args.only or [name for name in steps if name != "continuous" or torch.cuda.is_available()]
    steps = {name: step for name, step in steps.items() if name in chosen}
    started = time.perf_counter()
    with torch.no_grad():
        timings = alternate(steps, args.repeats or 1, patience=0.0)
    tell(f"{time.perf_counter() - started:.0f} s in all")
    speeds = {name: sum(lengths) / timing.median for name, timing in timings.items()}
    targets = [Target("ragged: time over TRL's default way", LIMIT, ratio(speeds.get("trl"), speeds.get("ragged")))]
    result = {
        "signature": signature(),
        "settings": {
            "prompts": PROMPTS, "answers": ANSWERS, "prompt_tokens": PROMPT, "lengths": [SHORTEST, longest],
            "tokens": sum(lengths), "model": "smollm2-135m", "dtype": "float32",
        },
        "contestants": {
            name: {"tokens_per_second": round(speeds[name], 1), **timing.record()} for name, timing in timings.items()
        },
    }  # fmt: skip
    targets = unjudged(targets) if args.quick else targets
    path = write("rollouts", args, result, targets)
    rows = [[name, speeds[name], timings[name].median] for name in steps]
    print(table(["contestant", "tokens/s", "s"], rows), "\n")
    print(*targets, path.name, sep="\n")


if __name__ == "__main__":
    main()
