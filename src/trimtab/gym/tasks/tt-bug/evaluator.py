"""Values and gradients of the submitted losses on hidden batches, against those of trimtab's own objectives."""

import json
from dataclasses import replace
from typing import Any

from trimtab.gym.judging import JudgedRun, Rejected, Submitted

SECONDS, LIMIT = 60.0, 8 << 20
PLAIN, HARD = 0.8, 0.2
SEEDS = {"public": 1000, "private": 2000}
NAMES = ("sft", "distil", "dpo")

WORKER = """
import json, sys, traceback
import torch

sys.path.insert(0, "outputs")
sys.modules["trimtab"] = None
import losses

torch.set_num_threads(1)
found = []
for case in json.load(open("cases.json")):
    dtype = getattr(torch, case["dtype"])
    tensors = [torch.tensor(one, dtype=dtype, requires_grad=True) for one in case["tensors"]]
    try:
        labels = torch.tensor(case["labels"])
        value = getattr(losses, case["name"])(*tensors, labels, *case["rest"])
        gradients = torch.autograd.grad(value, tensors, allow_unused=True)
        flat = [[] if one is None else one.float().flatten().tolist() for one in gradients]
        found.append({"value": float(value), "gradients": flat})
    except Exception:
        found.append({"error": traceback.format_exc().strip().rpartition("\\n")[2]})
json.dump(found, open("found.json", "w"))
"""


def validate(submitted: Submitted) -> dict[str, list[dict[str, Any]]]:
    submitted.text("outputs/losses.py", 1 << 20)
    made = submitted.module("cases.py")
    cases = {split: made.cases(NAMES, seed + submitted.seed) for split, seed in SEEDS.items()}
    found = _found(submitted, [one for split in cases for one in cases[split]])
    results = {}
    for split in cases:
        these, found = found[: len(cases[split])], found[len(cases[split]) :]
        right = [made.right(case, one) for case, one in zip(cases[split], these, strict=True)]
        results[split] = [{"name": "correct", "value": _value(cases[split], right)}]
    return results


def _value(cases: list[dict[str, Any]], right: list[bool]) -> float:
    total = 0.0
    for name in NAMES:
        by_kind = {
            hard: all(ok for case, ok in zip(cases, right, strict=True) if (case["name"], case["hard"]) == (name, hard))
            for hard in (False, True)
        }
        total += by_kind[False] * (PLAIN + HARD * by_kind[True]) / len(NAMES)
    return total


def _found(submitted: Submitted, cases: list[dict[str, Any]]) -> list[Any]:
    """What the submitted losses gave for each case. They run without trimtab."""
    given = {"cases.json": json.dumps(cases, default=lambda tensor: tensor.tolist()), "worker.py": WORKER}
    done = replace(submitted, readable=()).run(["python3", "worker.py"], SECONDS, given, ["found.json"])
    if "found.json" not in done.files:
        raise Rejected(f"outputs/losses.py gave no values: {_why(done)}")
    try:
        found = json.loads(done.files["found.json"]) if len(done.files["found.json"]) <= LIMIT else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or len(found) != len(cases):
        raise Rejected("outputs/losses.py gave no values that can be read")
    errors = [one["error"] for one in found if isinstance(one, dict) and isinstance(one.get("error"), str)]
    if len(errors) == len(found):
        raise Rejected(f"outputs/losses.py failed on every batch: {errors[0][:300]}")
    return found


def _why(done: JudgedRun) -> str:
    if done.ran.timed_out:
        return f"it took longer than {SECONDS:g} seconds"
    last = done.ran.error.decode(errors="replace").strip().rpartition("\n")[2]
    return last[:300] or f"it ended with {done.ran.code}"
