"""Whole steps of kd, hpd and grpo on a GPU: seconds, tokens a second and memory, beside SFT of the same model.

A step is forward, loss, backward and AdamW's update in bfloat16 autocast, with gradient checkpointing. The models are
of random weights in the shape of Qwen2.5-0.5B, the frozen teacher in that of 1.5B; rows are full, half of each prompt.
Of grpo it is an update on completions that are there: generation is not in it. With `--device cpu --quick` the models
are tiny: that shows that the script works.
"""

import sys
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config

from common import MIB, Target, alternate, card, in_fresh_process, parser, peak_bytes, signature, table, tell, write
from trimtab import methods
from trimtab.core import IGNORE, TokenBatch
from trimtab.models.forward import ObjectiveCall, add_objective_forward
from trimtab.signals.frozen import FrozenModel

SHAPES = {
    "policy": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "teacher": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
}
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
METHODS = ("sft", "kd", "hpd", "grpo")
OVER_SFT = 1.5
"""promised: the step of a method without a teacher over that of SFT"""
SEED = 0


def model(shape: dict[str, int], vocab: int, device: torch.device) -> Any:
    torch.manual_seed(SEED)
    config = Qwen2Config(vocab_size=vocab, num_key_value_heads=2, tie_word_embeddings=True, use_cache=False, **shape)
    with device:
        return AutoModelForCausalLM.from_config(config)


class Step:
    """One method, its models and a batch."""

    def __init__(self, method: str, rows: int, length: int, quick: bool, device: torch.device):
        vocab = 512 if quick else 151936
        self.device, self.rows = device, rows
        self.policy = model(TINY if quick else SHAPES["policy"], vocab, device).train()
        add_objective_forward(self.policy)
        self.policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=1e-6)
        given = {}
        if method in ("kd", "hpd"):
            frozen = model(TINY if quick else SHAPES["teacher"], vocab, device).to(torch.bfloat16)
            given["teacher"] = FrozenModel(frozen, name="teacher", reads="distribution")
        made = methods.load(method)
        self.plan = made.build(made.config(), self.policy, **given)
        self.ids = torch.randint(vocab, (rows, length), device=device)
        self.labels = self.ids.clone()
        self.labels[:, : length // 2] = IGNORE
        self.mask = torch.ones_like(self.ids)
        self.row_id = torch.arange(rows, device=device)

    def signals(self) -> dict[str, Any]:
        inputs = {"input_ids": self.ids, "attention_mask": self.mask, "labels": self.labels, "row_id": self.row_id}
        found: dict[str, Any] = {}
        for signal in self.plan.signals:
            found |= signal(self.policy, inputs)
        number = len(TokenBatch.from_labels(self.labels))
        constants = {"advantages": 0.5, "old": -8.0, "reference": -8.0}
        for name in self.plan.objective.needs - found.keys():
            found[name] = torch.full((number,), constants[name], device=self.device)
        return found

    def __call__(self) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            call = ObjectiveCall(
                self.plan.objective, self.labels, self.signals(), self.row_id, reduction=self.plan.reduction
            )
            output = self.policy(input_ids=self.ids, attention_mask=self.mask, objective_call=call)
        output.loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return output.loss.detach()


def measured(method: str, rows: int, length: int, quick: bool, device: str, repeats: int) -> dict[str, Any]:
    step = Step(method, rows, length, quick, torch.device(device))
    timing = alternate({method: step}, repeats, 0.0 if quick else 5.0)[method]
    used = peak_bytes(step)
    loss = float(step())
    assert loss == loss, "the loss is not a number"
    answers = int((step.labels != IGNORE).sum())
    return {"method": method, "time": timing.record(), "answer_tokens": answers, "memory_mib": round(used / MIB, 1)}


def judged(cells: list[dict[str, Any]]) -> list[Target]:
    seconds = {cell["method"]: cell["time"]["seconds"] for cell in cells}
    found = seconds["grpo"] / seconds["sft"] if {"sft", "grpo"} <= seconds.keys() and seconds["sft"] else None
    return [Target("time of grpo's update over sft", OVER_SFT, found)]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--rows", type=int)
    made.add_argument("--length", type=int)
    made.add_argument("--budget", type=float, default=float("inf"), help="seconds, after which nothing more begins")
    args = made.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: torch sees no GPU here; --device cpu --quick tries the script")
    rows, length = args.rows or (2 if args.quick else 4), args.length or (32 if args.quick else 2048)
    if args.device == "cuda":
        torch.cuda.init()
    args.results_dir = args.results_dir / card(args.device) if not args.quick else args.results_dir
    result = {"signature": signature(), "rows": rows, "length": length, "dtype": "bfloat16", "cells": []}
    started, path = time.monotonic(), None
    for method in METHODS:
        if time.monotonic() - started > args.budget:
            tell(f"{method}: not run, the budget is spent")
            continue
        tell(method)
        run = partial(measured, method, rows, length, args.quick, args.device, args.repeats or 3)
        try:
            result["cells"].append(in_fresh_process(run))
        except MemoryError as error:
            result["cells"].append({"method": method, "skipped": str(error)})
        targets = judged([] if args.quick else [cell for cell in result["cells"] if "time" in cell])
        path = write("gpu_steps", args, result, targets)
    lines = [
        [
            cell["method"],
            cell.get("skipped") or cell["time"]["seconds"],
            cell.get("answer_tokens"),
            cell.get("memory_mib"),
        ]
        for cell in result["cells"]
    ]
    print(table(["method", "s", "answer tokens", "peak MiB beside weights"], lines), "\n")
    print(*targets, path.name if path else "nothing was measured", sep="\n")


if __name__ == "__main__":
    main()
