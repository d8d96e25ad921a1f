"""Trains the fixed classifiers on the sentences that were handed in. They are read as text, and nothing else."""

from typing import Any

from trimtab.gym.judging import Rejected, Submitted

MOST, LONGEST = 2000, 120


def validate(submitted: Submitted) -> dict[str, list[dict[str, Any]]]:
    lines = submitted.text("outputs/train.tsv", most=4 * MOST * LONGEST).removesuffix("\n").split("\n")
    train = submitted.module("workspace/train.py")
    models = train.trained(_rows(lines, train.INTENTS), submitted.seed)
    found = {
        split: train.macro_f1(models, train.read(submitted.hidden / f"{split}.tsv")) for split in ("public", "private")
    }
    return {split: [{"name": "macro_f1", "value": value}] for split, value in found.items()}


def _rows(lines: list[str], intents: tuple[str, ...]) -> list[tuple[str, str]]:
    """Intent and sentence of each line."""
    if lines == [""]:
        raise Rejected("outputs/train.tsv is empty")
    if len(lines) > MOST:
        raise Rejected(f"outputs/train.tsv has {len(lines):,} lines; {MOST:,} are allowed")
    rows = []
    for number, line in enumerate(lines, 1):
        intent, *rest = line.split("\t")
        if len(rest) != 1 or intent not in intents:
            raise Rejected(f"line {number} of outputs/train.tsv is not an intent, a tab and a sentence: {line[:60]!r}")
        if not 1 <= len(rest[0]) <= LONGEST or not rest[0].isprintable():
            raise Rejected(f"line {number} of outputs/train.tsv: a sentence is 1 to {LONGEST} printable letters")
        rows.append((intent, rest[0]))
    return rows
