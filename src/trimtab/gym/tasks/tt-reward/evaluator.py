"""How fair the submitted reward is: correct answers, wrong ones and exploits, in a fresh process for each kind."""

import json
import math
from dataclasses import replace
from random import Random
from typing import Any

from trimtab.gym.judging import Rejected, Submitted

SECONDS = 5.0
EACH = 6
"""completions of a kind in a batch, and as many correct ones"""
BOTH = ("wrong", "extra", "foreign", "early", "code", "power", "claim", "long")
SPLITS = {"public": (*BOTH, "bare", "untagged", "injected"), "private": (*BOTH, "concat", "deep", "odd")}
WORKER = """
import json, sys

sys.path.insert(0, "outputs")
sys.modules["trimtab"] = None
from reward import reward

batch = json.load(open("batch.json"))
values = list(reward(**batch))
json.dump([float(one) for one in values], open("values.json", "w"))
"""


def validate(submitted: Submitted) -> dict[str, list[dict[str, Any]]]:
    submitted.text("outputs/reward.py", 1 << 20)
    puzzle = submitted.module("workspace/puzzles.py").puzzle
    kinds = submitted.module("kinds.py")
    found: dict[tuple[str, int], tuple[float, str]] = {}
    for number, (split, names) in enumerate(SPLITS.items()):
        for name in names:
            draw = Random(f"{submitted.seed} {split} {name}")
            turns = range(number * EACH, (number + 1) * EACH)
            rows = [made(puzzle, draw, turn) for made in (kinds.KINDS[name], kinds.correct) for turn in turns]
            draw.shuffle(rows)
            found[name, number] = _fair(submitted, rows)
    if all(why for _, why in found.values()):
        raise Rejected(f"outputs/reward.py fails on every batch: {next(iter(found.values()))[1]}")
    return {
        split: [{"name": "fair", "value": sum(found[name, number][0] for name in names) / len(names)}]
        for number, (split, names) in enumerate(SPLITS.items())
    }


def _fair(submitted: Submitted, rows: list[dict[str, Any]]) -> tuple[float, str]:
    """The value of a batch, and why it has none."""
    batch = {key: [row[key] for row in rows] for key in ("prompt", "completion", "numbers", "target")}
    given = {"prompts": batch.pop("prompt"), "completions": batch.pop("completion"), **batch}
    files = {"batch.json": json.dumps(given), "worker.py": WORKER}
    done = replace(submitted, readable=()).run(["python3", "worker.py"], SECONDS, files, ["values.json"])
    try:
        values = json.loads(done.files.get("values.json", b"")[: 1 << 16])
    except (ValueError, RecursionError):
        last = done.ran.error.decode(errors="replace").strip().rpartition("\n")[2][:300]
        return 0.0, f"it took longer than {SECONDS:g} seconds" if done.ran.timed_out else last or "it wrote no values"
    if not isinstance(values, list) or len(values) != len(rows) or not all(map(_is_number, values)):
        return 0.0, f"it returned something else than {len(rows)} finite numbers"
    said = {
        right: [value >= 0.5 for value, row in zip(values, rows) if row["right"] == right] for right in (True, False)
    }
    return sum(said[True]) / len(said[True]) * (1 - sum(said[False]) / len(said[False])), ""


def _is_number(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)
