"""Held-out pairs are made here by a hidden key. Features and training run in a sandbox, which gets single replies in an
order that tells nothing, and no label; what comes back is one number for each.

So whatever scores replies there is within the rules, and nothing but better scores can be won by it.
"""

import json
import math
import random
from typing import Any

from trimtab.gym.judging import Rejected, Submitted

PAIRS = 1500
"""of each split"""
SECONDS = 60.0


def validate(submitted: Submitted) -> dict[str, list[dict[str, Any]]]:
    submitted.text("outputs/features.py", 200_000)
    key = f"{(submitted.hidden / 'key.txt').read_text().strip()} {submitted.seed}"
    make = submitted.module("hidden/pairs.py").pairs
    found = {split: make(f"{key} {split}", PAIRS, "heldout") for split in ("public", "private")}
    pairs = [pair for split in found.values() for pair in split]
    scores = scored(submitted, pairs, random.Random(key))
    wins = [float(good > bad) if good != bad else 0.5 for good, bad in scores]
    return {
        split: [{"name": "accuracy", "value": sum(wins[at : at + PAIRS]) / PAIRS}]
        for split, at in (("public", 0), ("private", PAIRS))
    }


def scored(submitted: Submitted, pairs: list[dict[str, str]], draw: random.Random) -> list[tuple[float, float]]:
    """Scores of the chosen and of the rejected reply of each pair."""
    replies = [{"prompt": pair["prompt"], "response": pair[name]} for pair in pairs for name in ("chosen", "rejected")]
    order = draw.sample(range(len(replies)), len(replies))
    given = {
        "train.py": submitted.task / "workspace" / "train.py",
        "pairs.jsonl": submitted.task / "workspace" / "pairs.jsonl",
        "replies.jsonl": "".join(json.dumps(replies[at]) + "\n" for at in order),
    }
    command = ["python3", "train.py", "replies.jsonl", "scores.json"]
    done = submitted.run(command, SECONDS, given, ["scores.json"])
    if done.ran.timed_out:
        raise Rejected(f"training and scoring took more than {SECONDS:g} seconds")
    if done.ran.code != 0:
        last = done.ran.error.decode(errors="replace").strip().rpartition("\n")[2]
        raise Rejected(f"train.py with outputs/features.py ended with {done.ran.code}: {last[:300]}")
    values = numbers(done.files.get("scores.json", b""), len(replies))
    at = dict(zip(order, values))
    return [(at[place], at[place + 1]) for place in range(0, len(replies), 2)]


def numbers(text: bytes, wanted: int) -> list[float]:
    """So many finite numbers from what the sandbox has written."""
    try:
        found = json.loads(text)
        values = [float(one) for one in found] if isinstance(found, list) else []
    except (ValueError, TypeError, OverflowError, RecursionError):
        values = []
    if len(values) != wanted or not all(map(math.isfinite, values)):
        raise Rejected(f"there are not {wanted} finite scores for {wanted} replies")
    return values
