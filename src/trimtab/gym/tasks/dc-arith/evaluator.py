"""Runs the generator in a sandbox, and trains the fixed model on its lines here."""

import json
import re
from typing import Any

from trimtab.gym.judging import Rejected, Submitted

MOST, LONGEST = 20_000, 40
PAIRS = 500
SECONDS = 60.0
QUESTION = re.compile(r"(?=([0-9]{3}[+][0-9]{3}=))")
"""wherever it is in a line"""


def validate(submitted: Submitted) -> dict[str, list[dict[str, Any]]]:
    ones_first = _format(submitted)
    lines = _lines(submitted)
    key = (submitted.hidden / "key.txt").read_text().strip()
    train = submitted.module("workspace/train.py")
    pairs = {split: train.drawn(PAIRS, f"{key} {split}") for split in ("public", "private")}
    asked = {train.question(pair) for found in pairs.values() for pair in found}
    lines = [line for line in lines if asked.isdisjoint(QUESTION.findall(line))]
    if not lines:
        raise Rejected("outputs/generate.py wrote nothing but sums that are asked for")
    model = train.trained(lines, submitted.seed)
    found = {split: train.exact_match(model, ones, ones_first) for split, ones in pairs.items()}
    return {split: [{"name": "exact_match", "value": value}] for split, value in found.items()}


def _format(submitted: Submitted) -> bool:
    """Whether sums are written from their ones on."""
    text = submitted.text("outputs/format.json", most=1000)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise Rejected("outputs/format.json is no JSON") from None
    if not isinstance(found, dict) or list(found) != ["ones_first"] or not isinstance(found["ones_first"], bool):
        raise Rejected('outputs/format.json must be {"ones_first": true} or {"ones_first": false}')
    return found["ones_first"]


def _lines(submitted: Submitted) -> list[str]:
    """What the generator writes to lines.txt."""
    submitted.path("outputs/generate.py")
    done = submitted.run(["python3", "outputs/generate.py", str(submitted.seed)], SECONDS, wanted=["lines.txt"])
    if done.ran.timed_out:
        raise Rejected(f"outputs/generate.py took longer than {SECONDS:g} seconds")
    if done.ran.code != 0:
        last = done.ran.error.decode(errors="replace").strip().rpartition("\n")[2][:300]
        raise Rejected(f"outputs/generate.py ended with {done.ran.code}: {last}")
    data = done.files.get("lines.txt", b"")
    if not data.strip():
        raise Rejected("outputs/generate.py wrote no lines.txt, or an empty one")
    if len(data) > MOST * (LONGEST + 1):
        raise Rejected(f"lines.txt has {len(data):,} bytes; {MOST * (LONGEST + 1):,} are allowed")
    return _checked(data, submitted.module("workspace/train.py").LETTERS)


def _checked(data: bytes, letters: str) -> list[str]:
    strange = sorted(set(data.decode(errors="replace")) - set(letters))
    if strange:
        raise Rejected(f"lines.txt holds {strange[0]!r}; letters are {letters[1:]!r}")
    lines = data.decode().removesuffix("\n").split("\n")
    if len(lines) > MOST:
        raise Rejected(f"lines.txt has {len(lines):,} lines; {MOST:,} are allowed")
    for number, line in enumerate(lines, 1):
        if not 1 <= len(line) <= LONGEST:
            raise Rejected(f"line {number} of lines.txt has {len(line)} letters; 1 to {LONGEST} are allowed")
    return lines
